//! What is wrong with a container, compared with what it has to be: pure.

use crate::docker::{Condition, Reach};

/// What keeps an instance from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Illness {
    /// There is no container of its name.
    Missing,
    /// The container of its name is one that an update has replaced.
    Outdated,
    /// Its process ended for good, or never ran.
    Ended,
    /// Its process is frozen.
    Paused,
    /// Its process ends, and dockerd starts it again, and again.
    Crashing,
    /// Its image's health check fails.
    Unhealthy,
    /// It is on no network, or does not publish its ports.
    Detached,
    /// It cannot be used any more: it is being removed, or was removed halfway.
    Dead,
}

impl Illness {
    /// For people. `exit_code` is that of the last time; `often`: not for the first time.
    pub(super) fn sentence(self, exit_code: i64, often: bool) -> String {
        match self {
            Self::Missing => "its container is missing; it is made again".to_owned(),
            Self::Outdated => "its container is an old one; it is made again".to_owned(),
            Self::Ended => {
                format!("its container has ended with exit code {exit_code}; it is started again")
            }
            Self::Paused => "its container is paused; it is resumed".to_owned(),
            Self::Crashing if !often => format!(
                "its container has ended with exit code {exit_code}; the Docker engine starts it \
                 again"
            ),
            Self::Crashing => format!(
                "its container ends again and again, the last time with exit code {exit_code}; \
                 the Docker engine starts it again"
            ),
            Self::Unhealthy => {
                "the health check of its container fails; it is started again".to_owned()
            }
            Self::Detached => "its container has lost its network or its published ports; it is \
                               made again"
                .to_owned(),
            Self::Dead => "its container was removed halfway; it is made again".to_owned(),
        }
    }
}

/// What is wrong with a container of this generation that is like this, if anything is.
pub(super) fn diagnose(
    (generation, condition, reach): (i64, Condition, &Reach),
    wanted: i64,
    ports: impl IntoIterator<Item = u16>,
) -> Option<Illness> {
    if generation != wanted {
        return Some(Illness::Outdated);
    }
    match condition {
        Condition::Running => {
            let published = ports.into_iter().all(|port| reach.ports.contains(&port));
            (!reach.networked || !published).then_some(Illness::Detached)
        }
        Condition::Unhealthy => Some(Illness::Unhealthy),
        Condition::Paused => Some(Illness::Paused),
        Condition::Restarting => Some(Illness::Crashing),
        Condition::Created | Condition::Ended => Some(Illness::Ended),
        Condition::Removing => Some(Illness::Dead),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_well_when_it_runs_and_can_be_reached() {
        let whole = Reach { networked: true, ports: vec![20_001, 20_000] };
        let of = |generation, condition, reach: &Reach| {
            diagnose((generation, condition, reach), 2, [20_000, 20_001])
        };
        assert_eq!(of(2, Condition::Running, &whole), None);
        assert_eq!(of(1, Condition::Running, &whole), Some(Illness::Outdated));
        let half = Reach { ports: vec![20_000], ..whole.clone() };
        assert_eq!(of(2, Condition::Running, &half), Some(Illness::Detached));
        let alone = Reach { networked: false, ..whole.clone() };
        assert_eq!(of(2, Condition::Running, &alone), Some(Illness::Detached));
        // Without a process nothing is published.
        assert_eq!(of(2, Condition::Ended, &Reach::default()), Some(Illness::Ended));
        assert_eq!(of(2, Condition::Created, &Reach::default()), Some(Illness::Ended));
        assert_eq!(of(2, Condition::Restarting, &Reach::default()), Some(Illness::Crashing));
        assert_eq!(of(2, Condition::Paused, &whole), Some(Illness::Paused));
        assert_eq!(of(2, Condition::Unhealthy, &whole), Some(Illness::Unhealthy));
        assert_eq!(of(2, Condition::Removing, &Reach::default()), Some(Illness::Dead));
    }
}
