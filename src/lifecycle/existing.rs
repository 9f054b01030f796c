//! Plans on a container that somebody else has made (`container: {existing: NAME}`).
//!
//! It is only looked at: nothing here or elsewhere creates, stops, renames or removes it. Its
//! ports belong to whoever made it, so they are read whenever they are needed, never stored.

use std::collections::BTreeMap;

use super::{
    Broker, Refusal,
    error::{Failure, InternalError},
    instance::Instance,
    retry::while_unreachable,
    work::Context,
};
use crate::{
    catalog::{ContainerPlan, ContainerPort, InstanceId},
    docker::{DockerError, reachable},
    telemetry::Chain,
};

pub(super) type Ports = BTreeMap<ContainerPort, u16>;

/// Why an existing container cannot serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the container {0}, which the operator has to make, does not exist")]
    Missing(String),
    #[error("the container {0}, which the operator has to start, does not run")]
    Stopped(String),
    #[error("the container {0} does not publish the port {1} of this plan on the address {2}")]
    Unpublished(String, ContainerPort, std::net::IpAddr),
    #[error("the Docker engine cannot be asked for the container; ask the operator")]
    Docker(#[from] DockerError),
}

impl Broker {
    /// The ports of an existing container as they are now; `None` when the plan makes its own.
    pub(super) async fn existing_ports(
        &self,
        plan: &ContainerPlan,
    ) -> Result<Option<Ports>, Unusable> {
        let Some(name) = &plan.existing else { return Ok(None) };
        let found = self.docker.inspect(name).await?;
        let facts = found.ok_or_else(|| Unusable::Missing(name.clone()))?;
        if !facts.running {
            return Err(Unusable::Stopped(name.clone()));
        }
        let address = self.docker.publish_address();
        let mut ports = reachable(&facts.published, address);
        if let Some(port) = plan.expose_ports.iter().find(|port| !ports.contains_key(port)) {
            return Err(Unusable::Unpublished(name.clone(), *port, address));
        }
        if !plan.expose_ports.is_empty() {
            ports.retain(|port, _| plan.expose_ports.contains(port));
        }
        Ok(Some(ports))
    }

    /// Why a plan cannot make instances at the moment. While dockerd does not answer nothing is
    /// known; a provision waits for it.
    pub(super) async fn missing_container(&self, plan: &ContainerPlan) -> Option<String> {
        match self.existing_ports(plan).await {
            Ok(_) | Err(Unusable::Docker(_)) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// Takes the ports of the instance's existing container, as soon as dockerd answers.
    pub(super) async fn join_existing(
        &self,
        instance: &mut Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        let plan = &instance.definition.plan.container;
        let found = while_unreachable(&context.cancel, context.deadline, async || {
            match self.existing_ports(plan).await {
                Err(Unusable::Docker(error)) => Err(error),
                other => Ok(other),
            }
        });
        match found.await? {
            Ok(ports) => instance.ports = ports.unwrap_or_default(),
            Err(error) => return Err(Failure::because(error.to_string())),
        }
        Ok(())
    }

    /// Takes the ports of the instance's existing container for a hook, which says itself what is
    /// wrong if that does not run.
    pub(super) async fn take_ports(&self, instance: &mut Instance) {
        let found = self.existing_ports(&instance.definition.plan.container).await;
        if let Ok(Some(ports)) = found {
            instance.ports = ports;
        }
    }

    /// The ports that a binding shows, when they are not those in the store.
    pub(super) async fn ports_to_bind(
        &self,
        id: &InstanceId,
        plan_id: Option<&str>,
    ) -> Result<Option<Ports>, Refusal> {
        let offer = plan_id.and_then(|id| self.catalog.find_plan(id));
        // An instance stays in its container, also when its plan changes.
        if offer.is_some_and(|offer| offer.plan.container.existing.is_none()) {
            return Ok(None);
        }
        let Some(instance) = self.find(id.as_str()).await? else { return Ok(None) };
        match self.existing_ports(&instance.definition.plan.container).await {
            Ok(ports) => Ok(ports),
            Err(Unusable::Docker(error)) => Err(InternalError::from(error).into()),
            Err(error) => Err(Refusal::Unprocessable(error.to_string())),
        }
    }

    /// Says at the start which plans can make no instances.
    pub(super) async fn report_missing_containers(&self) {
        for offer in self.catalog.offers() {
            if let Err(error) = self.existing_ports(&offer.plan.container).await {
                tracing::error!(
                    service.name = offer.service.name,
                    plan.id = offer.plan.id,
                    plan.name = offer.plan.name,
                    reason = %Chain(&error),
                    "this plan makes no instances until its container is there"
                );
            }
        }
    }
}
