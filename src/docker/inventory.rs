//! Everything that is in dockerd, for operators' commands: what is ours, what only looks like it.
//!
//! Nothing is removed here before it was looked at once more: an object without this broker's owner
//! label is somebody else's, whatever its name.

use std::collections::HashMap;

use bollard::{
    models::{ContainerSummary, PortBinding},
    query_parameters::{
        InspectContainerOptionsBuilder, InspectNetworkOptions, ListContainersOptionsBuilder,
        ListNetworksOptionsBuilder,
    },
};

use super::{
    DockerError, Engine, Labels,
    engine::{QUICK, SLOW},
    error::status,
    labels::OWNER,
    published::published,
};

/// A container, whoever made it.
#[derive(Debug, Clone)]
pub struct ListedContainer {
    /// dockerd's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Name of the broker that made it; `None`: no broker did.
    pub owner: Option<String>,
    /// Its labels, if they are complete.
    pub labels: Option<Labels>,
    /// dockerd's word: `running`, `exited`, `created`, …
    pub state: String,
    /// dockerd's id of the image that it was made of.
    pub image_id: String,
    /// Ids and names of the networks that it is on.
    pub networks: Vec<String>,
    /// Directories of the host that it mounts.
    pub directories: Vec<String>,
    /// How many volumes of dockerd's own it has.
    pub volumes: usize,
}

/// A network with the label of this broker.
#[derive(Debug, Clone)]
pub struct ListedNetwork {
    /// dockerd's id.
    pub id: String,
    /// Its name; not unique in Docker.
    pub name: String,
}

/// What a container takes of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extent {
    /// Host ports, as they are or would be published.
    pub ports: Vec<u16>,
    /// Bytes that it has written to its own layer; `None`: dockerd does not say.
    pub bytes: Option<u64>,
}

impl Engine {
    /// All containers of this dockerd, running or not, whoever made them.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn list_everything(&self) -> Result<Vec<ListedContainer>, DockerError> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let request = async |docker: &bollard::Docker| docker.list_containers(Some(options)).await;
        let listed = self.call("list", "containers", SLOW, request).await?;
        let known = |one: ListedContainer| match self.adopted_labels(&one.id) {
            Some(labels) => {
                ListedContainer { owner: Some(labels.owner.clone()), labels: Some(labels), ..one }
            }
            None => one,
        };
        Ok(listed.into_iter().filter_map(container).map(known).collect())
    }

    /// Networks with the label of this broker, the first made first by their names.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn list_networks(&self) -> Result<Vec<ListedNetwork>, DockerError> {
        let filters = HashMap::from([("label", vec![format!("{OWNER}={}", self.owner())])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let request = async |docker: &bollard::Docker| docker.list_networks(Some(options)).await;
        let listed = self.call("list", "networks", QUICK, request).await?;
        let mut networks: Vec<_> = listed
            .into_iter()
            .filter_map(|one| Some(ListedNetwork { id: one.id?, name: one.name? }))
            .collect();
        networks.sort_by_key(|one| (one.name.len(), one.name.clone(), one.id.clone()));
        Ok(networks)
    }

    /// What a container takes of its host; `None` when it is gone.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn extent(&self, id: &str) -> Result<Option<Extent>, DockerError> {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let request = async |docker: &bollard::Docker| match docker
            .inspect_container(id, Some(options))
            .await
        {
            Err(error) if status(&error) == Some(404) => Ok(None),
            other => other.map(Some),
        };
        let found = self.call("inspect", &format!("container {id}"), SLOW, request).await?;
        Ok(found.map(|found| {
            // What it asks for: a stopped container publishes nothing, and will when it starts.
            let bindings: HashMap<String, Option<Vec<PortBinding>>> =
                found.host_config.and_then(|host| host.port_bindings).unwrap_or_default();
            let mut ports: Vec<u16> =
                published(bindings).into_iter().map(|one| one.outer).filter(|p| *p > 0).collect();
            ports.sort_unstable();
            ports.dedup();
            Extent { ports, bytes: found.size_rw.and_then(|size| u64::try_from(size).ok()) }
        }))
    }

    /// Removes a network with the label of this broker. One that is gone is fine.
    ///
    /// # Errors
    /// [`DockerError::Foreign`] when it has not that label; any other [`DockerError`], also when a
    /// container is on it.
    pub async fn remove_network(&self, id: &str) -> Result<(), DockerError> {
        let object = format!("network {id}");
        let request = async |docker: &bollard::Docker| match docker
            .inspect_network(id, None::<InspectNetworkOptions>)
            .await
        {
            Err(error) if status(&error) == Some(404) => Ok(None),
            other => other.map(Some),
        };
        let Some(found) = self.call("inspect", &object, QUICK, request).await? else {
            return Ok(());
        };
        let owner = found.labels.and_then(|labels| labels.get(OWNER).cloned());
        if owner.as_deref() != Some(self.owner()) {
            return Err(DockerError::Foreign { object });
        }
        let request = async |docker: &bollard::Docker| match docker.remove_network(id).await {
            Err(error) if status(&error) == Some(404) => Ok(()),
            other => other,
        };
        self.call("remove", &object, SLOW, request).await
    }
}

fn container(summary: ContainerSummary) -> Option<ListedContainer> {
    let labels = summary.labels.unwrap_or_default();
    let mounts = summary.mounts.unwrap_or_default();
    let networks = summary.network_settings.and_then(|settings| settings.networks);
    Some(ListedContainer {
        id: summary.id?,
        name: summary.names?.first()?.trim_start_matches('/').to_owned(),
        owner: labels.get(OWNER).cloned(),
        labels: Labels::from_map(&labels),
        state: summary.state.map(|state| state.to_string()).unwrap_or_default(),
        image_id: summary.image_id.unwrap_or_default(),
        // A stopped container may know only the name.
        networks: networks
            .unwrap_or_default()
            .into_iter()
            .flat_map(|(name, endpoint)| endpoint.network_id.into_iter().chain([name]))
            .collect(),
        volumes: mounts.iter().filter(|mount| mount.typ.as_deref() == Some("volume")).count(),
        directories: mounts.into_iter().filter_map(|mount| mount.source).collect(),
    })
}
