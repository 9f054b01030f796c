//! What can go wrong with dockerd: a variant per failed verb.

use crate::catalog::ImageReference;

/// A failed request to dockerd.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// dockerd does not answer at all.
    #[error("the Docker engine at {url} cannot be reached")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why.
        #[source]
        source: bollard::errors::Error,
    },
    /// dockerd did not answer in time.
    #[error("the Docker engine did not {verb} {object} in time")]
    Timeout {
        /// What was asked.
        verb: &'static str,
        /// Of what.
        object: String,
    },
    /// A port is in use by somebody else on this host.
    #[error("a host port of {object} is in use by another process or container: {message}")]
    PortTaken {
        /// The container.
        object: String,
        /// dockerd's words.
        message: String,
    },
    /// The image is not there (any more).
    #[error("the image of {object} is missing: {message}")]
    ImageMissing {
        /// The container.
        object: String,
        /// dockerd's words.
        message: String,
    },
    /// A network that the container was to join is not there (any more).
    #[error("the network of {object} is missing: {message}")]
    NetworkMissing {
        /// The container.
        object: String,
        /// dockerd's words.
        message: String,
    },
    /// There is something of that name that is not ours.
    #[error("{object} exists already and does not belong to this broker")]
    Foreign {
        /// Container or network.
        object: String,
    },
    /// A program was to be run in a container that does not run.
    #[error("{object} does not run")]
    NotRunning {
        /// The container.
        object: String,
    },
    /// The image could not be pulled.
    #[error("cannot pull {image}: {message}")]
    Pull {
        /// The image.
        image: ImageReference,
        /// What happened, fit for operators and users.
        message: String,
    },
    /// Any other refusal.
    #[error("the Docker engine cannot {verb} {object}")]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// Of what.
        object: String,
        /// Why.
        #[source]
        source: bollard::errors::Error,
    },
    /// A file of the broker's own could not be used.
    #[error("cannot {verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl DockerError {
    /// Whether it may go away by itself soon: dockerd restarts, or is overloaded.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// Sorts a failure of `verb` on `object` out.
    pub(super) fn new(
        url: &str,
        verb: &'static str,
        object: &str,
        source: bollard::errors::Error,
    ) -> Self {
        use bollard::errors::Error;
        let object = object.to_owned();
        match source {
            Error::DockerResponseServerError { status_code, ref message } => {
                let text = message.to_ascii_lowercase();
                let taken = ["port is already allocated", "address already in use"];
                let message = message.trim().to_owned();
                if taken.iter().any(|known| text.contains(known)) {
                    Self::PortTaken { object, message }
                } else if status_code == 404 && text.contains("no such image") {
                    Self::ImageMissing { object, message }
                } else if status_code == 404 && text.contains("network") {
                    Self::NetworkMissing { object, message }
                } else {
                    Self::Refused { verb, object, source }
                }
            }
            Error::RequestTimeoutError => Self::Timeout { verb, object },
            Error::SocketNotFoundError(_)
            | Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. } => Self::Unreachable { url: url.to_owned(), source },
            source => Self::Refused { verb, object, source },
        }
    }
}

/// Whether a program could not be run because its container does not run (409), or is not there.
pub(super) fn not_running(error: &bollard::errors::Error) -> bool {
    matches!(status(error), Some(404 | 409))
}

/// The status code of a refusal.
pub(super) fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}
