//! Why a request is refused: in terms of the platform and its users, with the cause apart.

use crate::{
    catalog::InvalidId, credentials::KeyError, disk::DiskError, docker::DockerError,
    store::StoreError,
};

/// A refused or failed request. `Display` is fit for users; causes are only in `source()`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request makes no sense, or does not fit the catalog.
    #[error("{0}")]
    Invalid(String),
    /// An id that cannot be accepted.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// There is no such instance or binding.
    #[error("{0}")]
    NotFound(String),
    /// There is no such instance or binding to delete.
    #[error("{0}")]
    Gone(String),
    /// The id is taken by something with other attributes.
    #[error("{0}")]
    Conflict(String),
    /// Another operation runs on the same resource (OSB `ConcurrencyError`).
    #[error("{0}")]
    Concurrency(String),
    /// The maintenance version is not the catalog's (OSB `MaintenanceInfoConflict`).
    #[error("{0}")]
    MaintenanceInfoConflict(String),
    /// The plan or the broker has no place left.
    #[error("{0}")]
    CapacityReached(String),
    /// The image of the plan cannot be had.
    #[error("{0}")]
    ImageUnavailable(String),
    /// The instance or its plan does not allow it.
    #[error("{0}")]
    Unprocessable(String),
    /// The operation that the request waited for failed.
    #[error("{0}")]
    OperationFailed(String),
    /// The broker is going down.
    #[error("the broker is stopping; the operation goes on after its next start")]
    Stopping,
    /// Something is wrong with the broker.
    #[error("the broker could not do this because of an internal error")]
    Internal(#[source] InternalError),
}

/// A fault of the broker's own, for its log.
#[derive(Debug, thiserror::Error)]
pub enum InternalError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// dockerd.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The secrets.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A row that does not make sense.
    #[error("the row of {what} is damaged: {why}")]
    Damaged {
        /// Of what.
        what: String,
        /// In which way.
        why: String,
    },
    /// What is in the store is not yet in the record beside the data.
    #[error(
        "the record of instance {0} could not be written (the log says why); it is tried again, at \
         the next start at the latest, and until then nothing of the instance is answered as \
         succeeded"
    )]
    Unrecorded(String),
    /// A shared container that is not removed for its last instance, as that may not be the last.
    #[error(
        "the shared container {host} may hold data of an instance that the store does not know \
         there: {why}; the store is older than the records, or was made without some: stop the \
         broker, move the store away and run docker-broker rebuild-store, or move that directory \
         away if it is not wanted; then delete the instance again"
    )]
    Stranger {
        /// Its id.
        host: String,
        /// What speaks for it.
        why: String,
    },
    /// A hook refused what was asked for.
    #[error("a hook refused the parameters (exit code 20)")]
    HookRefused,
    /// A task that panicked.
    #[error("a task of the broker panicked")]
    Panic,
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.into())
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        Self::Internal(error.into())
    }
}

impl From<InternalError> for Refusal {
    fn from(error: InternalError) -> Self {
        Self::Internal(error)
    }
}

/// How a running operation ends when it does not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The broker stops, or a deletion overtook it: the rows say how it goes on.
    Interrupted,
    /// It failed. `public` is fit for users.
    Failed {
        /// For users.
        public: String,
        /// For the log.
        cause: Option<InternalError>,
    },
}

impl Failure {
    pub(super) fn because(public: impl Into<String>) -> Self {
        Self::Failed { public: public.into(), cause: None }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        InternalError::from(error).into()
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        InternalError::from(error).into()
    }
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Self {
        InternalError::from(error).into()
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        InternalError::from(error).into()
    }
}

impl From<InternalError> for Failure {
    fn from(error: InternalError) -> Self {
        let public = match &error {
            InternalError::Docker(
                DockerError::Unreachable { .. } | DockerError::Timeout { .. },
            ) => "the Docker engine does not answer; ask the operator, then try again",
            InternalError::Docker(DockerError::PortTaken { .. }) => {
                "a port of the instance is in use on the host; ask the operator"
            }
            InternalError::Disk(_) => {
                "the instance's directory could not be used; ask the operator"
            }
            InternalError::Stranger { .. } => {
                "there may be another service instance in the shared container, of which the \
                 broker knows too little; ask the operator, then delete it again"
            }
            _ => "the broker could not do this because of an internal error; ask the operator",
        };
        Self::Failed { public: public.to_owned(), cause: Some(error) }
    }
}
