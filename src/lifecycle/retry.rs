//! How often something is tried again: the policies by name.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::error::Failure;
use crate::docker::DockerError;

pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Tries `request` again for as long as dockerd does not answer at all, until `deadline`.
///
/// # Errors
/// The last failure, or [`Failure::Interrupted`] when `cancel` came first.
pub(super) async fn while_unreachable<T, F>(
    cancel: &CancellationToken,
    deadline: Instant,
    mut request: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, DockerError>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        check(cancel)?;
        match request().await {
            Err(error) if error.is_transient() && Instant::now() + pause < deadline => {
                tracing::warn!(
                    error = %crate::telemetry::Chain(&error),
                    retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                    "the Docker engine does not answer"
                );
            }
            Err(error) => return Err(error.into()),
            Ok(value) => return Ok(value),
        }
        pause_for(cancel, pause).await?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sleeps, unless interrupted.
pub(super) async fn pause_for(cancel: &CancellationToken, pause: Duration) -> Result<(), Failure> {
    tokio::select! {
        () = cancel.cancelled() => Err(Failure::Interrupted),
        () = sleep(pause) => Ok(()),
    }
}

/// An operation may be interrupted between two steps, never inside one: a request that dockerd
/// has received would be carried out all the same.
pub(super) fn check(cancel: &CancellationToken) -> Result<(), Failure> {
    if cancel.is_cancelled() { Err(Failure::Interrupted) } else { Ok(()) }
}
