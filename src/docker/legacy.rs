//! Containers that cf-containers-broker has made, as they are: what `adopt` has to know of them.
//!
//! That broker gave its host settings in the start call, at version 1.16 of the API. So their
//! `HostConfig.Binds` may be null, and only `Mounts` tells the directories.

use std::{collections::HashMap, net::IpAddr, path::PathBuf};

use bollard::{
    models::{ContainerInspectResponse, MountPoint, PortBinding},
    query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder},
};

use super::{
    DockerError, Engine,
    engine::{QUICK, SLOW},
    error::status,
    labels::{LEGACY_INSTANCE, LEGACY_PLAN, OWNER},
};
use crate::catalog::ContainerPort;

/// A port that a container of cf-containers-broker publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyPort {
    /// Port in the container.
    pub inner: ContainerPort,
    /// Port of the host; `None`: Docker chooses it at every start, and it does not run.
    pub outer: Option<u16>,
    /// The container is bound to that port: a restart does not change it.
    pub is_fixed: bool,
    /// Address of the host; `None`: all of them.
    pub address: Option<IpAddr>,
}

/// What is mounted into a container of cf-containers-broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyMount {
    /// Path in the container.
    pub target: String,
    /// Directory of the host; `None`: a volume of Docker's, or something else.
    pub source: Option<PathBuf>,
}

/// A container with the labels of cf-containers-broker, and without those of any docker-broker.
/// Its `Debug` hides the environment.
#[derive(Clone)]
pub struct LegacyContainer {
    /// dockerd's id.
    pub id: String,
    /// Name in Docker.
    pub name: String,
    /// Its label `plan_id`.
    pub plan_id: String,
    /// Its label `instance_id`.
    pub instance_id: String,
    /// Its process runs.
    pub is_running: bool,
    /// Host name inside.
    pub hostname: String,
    /// Environment, that of the image included.
    pub environment: Vec<(String, String)>,
    /// Id of the image that it was made of.
    pub image_id: String,
    /// Environment of that image; empty when the image is gone.
    pub image_environment: Vec<(String, String)>,
    /// Published ports, by their ports in the container.
    pub ports: Vec<LegacyPort>,
    /// Mounts, by their paths in the container.
    pub mounts: Vec<LegacyMount>,
}

impl std::fmt::Debug for LegacyContainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LegacyContainer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Engine {
    /// All containers that cf-containers-broker has made, running or not, by their names.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn list_legacy(&self) -> Result<Vec<LegacyContainer>, DockerError> {
        let labels = [LEGACY_PLAN, LEGACY_INSTANCE].map(str::to_owned).to_vec();
        let filters = HashMap::from([("label", labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let request = async |docker: &bollard::Docker| docker.list_containers(Some(options)).await;
        let listed = self.call("list", "containers", SLOW, request).await?;
        let mut found = Vec::new();
        for summary in listed {
            let is_ours = summary.labels.is_some_and(|labels| labels.contains_key(OWNER));
            let Some(id) = summary.id.filter(|_| !is_ours) else { continue };
            found.extend(self.inspect_legacy(&id).await?);
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    async fn inspect_legacy(&self, id: &str) -> Result<Option<LegacyContainer>, DockerError> {
        let request = async |docker: &bollard::Docker| match docker
            .inspect_container(id, None::<InspectContainerOptions>)
            .await
        {
            // Removed since it was listed.
            Err(error) if status(&error) == Some(404) => Ok(None),
            other => other.map(Some),
        };
        let object = format!("container {id}");
        let Some(found) = self.call("inspect", &object, QUICK, request).await? else {
            return Ok(None);
        };
        let image = found.image.clone().unwrap_or_default();
        let image_environment = self.image_environment(&image).await?;
        Ok(legacy(found, image_environment))
    }

    async fn image_environment(&self, image: &str) -> Result<Vec<(String, String)>, DockerError> {
        let request = async |docker: &bollard::Docker| match docker.inspect_image(image).await {
            Err(error) if status(&error) == Some(404) => Ok(None),
            other => other.map(Some),
        };
        let found = self.call("inspect", &format!("image {image}"), QUICK, request).await?;
        let config = found.and_then(|found| found.config);
        Ok(environment(config.and_then(|config| config.env)))
    }

    /// The id of the image that a reference means now; `None` when it is not here.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn image_id(&self, reference: &str) -> Result<Option<String>, DockerError> {
        let request = async |docker: &bollard::Docker| match docker.inspect_image(reference).await {
            Err(error) if status(&error) == Some(404) => Ok(None),
            other => other.map(Some),
        };
        let found = self.call("inspect", &format!("image {reference}"), QUICK, request).await?;
        Ok(found.and_then(|found| found.id))
    }
}

fn environment(lines: Option<Vec<String>>) -> Vec<(String, String)> {
    let pair = |line: String| {
        line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    lines.unwrap_or_default().into_iter().filter_map(pair).collect()
}

fn legacy(
    found: ContainerInspectResponse,
    image_environment: Vec<(String, String)>,
) -> Option<LegacyContainer> {
    let config = found.config.unwrap_or_default();
    let labels = config.labels.unwrap_or_default();
    let is_running = found.state.is_some_and(|state| state.running == Some(true));
    let wanted = found.host_config.and_then(|host| host.port_bindings).unwrap_or_default();
    let actual = found.network_settings.and_then(|settings| settings.ports).unwrap_or_default();
    let mut mounts: Vec<LegacyMount> =
        found.mounts.unwrap_or_default().into_iter().filter_map(mount).collect();
    mounts.sort_by(|one, other| one.target.cmp(&other.target));
    Some(LegacyContainer {
        id: found.id?,
        name: found.name?.trim_start_matches('/').to_owned(),
        plan_id: labels.get(LEGACY_PLAN)?.clone(),
        instance_id: labels.get(LEGACY_INSTANCE)?.clone(),
        is_running,
        hostname: config.hostname.unwrap_or_default(),
        environment: environment(config.env),
        image_id: found.image.unwrap_or_default(),
        image_environment,
        ports: ports(wanted, &actual),
        mounts,
    })
}

type Bindings = HashMap<String, Option<Vec<PortBinding>>>;

/// What the container is bound to, with what Docker has chosen where it was left to choose.
fn ports(wanted: Bindings, actual: &Bindings) -> Vec<LegacyPort> {
    let number = |binding: &PortBinding| {
        let port = binding.host_port.as_deref()?.parse::<u16>().ok()?;
        (port > 0).then_some(port)
    };
    let mut ports: Vec<LegacyPort> = wanted
        .into_iter()
        .filter_map(|(inner, bindings)| {
            let chosen = actual.get(&inner).and_then(Option::as_deref).unwrap_or_default();
            // That broker told its clients the first; Docker 20.10 has another one for IPv6.
            let is_ipv6 = |binding: &&PortBinding| {
                binding.host_ip.as_ref().is_some_and(|address| address.contains(':'))
            };
            let (ipv6, ipv4): (Vec<_>, Vec<_>) = chosen.iter().partition(is_ipv6);
            let binding = bindings?.into_iter().next()?;
            let address = binding.host_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
            let fixed = number(&binding);
            Some(LegacyPort {
                inner: ContainerPort::parse(&inner).ok()?,
                outer: fixed.or_else(|| ipv4.into_iter().chain(ipv6).find_map(number)),
                is_fixed: fixed.is_some(),
                address: address.filter(|address| !address.is_unspecified()),
            })
        })
        .collect();
    ports.sort_by_key(|port| port.inner);
    ports
}

fn mount(found: MountPoint) -> Option<LegacyMount> {
    let is_directory = found.typ.as_deref() == Some("bind");
    let target = found.destination?;
    let target = if target.len() > 1 { target.trim_end_matches('/') } else { &target };
    Some(LegacyMount {
        target: target.to_owned(),
        source: found.source.filter(|_| is_directory).map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_docker_was_left_to_choose_is_known_while_the_container_runs() {
        let binding = |port: &str| {
            let ip = Some(String::new());
            Some(vec![PortBinding { host_ip: ip, host_port: Some(port.to_owned()) }])
        };
        let of = |fixed: &str| HashMap::from([("5432/tcp".to_owned(), binding(fixed))]);
        let shown = |fixed: &str, actual: &Bindings| {
            let port = ports(of(fixed), actual).remove(0);
            (port.outer, port.is_fixed)
        };
        let actual = of("32770");
        assert_eq!(shown("32768", &HashMap::new()), (Some(32768), true));
        assert_eq!(shown("", &actual), (Some(32770), false));
        assert_eq!(shown("0", &actual), (Some(32770), false));
        assert_eq!(shown("", &HashMap::new()), (None, false));
    }
}
