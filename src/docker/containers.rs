//! Containers: each verb is idempotent.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use bollard::{
    container::LogOutput,
    errors::Error,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerInspectResponse, ContainerUpdateBody, HealthStatusEnum},
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
        ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
        RenameContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
    },
};
use futures_util::StreamExt;

use super::{
    Condition, ContainerSpec, DockerError, Engine, Labels, Published, Reach,
    condition::{self, is_networked},
    convert::create_body,
    engine::{QUICK, SLOW},
    error::status,
    labels::SPEC,
    published::{published, reachable},
};
use crate::catalog::{ContainerPort, RestartPolicy};

/// Most that is kept of what a command printed.
const EXEC_OUTPUT_BYTES: usize = 64 << 10;

/// What dockerd says of one container.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "these are dockerd's own flags")]
pub struct ContainerFacts {
    /// dockerd's id.
    pub id: String,
    /// Name in Docker.
    pub name: String,
    /// dockerd's id of the image that it was made of.
    pub image_id: String,
    /// Its labels, if a broker made it or has adopted it.
    pub labels: Option<Labels>,
    /// Hash of the spec that it was made of.
    pub spec_hash: Option<String>,
    /// Its process runs.
    pub running: bool,
    /// It is paused.
    pub paused: bool,
    /// It ended and waits to be started again.
    pub restarting: bool,
    /// The same, and more, in a word.
    pub condition: Condition,
    /// What of it can be reached from outside.
    pub reach: Reach,
    /// Exit code of its process, if it has ended.
    pub exit_code: i64,
    /// How often dockerd has started it again.
    pub restart_count: i64,
    /// The kernel killed its process for want of memory.
    pub oom_killed: bool,
    /// Result of the image's health check; `None` without one.
    pub healthy: Option<bool>,
    /// Address on its bridge.
    pub address: Option<IpAddr>,
    /// Ports that it publishes; none while it does not run.
    pub published: Vec<Published>,
    /// Ports that it was made to publish, without those that Docker chooses at every start.
    pub fixed: Vec<Published>,
}

impl ContainerFacts {
    /// Whether these are its ports on this address of the host now, or will be when it is started.
    #[must_use]
    pub fn has_ports(&self, ports: &BTreeMap<ContainerPort, u16>, address: IpAddr) -> bool {
        let known = reachable(if self.running { &self.published } else { &self.fixed }, address);
        ports.iter().all(|(inner, outer)| known.get(inner) == Some(outer))
    }

    /// Whether this is what [`Engine::ensure_container`] would make. An adopted one has no hash: it
    /// is what this generation of the instance is, unless Docker was left to choose its ports, and
    /// has chosen others.
    #[must_use]
    pub fn is_wanted(&self, spec: &ContainerSpec) -> bool {
        let is_ours = |labels: &&Labels| {
            labels.owner == spec.labels.owner && labels.instance_id == spec.labels.instance_id
        };
        let Some(labels) = self.labels.as_ref().filter(is_ours) else { return false };
        match &self.spec_hash {
            Some(hash) => *hash == spec.hash(),
            None => {
                labels.generation == spec.labels.generation
                    && self.has_ports(&spec.ports, spec.publish_address)
            }
        }
    }
}

/// A container of this broker, out of a listing.
#[derive(Debug, Clone)]
pub struct OwnedContainer {
    /// Name in Docker.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// How it is.
    pub condition: Condition,
    /// What of it can be reached from outside.
    pub reach: Reach,
    /// Id (or name) of the network that it is on.
    pub network: Option<String>,
}

impl Engine {
    /// Makes the container, unless one of that name and of this spec is there already.
    ///
    /// # Errors
    /// [`DockerError::Foreign`] when the name belongs to somebody else;
    /// [`DockerError::ImageMissing`]; any other [`DockerError`].
    pub async fn ensure_container(&self, spec: &ContainerSpec) -> Result<(), DockerError> {
        if self.create(spec).await? {
            return Ok(());
        }
        // The name is taken: by an earlier attempt of ours, or by somebody else.
        let Some(found) = self.inspect(&spec.name).await? else {
            return self.create(spec).await.map(|_| ());
        };
        match &found.labels {
            Some(labels)
                if labels.owner == self.owner()
                    && labels.instance_id == spec.labels.instance_id =>
            {
                if found.is_wanted(spec) {
                    return Ok(());
                }
                // Its clients may have written to it: it ends as gently as any other.
                self.stop(&spec.name, spec.stop_timeout).await?;
                self.remove_own(&spec.name).await?;
                self.create(spec).await.map(|_| ())
            }
            _ => Err(DockerError::Foreign { object: format!("a container named {}", spec.name) }),
        }
    }

    /// Whether it was made; `false` when the name is taken.
    async fn create(&self, spec: &ContainerSpec) -> Result<bool, DockerError> {
        let network = self.networks.assign(self, &spec.labels.instance_id).await?;
        self.create_on(spec, &spec.name, &network).await
    }

    /// Likewise under a name that is not (yet) the spec's, on this network.
    pub(super) async fn create_on(
        &self,
        spec: &ContainerSpec,
        name: &str,
        network: &str,
    ) -> Result<bool, DockerError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let request = async |docker: &bollard::Docker| match docker
            .create_container(Some(options), create_body(spec, network))
            .await
        {
            Err(error) if status(&error) == Some(409) => Ok(false),
            other => other.map(|_| true),
        };
        self.call("create", &object(name), SLOW, request).await
    }

    /// Starts a container; a running one is fine.
    ///
    /// # Errors
    /// [`DockerError::PortTaken`] when a host port is in use; any other [`DockerError`].
    pub async fn start(&self, name: &str) -> Result<(), DockerError> {
        let request = async |docker: &bollard::Docker| {
            docker.start_container(name, None::<StartContainerOptions>).await
        };
        self.call("start", &object(name), SLOW, request).await
    }

    /// Stops a container: SIGTERM (or the image's signal), and SIGKILL after `grace`. One that is
    /// stopped or gone is fine.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn stop(&self, name: &str, grace: Duration) -> Result<(), DockerError> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let request =
            async |docker: &bollard::Docker| match docker.stop_container(name, Some(options)).await
            {
                Err(error) if status(&error) == Some(404) => Ok(()),
                other => other,
            };
        self.call("stop", &object(name), SLOW + grace, request).await
    }

    /// Lets a paused container go on; one that is not paused is fine.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn unpause(&self, name: &str) -> Result<(), DockerError> {
        let request = async |docker: &bollard::Docker| docker.unpause_container(name).await;
        match self.call("unpause", &object(name), QUICK, request).await {
            Err(error) if self.inspect(name).await?.is_some_and(|facts| facts.paused) => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends a signal to the process of a running container.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn signal(&self, name: &str, signal: &str) -> Result<(), DockerError> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        let request =
            async |docker: &bollard::Docker| docker.kill_container(name, Some(options)).await;
        self.call("signal", &object(name), QUICK, request).await
    }

    /// Removes the container of an instance with its anonymous volumes. One that is gone is fine;
    /// one of that name that is somebody else's is left alone.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn remove(&self, name: &str, instance_id: &str) -> Result<(), DockerError> {
        if self.owns(name, instance_id).await? { self.remove_own(name).await } else { Ok(()) }
    }

    /// Removes a container that [`Engine::owns`] has just said to be ours.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn remove_own(&self, name: &str) -> Result<(), DockerError> {
        let options = || RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let request = async |docker: &bollard::Docker| {
            match docker.remove_container(name, Some(options())).await {
                Err(error) if status(&error) == Some(404) => Ok(()),
                // Somebody else is removing it: wait for them, not for the next request.
                Err(error) if is_being_removed(&error) => gone(docker, name).await,
                other => other,
            }
        };
        self.call("remove", &object(name), SLOW, request).await
    }

    /// Renames a container; it is fine when it has the new name already.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), DockerError> {
        let options = RenameContainerOptionsBuilder::new().name(to).build();
        let request = async |docker: &bollard::Docker| docker.rename_container(from, options).await;
        match self.call("rename", &object(from), QUICK, request).await {
            Err(error) if self.inspect(from).await?.is_some() => Err(error),
            _ => Ok(()),
        }
    }

    /// What dockerd says of a container; `None` when there is none of that name.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn inspect(&self, name: &str) -> Result<Option<ContainerFacts>, DockerError> {
        let request = async |docker: &bollard::Docker| match docker
            .inspect_container(name, None::<InspectContainerOptions>)
            .await
        {
            Err(error) if status(&error) == Some(404) => Ok(None),
            other => other.map(Some),
        };
        let found = self.call("inspect", &object(name), QUICK, request).await?;
        Ok(found.map(|found| facts(found, self.publish_address())).map(|facts| ContainerFacts {
            labels: facts.labels.or_else(|| self.adopted_labels(&facts.id)),
            ..facts
        }))
    }

    /// Which generation the container of this name is, if it is one of this instance.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn generation(
        &self,
        name: &str,
        instance_id: &str,
    ) -> Result<Option<i64>, DockerError> {
        let labels = self.inspect(name).await?.and_then(|facts| facts.labels);
        let ours = labels
            .filter(|labels| labels.owner == self.owner() && labels.instance_id == instance_id);
        Ok(ours.map(|labels| labels.generation))
    }

    /// Whether there is a container of this name and it is the one of this instance.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn owns(&self, name: &str, instance_id: &str) -> Result<bool, DockerError> {
        Ok(self.generation(name, instance_id).await?.is_some())
    }

    /// Tells dockerd whether it may start a container by itself.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn set_restart(&self, name: &str, policy: &RestartPolicy) -> Result<(), DockerError> {
        let body = || ContainerUpdateBody {
            restart_policy: Some(super::convert::restart(policy)),
            ..ContainerUpdateBody::default()
        };
        let request = async |docker: &bollard::Docker| docker.update_container(name, body()).await;
        self.call("update", &object(name), QUICK, request).await
    }

    /// All containers of this broker, running or not.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn list_owned(&self) -> Result<Vec<OwnedContainer>, DockerError> {
        let filters = HashMap::from([("label", vec![self.label_filter()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let request = async |docker: &bollard::Docker| docker.list_containers(Some(options)).await;
        let listed = self.call("list", "containers", SLOW, request).await?;
        let owned = listed.into_iter().filter_map(|summary| {
            let condition = condition::listed(&summary);
            let ports = condition::listed_ports(summary.ports.as_ref(), self.publish_address());
            let networks = summary.network_settings?.networks;
            let labels = Labels::from_map(&summary.labels?);
            let labels = labels.or_else(|| self.adopted_labels(&summary.id?))?;
            if labels.owner != self.owner() {
                return None;
            }
            Some(OwnedContainer {
                name: summary.names?.first()?.trim_start_matches('/').to_owned(),
                labels,
                condition,
                reach: Reach { networked: is_networked(networks.as_ref()), ports },
                network: networks.into_iter().flatten().next().map(|(name, endpoint)| {
                    endpoint.network_id.filter(|id| !id.is_empty()).unwrap_or(name)
                }),
            })
        });
        Ok(owned.collect())
    }

    /// Runs a command in a container, with these `NAME=value` besides the container's own
    /// environment; exit code and the end of what it printed.
    ///
    /// # Errors
    /// [`DockerError`], also when it takes longer than `limit`.
    pub async fn exec(
        &self,
        name: &str,
        command: &[String],
        environment: &[String],
        limit: Duration,
    ) -> Result<(i64, String), DockerError> {
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            env: Some(environment.to_vec()),
            ..CreateExecOptions::default()
        };
        let request = async |docker: &bollard::Docker| {
            let id = docker.create_exec(name, options).await?.id;
            let mut text = Vec::new();
            if let StartExecResults::Attached { mut output, .. } =
                docker.start_exec(&id, None).await?
            {
                while let Some(chunk) = output.next().await {
                    text.extend_from_slice(&chunk?.into_bytes());
                    let surplus = text.len().saturating_sub(EXEC_OUTPUT_BYTES);
                    text.drain(..surplus);
                }
            }
            let code = docker.inspect_exec(&id).await?.exit_code.unwrap_or(-1);
            Ok((code, String::from_utf8_lossy(&text).into_owned()))
        };
        self.call("run a command in", &object(name), limit, request).await
    }

    /// The last lines of a container's log. May hold secrets: redact before logging.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn log_tail(&self, name: &str, lines: u32) -> Result<String, DockerError> {
        let options =
            LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let request = async |docker: &bollard::Docker| {
            let mut stream = docker.logs(name, Some(options));
            let mut text = String::new();
            while let Some(chunk) = stream.next().await {
                let (LogOutput::StdErr { message }
                | LogOutput::StdOut { message }
                | LogOutput::StdIn { message }
                | LogOutput::Console { message }) = chunk?;
                text.push_str(&String::from_utf8_lossy(&message));
            }
            Ok(text)
        };
        self.call("read the log of", &object(name), QUICK, request).await
    }

    /// Forgets the network of an instance, after dockerd said that it does not exist.
    pub async fn forget_network(&self, instance_id: &str) {
        self.networks.forget(instance_id).await;
    }

    /// Forgets that an instance is on a network.
    pub async fn leave_network(&self, instance_id: &str) {
        self.networks.leave(instance_id).await;
    }

    /// Makes the first network and learns which containers are on which.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn ensure_networks(&self) -> Result<(), DockerError> {
        self.networks.learn(self).await
    }
}

fn object(name: &str) -> String {
    format!("container {name}")
}

fn is_being_removed(error: &Error) -> bool {
    status(error) == Some(409) && error.to_string().contains("already in progress")
}

/// Waits until a container that is being removed is gone.
async fn gone(docker: &bollard::Docker, name: &str) -> Result<(), Error> {
    loop {
        match docker.inspect_container(name, None::<InspectContainerOptions>).await {
            Err(error) if status(&error) == Some(404) => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn facts(found: ContainerInspectResponse, address: IpAddr) -> ContainerFacts {
    let state = found.state.unwrap_or_default();
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let settings = found.network_settings.unwrap_or_default();
    let bindings = found.host_config.and_then(|host| host.port_bindings).unwrap_or_default();
    let published_ports = published(settings.ports.unwrap_or_default());
    let reach = Reach {
        networked: is_networked(settings.networks.as_ref()),
        ports: published_ports
            .iter()
            .filter(|one| one.is_on(address))
            .map(|one| one.outer)
            .collect(),
    };
    let address = settings.networks.unwrap_or_default().into_values().find_map(|endpoint| {
        let address = endpoint.ip_address.filter(|address| !address.is_empty());
        address.or(endpoint.global_ipv6_address)?.parse().ok()
    });
    ContainerFacts {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image_id: found.image.unwrap_or_default(),
        spec_hash: labels.get(SPEC).cloned(),
        labels: Labels::from_map(&labels),
        running: state.running.unwrap_or(false),
        paused: state.paused.unwrap_or(false),
        restarting: state.restarting.unwrap_or(false),
        condition: condition::inspected(&state),
        reach,
        exit_code: state.exit_code.unwrap_or(0),
        restart_count: found.restart_count.unwrap_or(0),
        oom_killed: state.oom_killed.unwrap_or(false),
        healthy: state.health.and_then(|health| health.status).and_then(|status| match status {
            HealthStatusEnum::HEALTHY => Some(true),
            HealthStatusEnum::STARTING | HealthStatusEnum::UNHEALTHY => Some(false),
            HealthStatusEnum::NONE | HealthStatusEnum::EMPTY => None,
        }),
        address,
        published: published_ports,
        fixed: published(bindings),
    }
}
