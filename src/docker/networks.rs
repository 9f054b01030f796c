//! Shared bridges with inter-container traffic off.
//!
//! A bridge per instance would cost time at every provision and a subnet each; a bridge shared by
//! many, on which the kernel drops traffic between containers, isolates as well. A Linux bridge
//! takes 1,023 ports, so a further bridge is made before that.
//!
//! Names of networks are not unique in Docker, so bridges are known by their ids.

use std::collections::{HashMap, HashSet};

use bollard::{
    models::{Ipam, NetworkCreateRequest},
    query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder},
};
use tokio::sync::Mutex;

use super::{
    DockerError, Engine,
    engine::{QUICK, SLOW},
    error::status,
    labels::OWNER,
};

/// Addresses of a subnet that are no container's: network, gateway, broadcast.
const RESERVED_ADDRESSES: usize = 3;

#[derive(Debug)]
struct Bridge {
    id: String,
    name: String,
    capacity: usize,
    members: HashSet<String>,
}

impl Bridge {
    fn is(&self, network: &str) -> bool {
        self.id == network || self.name == network
    }
}

/// Which instance is on which bridge.
#[derive(Debug)]
pub(super) struct Networks {
    owner: String,
    limit: usize,
    /// `None` until they are learnt. Held only while a place is chosen or a bridge is made, once
    /// in a thousand instances.
    bridges: Mutex<Option<Vec<Bridge>>>,
}

impl Networks {
    pub(super) fn new(owner: &str, limit: usize) -> Self {
        Self { owner: owner.to_owned(), limit, bridges: Mutex::default() }
    }

    /// Learns what is there, and makes the first bridge. Containers are listed under the lock, so
    /// that nobody leaves between the listing and its use.
    pub(super) async fn learn(&self, engine: &Engine) -> Result<(), DockerError> {
        let mut guard = self.bridges.lock().await;
        if guard.is_none() {
            *guard = Some(self.find(engine).await?);
        }
        Ok(())
    }

    /// The bridge of an instance: the one that it is on, else the first with a place.
    pub(super) async fn assign(
        &self,
        engine: &Engine,
        instance_id: &str,
    ) -> Result<String, DockerError> {
        let mut guard = self.bridges.lock().await;
        if guard.is_none() {
            *guard = Some(self.find(engine).await?);
        }
        let bridges = guard.get_or_insert_default();
        if let Some(bridge) = bridges.iter().find(|bridge| bridge.members.contains(instance_id)) {
            return Ok(bridge.id.clone());
        }
        if bridges.iter().all(|bridge| bridge.members.len() >= bridge.capacity) {
            bridges.push(self.make(engine, bridges).await?);
        }
        let free = bridges.iter_mut().find(|bridge| bridge.members.len() < bridge.capacity);
        match free {
            Some(bridge) => {
                bridge.members.insert(instance_id.to_owned());
                Ok(bridge.id.clone())
            }
            None => Err(DockerError::NetworkMissing {
                object: format!("instance {instance_id}"),
                message: "the engine's address pools are too small for a bridge".to_owned(),
            }),
        }
    }

    /// Forgets a bridge that dockerd does not know any more; its instances get places elsewhere
    /// when their containers are made anew.
    pub(super) async fn forget(&self, instance_id: &str) {
        let mut guard = self.bridges.lock().await;
        if let Some(bridges) = guard.as_mut() {
            bridges.retain(|bridge| {
                let lost = bridge.members.contains(instance_id);
                if lost {
                    tracing::warn!(network = bridge.name, "a network of the broker was removed");
                }
                !lost
            });
        }
    }

    pub(super) async fn leave(&self, instance_id: &str) {
        for bridge in self.bridges.lock().await.iter_mut().flatten() {
            bridge.members.remove(instance_id);
        }
    }

    /// The broker's bridges and who is on them; at least one.
    async fn find(&self, engine: &Engine) -> Result<Vec<Bridge>, DockerError> {
        let owned = engine.list_owned().await?;
        let mut bridges = self.list(engine).await?;
        if bridges.is_empty() {
            bridges.push(self.make(engine, &[]).await?);
        }
        for container in owned {
            let network = container.network.as_deref().unwrap_or_default();
            if let Some(bridge) = bridges.iter_mut().find(|bridge| bridge.is(network)) {
                bridge.members.insert(container.labels.instance_id.clone());
            }
        }
        Ok(bridges)
    }

    async fn list(&self, engine: &Engine) -> Result<Vec<Bridge>, DockerError> {
        let filters = HashMap::from([("label", vec![format!("{OWNER}={}", self.owner)])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let request = async |docker: &bollard::Docker| docker.list_networks(Some(options)).await;
        let listed = engine.call("list", "networks", QUICK, request).await?;
        let mut bridges: Vec<Bridge> = listed
            .into_iter()
            .filter_map(|network| {
                Some(Bridge {
                    capacity: capacity(network.ipam.as_ref(), self.limit),
                    id: network.id?,
                    name: network.name?,
                    members: HashSet::new(),
                })
            })
            .collect();
        bridges.sort_by_key(|bridge| (bridge.name.len(), bridge.name.clone(), bridge.id.clone()));
        Ok(bridges)
    }

    /// Makes one more bridge beside `known`.
    async fn make(&self, engine: &Engine, known: &[Bridge]) -> Result<Bridge, DockerError> {
        let numbers = 0..=known.len();
        let free = numbers.map(|number| format!("{}-{number}", self.owner));
        let name = free.into_iter().find(|name| known.iter().all(|bridge| bridge.name != *name));
        let name = name.unwrap_or_else(|| self.owner.clone());
        let body = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            options: Some(HashMap::from([(
                "com.docker.network.bridge.enable_icc".to_owned(),
                "false".to_owned(),
            )])),
            labels: Some(HashMap::from([(OWNER.to_owned(), self.owner.clone())])),
            ..NetworkCreateRequest::default()
        };
        let object = format!("network {name}");
        let request = async |docker: &bollard::Docker| match docker.create_network(body).await {
            // Newer engines refuse a second network of the same name.
            Err(error) if status(&error) == Some(409) => Ok(None),
            other => other.map(|made| Some(made.id)),
        };
        let Some(id) = engine.call("create", &object, SLOW, request).await? else {
            return Err(DockerError::Foreign { object: format!("a network named {name}") });
        };
        let request = async |docker: &bollard::Docker| {
            docker.inspect_network(&id, None::<InspectNetworkOptions>).await
        };
        let made = engine.call("inspect", &object, QUICK, request).await?;
        let capacity = capacity(made.ipam.as_ref(), self.limit);
        Ok(Bridge { id, name, capacity, members: HashSet::new() })
    }
}

impl Engine {
    /// Removes every container and network of this broker, whatever instance they belong to: for
    /// brokers that do not outlive their test.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn remove_everything(&self) -> Result<(), DockerError> {
        for container in self.list_owned().await? {
            self.remove_own(&container.name).await?;
        }
        for Bridge { id, name, .. } in self.networks.list(self).await? {
            let request = async |docker: &bollard::Docker| match docker.remove_network(&id).await {
                Err(error) if status(&error) == Some(404) => Ok(()),
                other => other,
            };
            self.call("remove", &format!("network {name}"), SLOW, request).await?;
        }
        Ok(())
    }
}

/// How many containers a network takes: no more than its subnet has addresses.
fn capacity(ipam: Option<&Ipam>, limit: usize) -> usize {
    let configs = ipam.and_then(|ipam| ipam.config.as_ref());
    let subnets = configs.into_iter().flatten().filter_map(|config| config.subnet.as_deref());
    let addresses = subnets.filter(|subnet| !subnet.contains(':')).filter_map(|subnet| {
        let length: u32 = subnet.rsplit_once('/')?.1.parse().ok()?;
        1_usize.checked_shl(32_u32.checked_sub(length)?)
    });
    addresses.min().map_or(limit, |most| limit.min(most.saturating_sub(RESERVED_ADDRESSES)))
}
