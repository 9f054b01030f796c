//! When to stop, and how long stopping may take.

use std::{io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

/// From the signal to the end of the process. bpm and monit kill after 20 s.
pub const BUDGET: Duration = Duration::from_secs(15);
/// What requests get of it.
pub const REQUESTS: Duration = Duration::from_secs(6);
/// What running operations get of it.
pub const OPERATIONS: Duration = Duration::from_secs(12);

/// Returns at SIGTERM or SIGINT, with its name.
///
/// # Errors
/// When the system refuses to deliver signals.
pub async fn requested() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
