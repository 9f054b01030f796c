//! Logs: their set-up and the names of their fields.
//!
//! Field names, the same everywhere: `request.id`, `operation.id`, `instance.id`, `binding.id`,
//! `plan.id`, `service.name`, `container.name`, `image`, `duration_ms`, `error`. Levels are chosen
//! by who must act: `error` an operator, `warn` nobody yet, `info` tells the life of instances,
//! `debug` is for diagnosis. Never logged: credentials, parameters, `Authorization`, documents of
//! bindings.

use std::{error::Error, fmt};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Shows an error with all its causes on one line.
#[derive(Debug)]
pub struct Chain<'a, E: ?Sized>(pub &'a E);

impl<E: Error + ?Sized> fmt::Display for Chain<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        let mut last = self.0.to_string();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Transparent wrappers repeat their cause.
            if text != last {
                write!(f, ": {text}")?;
            }
            last = text;
            source = cause.source();
        }
        Ok(())
    }
}

/// A filter out of a level such as `info`, or of directives such as `info,docker_broker=debug`.
///
/// # Errors
/// A sentence when `level` is neither.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|error| format!("{level:?} is not understood: {error}"))
}

/// Sends logs to standard error.
///
/// # Errors
/// A sentence when `level` is no level or filter.
pub fn start(format: LogFormat, level: &str) -> Result<(), String> {
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    let outcome = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).with_target(false).try_init()
        }
    };
    outcome.map_err(|error| format!("logs cannot be started: {error}"))
}
