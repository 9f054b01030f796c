//! How a container is, in one word, out of a listing or out of an inspection.

use std::{collections::HashMap, net::IpAddr};

use bollard::models::{
    ContainerState, ContainerSummary, EndpointSettings, HealthStatusEnum, PortSummary,
};

use super::published::is_on;

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Its process runs, and its health check, if it has one, does not say otherwise.
    Running,
    /// Its process runs, and its health check fails.
    Unhealthy,
    /// Its process is frozen.
    Paused,
    /// Its process ended, and dockerd is about to start it again.
    Restarting,
    /// It was made, and never started.
    Created,
    /// Its process ended for good.
    Ended,
    /// It is on its way out, or could not be removed completely.
    Removing,
}

/// What of a container can be reached from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// It is on a network.
    pub networked: bool,
    /// Host ports that it publishes on the broker's address, or on all addresses.
    pub ports: Vec<u16>,
}

fn of_word(word: &str, unhealthy: bool) -> Condition {
    match word {
        "running" if unhealthy => Condition::Unhealthy,
        "running" => Condition::Running,
        "paused" => Condition::Paused,
        "restarting" => Condition::Restarting,
        "created" => Condition::Created,
        "removing" | "dead" => Condition::Removing,
        _ => Condition::Ended,
    }
}

/// Out of a listing, where engines before 28 tell the health only in words for people.
pub(super) fn listed(summary: &ContainerSummary) -> Condition {
    let unhealthy = summary.status.as_deref().is_some_and(|text| text.ends_with("(unhealthy)"));
    let word = summary.state.map(|state| state.to_string()).unwrap_or_default();
    of_word(&word, unhealthy)
}

/// Out of an inspection.
pub(super) fn inspected(state: &ContainerState) -> Condition {
    let health = state.health.as_ref().and_then(|health| health.status);
    let word = state.status.map(|status| status.to_string()).unwrap_or_default();
    of_word(&word, health == Some(HealthStatusEnum::UNHEALTHY))
}

pub(super) fn listed_ports(ports: Option<&Vec<PortSummary>>, address: IpAddr) -> Vec<u16> {
    let on = |port: &&PortSummary| {
        let text = port.ip.as_deref().unwrap_or_default();
        text.is_empty() || text.parse().is_ok_and(|outer| is_on(outer, address))
    };
    ports.into_iter().flatten().filter(on).filter_map(|port| port.public_port).collect()
}

pub(super) fn is_networked(networks: Option<&HashMap<String, EndpointSettings>>) -> bool {
    networks.is_some_and(|networks| !networks.is_empty())
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerSummaryStateEnum as State;

    use super::*;

    #[test]
    fn a_listing_tells_how_a_container_is() {
        let of = |state, status: &str| {
            listed(&ContainerSummary {
                state: Some(state),
                status: Some(status.to_owned()),
                ..ContainerSummary::default()
            })
        };
        assert_eq!(of(State::RUNNING, "Up 2 minutes"), Condition::Running);
        assert_eq!(of(State::RUNNING, "Up 2 minutes (healthy)"), Condition::Running);
        assert_eq!(of(State::RUNNING, "Up 1 second (health: starting)"), Condition::Running);
        assert_eq!(of(State::RUNNING, "Up 2 minutes (unhealthy)"), Condition::Unhealthy);
        assert_eq!(of(State::PAUSED, "Up 2 minutes (Paused)"), Condition::Paused);
        assert_eq!(of(State::RESTARTING, "Restarting (1) 1 second ago"), Condition::Restarting);
        assert_eq!(of(State::EXITED, "Exited (137) 1 second ago"), Condition::Ended);
        assert_eq!(of(State::CREATED, "Created"), Condition::Created);
        assert_eq!(of(State::DEAD, "Dead"), Condition::Removing);
    }
}
