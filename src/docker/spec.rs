//! From a plan and an instance to a container: a pure function.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Labels;
use crate::catalog::{
    ContainerPort, Definition, ImageReference, Limits, RestartPolicy, TLS_VARIABLE, Tmpfs, hex,
};

/// Size and number of a container's log files.
pub(super) const LOG_MAX_SIZE: &str = "10m";
pub(super) const LOG_MAX_FILES: &str = "3";

/// A directory of the host and where the container sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Directory on the host. It must exist: Docker is told not to make it.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// The container cannot write to it.
    pub read_only: bool,
}

/// Everything that makes a container, in the broker's own terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "named after the options of `docker create`")]
pub struct ContainerSpec {
    pub name: String,
    pub hostname: String,
    pub image: ImageReference,
    pub entrypoint: Option<Vec<String>>,
    pub command: Vec<String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub environment: Vec<(String, String)>,
    pub ports: BTreeMap<ContainerPort, u16>,
    pub publish_address: IpAddr,
    pub mounts: Vec<Mount>,
    pub restart: RestartPolicy,
    pub limits: Limits,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub no_new_privileges: bool,
    pub read_only: bool,
    pub privileged: bool,
    pub tmpfs: Vec<Tmpfs>,
    pub stop_timeout: Duration,
    #[serde(skip)]
    pub labels: Labels,
}

/// What a container is made of beside the plan.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Name of the broker.
    pub owner: &'a str,
    /// Safe name of the instance.
    pub instance_name: &'a str,
    /// Id of the instance.
    pub instance_id: &'a str,
    /// Which container of the instance it is.
    pub generation: i64,
    /// The plan.
    pub definition: &'a Definition,
    /// Environment that an adopted container had from its former broker.
    pub legacy_environment: Vec<(String, String)>,
    /// Host name of an adopted container; `None`: one made of the instance's name.
    pub hostname: Option<String>,
    /// Environment out of secrets.
    pub secret_environment: Vec<(String, String)>,
    /// Environment out of developers' parameters.
    pub parameter_environment: Vec<(String, String)>,
    /// Host ports.
    pub ports: BTreeMap<ContainerPort, u16>,
    /// Address on which ports are published.
    pub publish_address: IpAddr,
    /// Host directory of each volume, in the plan's order.
    pub directories: Vec<PathBuf>,
    /// Host directory of its certificate; `None`: it does without TLS.
    pub certificate: Option<PathBuf>,
}

/// Name of the container of an instance.
#[must_use]
pub fn container_name(owner: &str, instance_name: &str) -> String {
    format!("{owner}-{instance_name}")
}

/// The container of an instance.
#[must_use]
pub fn container_spec(inputs: Inputs<'_>) -> ContainerSpec {
    let plan = &inputs.definition.plan;
    let container = &plan.container;
    // Later entries win: the plan's own, then credentials, then what a developer may set.
    let mut environment: Vec<(String, String)> = Vec::new();
    let sources = [
        container.environment.clone(),
        inputs.legacy_environment,
        inputs.secret_environment,
        inputs.parameter_environment,
    ];
    for (name, value) in sources.into_iter().flatten() {
        environment.retain(|(known, _)| *known != name);
        environment.push((name, value));
    }
    // Last of all: nobody else may say that there is TLS, or that there is none.
    if let Some(tls) = &plan.tls {
        environment.retain(|(known, _)| known != TLS_VARIABLE);
        let word = tls.word(inputs.certificate.is_some());
        environment.push((TLS_VARIABLE.to_owned(), word.to_owned()));
    }
    let targets = container.volumes.iter().map(|volume| volume.path.clone());
    let volumes = inputs.directories.into_iter().zip(targets);
    let mut mounts: Vec<Mount> =
        volumes.map(|(source, target)| Mount { source, target, read_only: false }).collect();
    mounts.extend(inputs.certificate.zip(plan.tls.as_ref()).map(|(source, tls)| Mount {
        source,
        target: tls.directory.clone(),
        read_only: true,
    }));
    ContainerSpec {
        name: container_name(inputs.owner, inputs.instance_name),
        // The same in every generation, for servers that put it into their data.
        hostname: inputs.hostname.unwrap_or_else(|| {
            hex(&Sha256::digest(inputs.instance_name.as_bytes()))[..12].to_owned()
        }),
        image: container.image.clone(),
        entrypoint: container.entrypoint.clone(),
        command: container.command.clone(),
        workdir: container.workdir.clone(),
        user: container.user.clone(),
        environment,
        ports: inputs.ports,
        publish_address: inputs.publish_address,
        mounts,
        restart: container.restart.clone(),
        limits: container.limits.clone(),
        cap_add: container.hardening.cap_add.clone(),
        cap_drop: container.hardening.cap_drop.clone(),
        no_new_privileges: container.hardening.no_new_privileges,
        read_only: container.hardening.read_only,
        privileged: container.hardening.privileged,
        tmpfs: container.hardening.tmpfs.clone(),
        stop_timeout: container.stop_timeout,
        labels: Labels {
            owner: inputs.owner.to_owned(),
            instance_id: inputs.instance_id.to_owned(),
            service_id: inputs.definition.service_id.clone(),
            service_name: inputs.definition.service_name.clone(),
            plan_id: plan.id.clone(),
            generation: inputs.generation,
        },
    }
}

impl ContainerSpec {
    /// SHA-256 of everything but the labels: two specs with the same hash need no new container.
    #[must_use]
    pub fn hash(&self) -> String {
        // A spec is plain data, so writing it cannot fail; an empty text would only cause a
        // needless re-creation.
        let text = serde_json::to_string(self).unwrap_or_default();
        hex(&Sha256::digest(text.as_bytes()))
    }
}
