//! Named steps at which tests kill the broker.
//!
//! In debug builds `DOCKER_BROKER_KILL_AT=<step>` makes the process kill itself (SIGKILL: no
//! destructor, no flush) when it reaches the step. Release builds do not look.

/// A point between two side effects of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the name says after which step")]
pub enum Step {
    ProvisionAccepted,
    ProvisionImage,
    ProvisionDirectories,
    ProvisionCreated,
    ProvisionStarted,
    ProvisionReady,
    ProvisionHooked,
    ProvisionCommitted,
    ProvisionUndoing,
    ProvisionUndone,
    DeprovisionAccepted,
    DeprovisionHooked,
    DeprovisionStopped,
    DeprovisionRemoved,
    DeprovisionDirectories,
    DeprovisionCommitted,
    UpdateAccepted,
    UpdateStopped,
    UpdateRenamed,
    UpdateCopied,
    UpdateCopyKept,
    UpdateMigrating,
    UpdateMigrated,
    UpdateCreated,
    UpdateStarted,
    UpdateReady,
    UpdateCopySpent,
    UpdateHooked,
    UpdateCommitted,
    UpdateRollingBack,
    UpdateDataSetAside,
    UpdateDataBack,
    UpdateRolledBack,
    BindAccepted,
    BindUndoing,
    BindUndone,
    BindHooked,
    BindCommitted,
    UnbindAccepted,
    UnbindHooked,
    UnbindCommitted,
    KeysChanging,
    AdoptCommitted,
    AdoptRenamed,
    RecordDue,
    RecordWritten,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 46] = [
        Self::ProvisionAccepted,
        Self::ProvisionImage,
        Self::ProvisionDirectories,
        Self::ProvisionCreated,
        Self::ProvisionStarted,
        Self::ProvisionReady,
        Self::ProvisionHooked,
        Self::ProvisionCommitted,
        Self::ProvisionUndoing,
        Self::ProvisionUndone,
        Self::DeprovisionAccepted,
        Self::DeprovisionHooked,
        Self::DeprovisionStopped,
        Self::DeprovisionRemoved,
        Self::DeprovisionDirectories,
        Self::DeprovisionCommitted,
        Self::UpdateAccepted,
        Self::UpdateStopped,
        Self::UpdateRenamed,
        Self::UpdateCopied,
        Self::UpdateCopyKept,
        Self::UpdateMigrating,
        Self::UpdateMigrated,
        Self::UpdateCreated,
        Self::UpdateStarted,
        Self::UpdateReady,
        Self::UpdateCopySpent,
        Self::UpdateHooked,
        Self::UpdateCommitted,
        Self::UpdateRollingBack,
        Self::UpdateDataSetAside,
        Self::UpdateDataBack,
        Self::UpdateRolledBack,
        Self::BindAccepted,
        Self::BindUndoing,
        Self::BindUndone,
        Self::BindHooked,
        Self::BindCommitted,
        Self::UnbindAccepted,
        Self::UnbindHooked,
        Self::UnbindCommitted,
        Self::KeysChanging,
        Self::AdoptCommitted,
        Self::AdoptRenamed,
        Self::RecordDue,
        Self::RecordWritten,
    ];

    /// Name in the environment variable, for example `ProvisionCreated`.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Environment variable that names the step.
pub const VARIABLE: &str = "DOCKER_BROKER_KILL_AT";

/// Kills the process if it was told to die here.
#[cfg(debug_assertions)]
pub(super) fn reach(step: Step) {
    if std::env::var(VARIABLE).is_ok_and(|name| name == step.name()) {
        let me = rustix::process::getpid();
        if let Err(error) = rustix::process::kill_process(me, rustix::process::Signal::KILL) {
            tracing::error!(%error, "cannot kill this process for a test");
        }
    }
}

/// Release builds have no fault points.
#[cfg(not(debug_assertions))]
pub(super) fn reach(_: Step) {}
