//! Shared bridges with inter-container traffic off.
//!
//! A bridge per instance would cost time at every provision and a subnet each; a bridge shared by
//! many, on which the kernel drops traffic between containers, isolates as well. A Linux bridge
//! takes 1,023 ports, so a further bridge is made before that.

use std::collections::{HashMap, HashSet};

use bollard::{
    models::{NetworkCreateRequest, NetworkInspect},
    query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder},
};
use tokio::sync::Mutex;

use super::{
    DockerError, Engine, OwnedContainer,
    engine::{QUICK, SLOW},
    error::status,
    labels::OWNER,
};

/// Addresses of a subnet that are no container's: network, gateway, broadcast.
const RESERVED_ADDRESSES: usize = 3;

#[derive(Debug)]
struct Bridge {
    name: String,
    capacity: usize,
    members: HashSet<String>,
}

/// Which instance is on which bridge.
#[derive(Debug)]
pub(super) struct Networks {
    owner: String,
    limit: usize,
    /// Held only while a place is chosen or a bridge is made, once in a thousand instances.
    bridges: Mutex<Vec<Bridge>>,
}

impl Networks {
    pub(super) fn new(owner: &str, limit: usize) -> Self {
        Self { owner: owner.to_owned(), limit, bridges: Mutex::default() }
    }

    /// Learns what is there, and makes the first bridge.
    pub(super) async fn learn(
        &self,
        engine: &Engine,
        owned: &[OwnedContainer],
    ) -> Result<(), DockerError> {
        let filters = HashMap::from([("label", vec![format!("{OWNER}={}", self.owner)])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let request = async |docker: &bollard::Docker| docker.list_networks(Some(options)).await;
        let listed = engine.call("list", "networks", QUICK, request).await?;
        let mut names: Vec<_> = listed.into_iter().filter_map(|network| network.name).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        let mut bridges = self.bridges.lock().await;
        bridges.clear();
        for name in names {
            let Some(found) = inspect(engine, &name).await? else { continue };
            let on_it = owned.iter().filter(|one| one.network.as_deref() == Some(&name));
            let members = on_it.map(|one| one.labels.instance_id.clone()).collect();
            bridges.push(Bridge { capacity: capacity(&found, self.limit), name, members });
        }
        if bridges.is_empty() {
            bridges.push(self.make(engine, 0).await?);
        }
        Ok(())
    }

    /// The bridge of an instance: the one that it is on, else the first with a place.
    pub(super) async fn assign(
        &self,
        engine: &Engine,
        instance_id: &str,
    ) -> Result<String, DockerError> {
        let mut bridges = self.bridges.lock().await;
        if let Some(bridge) = bridges.iter().find(|bridge| bridge.members.contains(instance_id)) {
            return Ok(bridge.name.clone());
        }
        if bridges.iter().all(|bridge| bridge.members.len() >= bridge.capacity) {
            let made = self.make(engine, bridges.len()).await?;
            bridges.push(made);
        }
        let free = bridges.iter_mut().find(|bridge| bridge.members.len() < bridge.capacity);
        match free {
            Some(bridge) => {
                bridge.members.insert(instance_id.to_owned());
                Ok(bridge.name.clone())
            }
            None => Err(DockerError::NetworkMissing {
                object: format!("instance {instance_id}"),
                message: "no bridge has a place left".to_owned(),
            }),
        }
    }

    /// The bridge of an instance, after dockerd said that it does not exist.
    pub(super) async fn replace(
        &self,
        engine: &Engine,
        instance_id: &str,
    ) -> Result<String, DockerError> {
        let lost = self.assign(engine, instance_id).await?;
        if inspect(engine, &lost).await?.is_none() {
            tracing::warn!(network = lost, "a network of the broker was removed; it is made again");
            let number = lost.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            self.make(engine, number).await?;
        }
        Ok(lost)
    }

    pub(super) async fn leave(&self, instance_id: &str) {
        for bridge in self.bridges.lock().await.iter_mut() {
            bridge.members.remove(instance_id);
        }
    }

    /// Makes a bridge, unless it is there: dockerd makes several of one name, and then refuses the
    /// name as ambiguous. An operation that goes on after a start comes by before [`Self::learn`].
    async fn make(&self, engine: &Engine, number: usize) -> Result<Bridge, DockerError> {
        let name = format!("{}-{number}", self.owner);
        if let Some(found) = inspect(engine, &name).await? {
            return self.bridge(name, &found);
        }
        let body = || NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            options: Some(HashMap::from([(
                "com.docker.network.bridge.enable_icc".to_owned(),
                "false".to_owned(),
            )])),
            labels: Some(HashMap::from([(OWNER.to_owned(), self.owner.clone())])),
            ..NetworkCreateRequest::default()
        };
        let request = async |docker: &bollard::Docker| {
            match docker.create_network(body()).await {
                // Made by somebody else meanwhile; whose it is shows below.
                Err(error) if status(&error) == Some(409) => Ok(()),
                other => other.map(|_| ()),
            }
        };
        engine.call("create", &format!("network {name}"), SLOW, request).await?;
        let found = inspect(engine, &name).await?;
        let found = found.ok_or_else(|| DockerError::NetworkMissing {
            object: format!("broker {}", self.owner),
            message: format!("network {name} is gone right after it was made"),
        })?;
        self.bridge(name, &found)
    }

    /// A network as a bridge without instances, if it is ours.
    fn bridge(&self, name: String, found: &NetworkInspect) -> Result<Bridge, DockerError> {
        let owner = found.labels.as_ref().and_then(|labels| labels.get(OWNER));
        if owner != Some(&self.owner) {
            return Err(DockerError::Foreign { object: format!("a network named {name}") });
        }
        Ok(Bridge { capacity: capacity(found, self.limit), name, members: HashSet::new() })
    }
}

async fn inspect(engine: &Engine, name: &str) -> Result<Option<NetworkInspect>, DockerError> {
    let request = async |docker: &bollard::Docker| match docker
        .inspect_network(name, None::<InspectNetworkOptions>)
        .await
    {
        Err(error) if status(&error) == Some(404) => Ok(None),
        other => other.map(Some),
    };
    engine.call("inspect", &format!("network {name}"), QUICK, request).await
}

/// How many containers a network takes: no more than its subnet has addresses.
fn capacity(network: &NetworkInspect, limit: usize) -> usize {
    let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
    let subnets = configs.into_iter().flatten().filter_map(|config| config.subnet.as_deref());
    let addresses = subnets.filter(|subnet| !subnet.contains(':')).filter_map(|subnet| {
        let length: u32 = subnet.rsplit_once('/')?.1.parse().ok()?;
        1_usize.checked_shl(32_u32.checked_sub(length)?)
    });
    addresses.min().map_or(limit, |most| limit.min(most.saturating_sub(RESERVED_ADDRESSES)))
}
