//! Steps that bring an instance's container up; shared by provision, update and recovery.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    Broker,
    certificates::tls_of,
    error::{Failure, InternalError},
    fault::{Step, reach},
    instance::{Instance, parameter_environment, port_map},
    retry::{FIRST_PAUSE, LONGEST_PAUSE, check, pause_for, while_unreachable},
    work::Context,
};
use crate::{
    catalog::{ContainerPort, Definition, Exchange, Readiness, ReadinessCheck},
    credentials::{redact, render_text},
    docker::{ContainerSpec, DockerError, ImageFacts, NotReady, spec},
    store::RowError,
};

/// How often a host port that turns out to be taken is replaced by the next one.
const PORT_ATTEMPTS: usize = 100;
/// How often a port that must stay the same is tried, 5 s apart.
const FIXED_PORT_ATTEMPTS: usize = 12;
/// Lines of a failed container's log that go to the broker's log.
const LOG_LINES: u32 = 20;

/// Fault points on the way up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Faults {
    pub(super) directories: Option<Step>,
    pub(super) created: Option<Step>,
    pub(super) started: Option<Step>,
}

impl Faults {
    pub(super) const NONE: Self = Self { directories: None, created: None, started: None };
}

/// The readiness check of an instance, with its credentials where the plan asks for them.
fn readiness_of(instance: &Instance) -> Result<Readiness, Failure> {
    let mut readiness = instance.definition.plan.container.readiness.clone();
    if let ReadinessCheck::Exchange(Exchange { send, tls, .. }) = &mut readiness.check {
        *send = render_text(send, &instance.private.secrets).map_err(|error| {
            Failure::because(format!("the readiness check of this plan: {error}"))
        })?;
        *tls &= tls_of(instance).is_some();
    }
    Ok(readiness)
}

fn reached(step: Option<Step>) {
    if let Some(step) = step {
        reach(step);
    }
}

impl Broker {
    pub(super) fn container_name(&self, instance_name: &str) -> String {
        spec::container_name(self.docker.owner(), instance_name)
    }

    /// The name of the container that serves an instance, whoever made it.
    pub(super) fn container_of(&self, instance: &Instance) -> String {
        let existing = instance.definition.plan.container.existing.clone();
        let name = instance.host.as_ref().map_or(&instance.row.name, |host| &host.name);
        existing.unwrap_or_else(|| self.container_name(name))
    }

    /// The container that an instance should have.
    pub(super) fn spec(&self, instance: &Instance) -> Result<ContainerSpec, Failure> {
        let definition = &instance.definition;
        let plan = &definition.plan;
        let parameters = parameter_environment(plan, &instance.private.parameters)
            .map_err(|refusal| Failure::because(refusal.to_string()))?;
        let adopted = instance.private.adopted.as_ref();
        Ok(spec::container_spec(spec::Inputs {
            owner: self.docker.owner(),
            instance_name: &instance.row.name,
            instance_id: &instance.row.id,
            generation: instance.row.generation,
            definition,
            legacy_environment: adopted.map(|from| from.environment.clone()).unwrap_or_default(),
            hostname: adopted.map(|from| from.hostname.clone()),
            secret_environment: instance.private.secrets.environment(plan),
            parameter_environment: parameters,
            ports: instance.ports.clone(),
            publish_address: self.docker.publish_address(),
            directories: self.disk.paths(&instance.row.name, &plan.container.volumes)?,
            certificate: tls_of(instance)
                .map(|_| self.disk.certificate_directory(&instance.row.name))
                .transpose()?,
        }))
    }

    /// The image of a plan, here now.
    pub(super) async fn require_image(
        &self,
        definition: &Definition,
        context: &Context,
    ) -> Result<ImageFacts, Failure> {
        let image = &definition.plan.container.image;
        let mut pause = FIRST_PAUSE;
        loop {
            check(&context.cancel)?;
            context.step("obtaining the image");
            // Dropping a pull in the middle leaves nothing behind.
            let error = tokio::select! {
                () = context.cancel.cancelled() => return Err(Failure::Interrupted),
                late = context.ended() => return Err(late),
                obtained = self.images.require(image) => match obtained {
                    Ok(facts) => return Ok(facts),
                    Err(error) => error,
                },
            };
            if !error.is_transient || Instant::now() + pause >= context.deadline {
                return Err(Failure::because(format!(
                    "the image of this plan cannot be obtained: {error}"
                )));
            }
            pause_for(&context.cancel, pause).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reserves the ports of the image, for plans that do not name theirs.
    pub(super) async fn require_ports(
        &self,
        instance: &mut Instance,
        image: &ImageFacts,
    ) -> Result<(), Failure> {
        let stated = &instance.definition.plan.container.expose_ports;
        let wanted = if stated.is_empty() { image.ports.clone() } else { stated.clone() };
        if wanted.iter().all(|port| instance.ports.contains_key(port)) {
            return Ok(());
        }
        let (id, range) = (instance.row.id.clone(), self.limits.host_ports);
        let reserved = self
            .store
            .write(move |rows| {
                if super::instance::reserve(rows, &id, &wanted, range)? {
                    Ok(Ok(rows.list_ports(&id)?))
                } else {
                    Ok(Err(()))
                }
            })
            .await?;
        let rows = reserved.map_err(|()| Failure::because("all host ports are in use"))?;
        instance.ports = port_map(&rows)?;
        Ok(())
    }

    pub(super) async fn has_directory(&self, instance_name: &str) -> Result<bool, InternalError> {
        let (disk, name) = (self.disk.clone(), instance_name.to_owned());
        let looked = tokio::task::spawn_blocking(move || disk.exists(&name)).await;
        Ok(looked.map_err(|_| InternalError::Panic)??)
    }

    /// Makes the directories of an instance.
    pub(super) async fn ensure_directories(&self, instance: &Instance) -> Result<(), Failure> {
        let disk = self.disk.clone();
        let name = instance.row.name.clone();
        let definition = Arc::clone(&instance.definition);
        let made = tokio::task::spawn_blocking(move || {
            disk.ensure(&name, &definition.plan.container.volumes)
        })
        .await
        .map_err(|_| Failure::from(InternalError::Panic))?;
        made?;
        Ok(())
    }

    /// Makes and starts the container of an instance and waits until its service answers.
    ///
    /// `fixed_ports`: clients know the ports, so one that is taken is a failure.
    pub(super) async fn bring_up(
        &self,
        instance: &mut Instance,
        fixed_ports: bool,
        faults: Faults,
        context: &Context,
    ) -> Result<(), Failure> {
        let name = self.container_name(&instance.row.name);
        self.require_certificate(instance).await?;
        let was_running = if tls_of(instance).is_some() {
            let inspect = || self.docker.inspect(&name);
            let found = while_unreachable(&context.cancel, context.deadline, inspect).await?;
            found.is_some_and(|facts| facts.running)
        } else {
            // It has nothing to take.
            true
        };
        reached(faults.directories);
        let mut attempts = 0;
        loop {
            match self.create_and_start(instance, faults, context).await {
                Ok(()) => break,
                Err(Failure::Failed {
                    cause: Some(InternalError::Docker(DockerError::PortTaken { message, .. })),
                    ..
                }) if !fixed_ports && attempts < PORT_ATTEMPTS => {
                    attempts += 1;
                    tracing::warn!(
                        instance.id = instance.row.id,
                        error = message,
                        "a host port is taken"
                    );
                    while_unreachable(&context.cancel, context.deadline, || {
                        self.docker.remove(&name, &instance.row.id)
                    })
                    .await?;
                    self.replace_ports(instance).await?;
                }
                // Clients know the port: it may be free again in a moment.
                Err(Failure::Failed {
                    cause: Some(InternalError::Docker(DockerError::PortTaken { message, .. })),
                    ..
                }) if attempts < FIXED_PORT_ATTEMPTS => {
                    attempts += 1;
                    tracing::warn!(
                        instance.id = instance.row.id,
                        error = message,
                        "a host port is taken"
                    );
                    pause_for(&context.cancel, LONGEST_PAUSE).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
        self.wait_until_ready(instance, context).await?;
        if !was_running {
            // It has started with its present certificate: there is nobody to tell of it.
            let safe = instance.row.name.clone();
            self.on_disk(move |disk| disk.clear_reload(&safe)).await?;
        }
        Ok(())
    }

    async fn create_and_start(
        &self,
        instance: &Instance,
        faults: Faults,
        context: &Context,
    ) -> Result<(), Failure> {
        check(&context.cancel)?;
        context.step("starting the container");
        let spec = self.spec(instance)?;
        let steps = async || {
            // A bound, because more at once only makes each of them slower. Held for one request,
            // not while dockerd is away. The semaphore is never closed.
            while_unreachable(&context.cancel, context.deadline, async || {
                let _permit = self.starts.acquire().await;
                self.docker.ensure_container(&spec).await
            })
            .await?;
            reached(faults.created);
            while_unreachable(&context.cancel, context.deadline, async || {
                let _permit = self.starts.acquire().await;
                self.docker.start(&spec.name).await
            })
            .await
        };
        let started = match steps().await {
            Err(Failure::Failed { cause: Some(InternalError::Docker(error)), .. })
                if self.mend(&error, instance, context).await? =>
            {
                steps().await
            }
            other => other,
        };
        started?;
        reached(faults.started);
        Ok(())
    }

    /// Puts back what somebody else has removed: whether another attempt makes sense.
    async fn mend(
        &self,
        error: &DockerError,
        instance: &Instance,
        context: &Context,
    ) -> Result<bool, Failure> {
        match error {
            DockerError::ImageMissing { .. } => {
                self.images.forget(&instance.definition.plan.container.image);
                self.require_image(&instance.definition, context).await?;
                Ok(true)
            }
            DockerError::NetworkMissing { .. } => {
                self.guard_container(instance, true, context).await?;
                self.docker.forget_network(&instance.row.id).await;
                self.remove_container(instance, context).await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Waits until the service of an instance answers.
    pub(super) async fn wait_until_ready(
        &self,
        instance: &Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        check(&context.cancel)?;
        context.step("waiting until the service answers");
        let name = self.container_of(instance);
        let readiness = &readiness_of(instance)?;
        let ports: Vec<ContainerPort> = instance.ports.keys().copied().collect();
        loop {
            let ready = tokio::select! {
                () = context.cancel.cancelled() => return Err(Failure::Interrupted),
                late = context.ended() => return Err(late),
                ready = self.docker.wait_ready(&name, readiness, &ports) => ready,
            };
            match ready {
                Ok(()) => return Ok(()),
                Err(NotReady::Docker(error))
                    if error.is_transient() && Instant::now() < context.deadline =>
                {
                    // Once dockerd answers again the service gets its full time.
                    while_unreachable(&context.cancel, context.deadline, || self.docker.ping())
                        .await?;
                }
                Err(NotReady::Docker(error)) => return Err(error.into()),
                Err(reason) => {
                    self.log_container(instance, &name).await;
                    return Err(Failure::because(format!("the service did not start: {reason}")));
                }
            }
        }
    }

    /// Whether the service of an instance answers within `limit`.
    pub(super) async fn answers(
        &self,
        instance: &Instance,
        context: &Context,
        limit: Duration,
    ) -> bool {
        let Ok(readiness) = readiness_of(instance) else { return false };
        let readiness = Readiness { timeout: limit, ..readiness };
        let name = self.container_of(instance);
        let container = &instance.definition.plan.container;
        let Ok(existing) = self.existing_ports(container).await else { return false };
        let ports = existing.as_ref().unwrap_or(&instance.ports).keys().copied();
        let ports: Vec<ContainerPort> = ports.collect();
        tokio::select! {
            () = context.cancel.cancelled() => false,
            ready = self.docker.wait_ready(&name, &readiness, &ports) => ready.is_ok(),
        }
    }

    /// What a failed container printed, for the operator, without the secrets that are known.
    async fn log_container(&self, instance: &Instance, name: &str) {
        match self.docker.log_tail(name, LOG_LINES).await {
            Ok(text) => {
                let parameters = instance.private.parameters.values().filter_map(Value::as_str);
                let known = instance.private.secrets.values().chain(parameters);
                let clean = redact(&text, known);
                tracing::warn!(
                    instance.id = instance.row.id,
                    container.name = name,
                    output = clean.trim(),
                    "last lines of the container"
                );
            }
            Err(error) => {
                tracing::warn!(instance.id = instance.row.id, %error, "its log cannot be read");
            }
        }
    }

    /// Gives up the ports of an instance that nobody knows yet, and reserves others.
    async fn replace_ports(&self, instance: &mut Instance) -> Result<(), Failure> {
        let id = instance.row.id.clone();
        let wanted: Vec<ContainerPort> = instance.ports.keys().copied().collect();
        let old: Vec<_> =
            instance.ports.iter().map(|(inner, port)| (inner.protocol, *port)).collect();
        let range = self.limits.host_ports;
        let reserved = self
            .store
            .write(move |rows| {
                for (protocol, port) in &old {
                    rows.release_port(protocol.as_str(), *port)?;
                }
                let enough = super::instance::reserve(rows, &id, &wanted, range)?;
                let ports = rows.list_ports(&id)?;
                Ok::<_, RowError>(if enough { Ok(ports) } else { Err(()) })
            })
            .await?;
        let rows = reserved.map_err(|()| Failure::because("all host ports are in use"))?;
        instance.ports = port_map(&rows)?;
        Ok(())
    }

    /// Removes the container of an instance, running or not.
    pub(super) async fn remove_container(
        &self,
        instance: &Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        let name = self.container_name(&instance.row.name);
        while_unreachable(&context.cancel, context.deadline, || {
            self.docker.remove(&name, &instance.row.id)
        })
        .await?;
        self.docker.leave_network(&instance.row.id).await;
        Ok(())
    }

    /// Removes the directory of an instance with all data in it.
    pub(super) async fn remove_directories(&self, instance: &Instance) -> Result<(), Failure> {
        let disk = self.disk.clone();
        let name = instance.row.name.clone();
        let removed = tokio::task::spawn_blocking(move || disk.remove(&name))
            .await
            .map_err(|_| Failure::from(InternalError::Panic))?;
        removed?;
        let adopted = instance.private.adopted.as_ref();
        self.remove_legacy_link(&instance.row.name, adopted).await
    }
}
