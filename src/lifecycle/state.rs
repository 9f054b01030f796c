//! The states of an instance, and which event leads from which to which.

use std::fmt;

/// State of an instance, stored as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// Being made.
    Provisioning,
    /// Usable.
    Ready,
    /// Being changed.
    Updating,
    /// Being removed.
    Deprovisioning,
    /// Could not be made; only its row, its ports and perhaps remains are there.
    ProvisionFailed,
    /// A change failed, and so did the way back, which is tried again.
    UpdateFailed,
    /// Could not be removed; what is left of it is still there.
    DeprovisionFailed,
}

/// Something that happens to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A provision of an id that exists is accepted anew.
    Provision,
    /// An update is accepted.
    Update,
    /// A deprovision is accepted.
    Deprovision,
    /// The running operation succeeded.
    Succeed,
    /// The running operation failed, and what was there before is intact.
    FailIntact,
    /// The running operation failed.
    Fail,
}

/// What an event means in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The instance changes to this state.
    To(InstanceState),
    /// The instance is gone.
    Gone,
    /// Refused: another operation runs.
    Busy,
    /// Refused: the instance is not in a state for that.
    Refused,
}

impl InstanceState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Provisioning,
        Self::Ready,
        Self::Updating,
        Self::Deprovisioning,
        Self::ProvisionFailed,
        Self::UpdateFailed,
        Self::DeprovisionFailed,
    ];

    /// As it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::Updating => "updating",
            Self::Deprovisioning => "deprovisioning",
            Self::ProvisionFailed => "provision failed",
            Self::UpdateFailed => "update failed",
            Self::DeprovisionFailed => "deprovision failed",
        }
    }

    /// The reverse of [`InstanceState::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// What `event` means in this state.
    #[must_use]
    pub fn on(self, event: Event) -> Transition {
        use Transition::{Busy, Gone, Refused, To};
        match (self, event) {
            (Self::ProvisionFailed, Event::Provision) => To(Self::Provisioning),
            (Self::Provisioning | Self::Updating | Self::Deprovisioning, Event::Update)
            | (Self::Updating | Self::Deprovisioning, Event::Deprovision | Event::Provision) => {
                Busy
            }
            (Self::Ready | Self::UpdateFailed, Event::Update) => To(Self::Updating),
            // OSB, "Deprovisioning": a deletion halts a creation.
            (
                Self::Provisioning
                | Self::Ready
                | Self::ProvisionFailed
                | Self::UpdateFailed
                | Self::DeprovisionFailed,
                Event::Deprovision,
            ) => To(Self::Deprovisioning),
            (Self::Provisioning | Self::Updating, Event::Succeed)
            | (Self::Updating, Event::FailIntact) => To(Self::Ready),
            (Self::Deprovisioning, Event::Succeed) => Gone,
            (Self::Provisioning, Event::Fail | Event::FailIntact) => To(Self::ProvisionFailed),
            (Self::Updating, Event::Fail) => To(Self::UpdateFailed),
            (Self::Deprovisioning, Event::Fail | Event::FailIntact) => To(Self::DeprovisionFailed),
            (
                Self::Provisioning | Self::Ready | Self::UpdateFailed | Self::DeprovisionFailed,
                Event::Provision,
            )
            | (Self::ProvisionFailed | Self::DeprovisionFailed, Event::Update)
            | (
                Self::Ready | Self::ProvisionFailed | Self::UpdateFailed | Self::DeprovisionFailed,
                Event::Succeed | Event::FailIntact | Event::Fail,
            ) => Refused,
        }
    }

    /// Whether applications use it, so that it is kept running.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Ready | Self::UpdateFailed)
    }

    /// Whether its directory is on its way out, or was never handed to a tenant: what of it is
    /// missing is not made again.
    #[must_use]
    pub fn is_without_directory(self) -> bool {
        matches!(self, Self::Deprovisioning | Self::DeprovisionFailed | Self::ProvisionFailed)
    }

    /// Whether an operation runs on it.
    #[must_use]
    pub fn is_busy(self) -> bool {
        matches!(self, Self::Provisioning | Self::Updating | Self::Deprovisioning)
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::{Event::*, InstanceState::*, Transition::*, *};

    #[test]
    fn every_state_and_event_has_the_outcome_of_this_table() {
        let events = [Provision, Update, Deprovision, Succeed, FailIntact, Fail];
        let table = [
            (
                Provisioning,
                [
                    Refused,
                    Busy,
                    To(Deprovisioning),
                    To(Ready),
                    To(ProvisionFailed),
                    To(ProvisionFailed),
                ],
            ),
            (Ready, [Refused, To(Updating), To(Deprovisioning), Refused, Refused, Refused]),
            (Updating, [Busy, Busy, Busy, To(Ready), To(Ready), To(UpdateFailed)]),
            (
                Deprovisioning,
                [Busy, Busy, Busy, Gone, To(DeprovisionFailed), To(DeprovisionFailed)],
            ),
            (
                ProvisionFailed,
                [To(Provisioning), Refused, To(Deprovisioning), Refused, Refused, Refused],
            ),
            (UpdateFailed, [Refused, To(Updating), To(Deprovisioning), Refused, Refused, Refused]),
            (DeprovisionFailed, [Refused, Refused, To(Deprovisioning), Refused, Refused, Refused]),
        ];
        assert_eq!(table.len(), InstanceState::ALL.len());
        for (state, outcomes) in table {
            for (event, outcome) in events.into_iter().zip(outcomes) {
                assert_eq!(state.on(event), outcome, "{state} on {event:?}");
            }
        }
    }

    #[test]
    fn an_instance_can_be_deleted_in_every_state_in_which_nothing_else_runs() {
        for state in InstanceState::ALL.into_iter().filter(|state| !state.is_busy()) {
            assert_eq!(state.on(Deprovision), To(Deprovisioning), "{state}");
            assert_eq!(InstanceState::parse(state.as_str()), Some(state));
        }
    }
}
