//! The broker: the rooms put together.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{hook::Turns, recover::Recovery, work::Works};
use crate::{
    catalog::Catalog,
    config::PortRange,
    credentials::{KeyError, Keyring},
    disk::Disk,
    docker::{Engine, Images},
    store::{Store, StoreError},
    telemetry::Chain,
};

/// Where the store keeps proof of the encryption key.
const KEY_PROOF: &str = "key proof";

/// Numbers and names that rule operations.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Host that bindings name.
    pub external_host: String,
    /// Host ports that instances may get.
    pub host_ports: PortRange,
    /// Most instances in all; 0: no limit.
    pub max_instances: u32,
    /// Containers that are made and started at the same time.
    pub max_parallel_starts: usize,
    /// How long an operation waits for a dockerd that does not answer.
    pub operation_timeout: Duration,
}

/// A broker that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("cannot use the store")]
    Store(#[from] StoreError),
    /// The key is not the one that the store was written with.
    #[error(
        "the store was encrypted with another key; put the key that was used before among \
         encryption_keys (nothing was changed)"
    )]
    WrongKey(#[source] KeyError),
    /// The key does not work.
    #[error("cannot encrypt")]
    Key(#[from] KeyError),
}

/// Health, for `/readyz` and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Recovery of what was there at the start.
    pub recovery: Recovery,
    /// Why dockerd cannot be used; `None`: it answers.
    pub docker: Option<String>,
    /// Why the store cannot be used; `None`: it can.
    pub store: Option<String>,
    /// The tarballs of the images directory are loaded, as far as they can be.
    pub images_loaded: bool,
}

/// Everything that verbs work on. Shared by all requests and tasks.
#[derive(Debug)]
pub struct Broker {
    pub(super) catalog: Catalog,
    pub(super) store: Store,
    pub(super) docker: Arc<Engine>,
    pub(super) images: Arc<Images>,
    pub(super) disk: Disk,
    pub(super) keys: Keyring,
    pub(super) limits: Limits,
    pub(super) works: Arc<Works>,
    pub(super) turns: Turns,
    /// A binding that expires was made.
    pub(super) expiring: Notify,
    pub(super) starts: Semaphore,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    /// Instances that could not be brought back after this start.
    pub(super) lost: Mutex<BTreeSet<String>>,
    pub(super) recovery: tokio::sync::watch::Sender<Recovery>,
}

impl Broker {
    /// Puts the rooms together and makes sure that the key is the store's.
    ///
    /// # Errors
    /// [`StartError`]. Nothing was changed then.
    pub async fn new(
        catalog: Catalog,
        store: Store,
        docker: Arc<Engine>,
        images: Arc<Images>,
        disk: Disk,
        keys: Keyring,
        limits: Limits,
    ) -> Result<Self, StartError> {
        prove_key(&store, &keys).await?;
        Ok(Self {
            catalog,
            store,
            docker,
            images,
            disk,
            keys,
            starts: Semaphore::new(limits.max_parallel_starts),
            limits,
            works: Arc::default(),
            turns: Turns::default(),
            expiring: Notify::new(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            lost: Mutex::default(),
            recovery: tokio::sync::watch::Sender::new(Recovery::Waiting),
        })
    }

    /// The services on offer.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The images of all plans.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.images
    }

    fn lost(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an instance was usable before this start, and could not be brought back.
    pub(super) fn is_lost(&self, instance_id: &str) -> bool {
        self.lost().contains(instance_id)
    }

    pub(super) fn lose(&self, instance_id: &str) {
        self.lost().insert(instance_id.to_owned());
    }

    pub(super) fn found(&self, instance_id: &str) {
        self.lost().remove(instance_id);
    }

    /// How the broker is.
    pub async fn status(&self) -> Status {
        let (docker, store) = tokio::join!(
            self.docker.ping(),
            self.store.read(|rows| rows.find_meta(KEY_PROOF).map(|_| ()))
        );
        let say = |error: &dyn std::error::Error| Chain(error).to_string();
        Status {
            recovery: self.recovery.borrow().clone(),
            docker: docker.err().map(|error| say(&error)),
            store: store.err().map(|error| say(&error)),
            images_loaded: self.images.is_directory_loaded(),
        }
    }

    /// Lets running steps end, at most for `limit`. What is not finished goes on at the next start.
    pub async fn stop(&self, limit: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!("operations were under way; they go on at the next start");
        }
    }
}

async fn prove_key(store: &Store, keys: &Keyring) -> Result<(), StartError> {
    let proof = keys.seal(KEY_PROOF, KEY_PROOF.as_bytes())?;
    let known = store
        .write(move |rows| {
            let known = rows.find_meta(KEY_PROOF)?;
            if known.is_none() {
                rows.set_meta(KEY_PROOF, &proof)?;
            }
            Ok(Ok::<_, ()>(known))
        })
        .await?;
    match known {
        Ok(Some(known)) => keys.open(KEY_PROOF, &known).map(|_| ()).map_err(StartError::WrongKey),
        Ok(None) | Err(()) => Ok(()),
    }
}
