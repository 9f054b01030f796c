//! Copies of the store at intervals.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use super::{Broker, binding::timestamp};
use crate::{
    config::StoreBackup,
    store::{BackupError, back_up, list_backups, now},
    telemetry::Chain,
};

/// A start has other things to do.
const CALM: Duration = Duration::from_secs(10);
/// How soon a copy that failed is tried again, unless the interval is shorter.
const AGAIN: Duration = Duration::from_mins(1);

impl Broker {
    /// Copies the store in `data` at intervals, until the broker stops. The first copy comes when
    /// the newest that is there is old enough.
    pub async fn keep_backing_up(self: &Arc<Self>, data: &Path, settings: StoreBackup) {
        let mut pause = rest(data, settings.interval).max(settings.interval.min(CALM));
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let started = tokio::time::Instant::now();
            let outcome = copy(data.to_owned(), settings.keep).await;
            let failure = match outcome {
                Ok(path) => {
                    let duration_ms = u64::try_from(started.elapsed().as_millis());
                    tracing::info!(
                        file = %path.display(),
                        duration_ms = duration_ms.unwrap_or(u64::MAX),
                        "the store was copied"
                    );
                    None
                }
                Err(error) => {
                    tracing::error!(error, "the store cannot be copied; it is tried again");
                    Some(error)
                }
            };
            let failed = failure.is_some();
            *self.backup.lock().unwrap_or_else(PoisonError::into_inner) = failure;
            pause = if failed { settings.interval.min(AGAIN) } else { settings.interval };
        }
    }
}

/// How long to wait for the first copy.
fn rest(data: &Path, interval: Duration) -> Duration {
    let newest = list_backups(data).ok().and_then(|all| all.last().cloned());
    let age = newest.and_then(|path| {
        let made = std::fs::metadata(path).ok()?.modified().ok()?;
        SystemTime::now().duration_since(made).ok()
    });
    age.map_or(Duration::ZERO, |age| interval.saturating_sub(age))
}

async fn copy(data: PathBuf, keep: usize) -> Result<PathBuf, String> {
    // Without what file systems and shells take amiss: 20260301T120000Z.
    let moment: String =
        timestamp(now()).replace(".0Z", "Z").chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let work = move || back_up(&data, &moment, keep);
    let done: Result<PathBuf, BackupError> = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| "a task of the broker panicked".to_owned())?;
    done.map_err(|error| Chain(&error).to_string())
}
