//! The broker: the rooms put together.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Refusal,
    adopted::know_adopted,
    error::InternalError,
    health::WATCHED,
    hook::Turns,
    keys::{KEY_PROOF, Resealed, StartError, use_first_key},
    ledger::Ledger,
    recover::Recovery,
    room::Room,
    work::Works,
};
use crate::{
    catalog::Catalog,
    config::{PortRange, ServiceTlsSettings, SnapshotSettings},
    credentials::Keyring,
    disk::Disk,
    docker::{Engine, Images},
    store::Store,
    telemetry::Chain,
};

/// Numbers and names that rule operations.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Host that bindings name.
    pub external_host: String,
    /// The CA of instances' certificates, if they are to speak TLS.
    pub service_tls: Option<ServiceTlsSettings>,
    /// Host ports that instances may get.
    pub host_ports: PortRange,
    /// Most instances in all; 0: no limit.
    pub max_instances: u32,
    /// Containers that are made and started at the same time.
    pub max_parallel_starts: usize,
    /// What is kept of an instance's data while it is upgraded.
    pub upgrade_snapshot: SnapshotSettings,
    /// How long an operation waits for a dockerd that does not answer.
    pub operation_timeout: Duration,
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
    /// Ids of the instances that do not work at present, as far as the store can be read.
    pub unwell: Vec<String>,
    /// Why the last copy of the store could not be made; `None`: it could, or there was none yet.
    pub store_backup: Option<String>,
    /// The tarballs of the images directory are loaded, as far as they can be.
    pub images_loaded: bool,
}

/// Everything that verbs work on. Shared by all requests and tasks.
#[derive(Debug)]
pub struct Broker {
    pub(super) catalog: Catalog,
    pub(super) store: Ledger,
    pub(super) docker: Arc<Engine>,
    pub(super) images: Arc<Images>,
    pub(super) disk: Disk,
    pub(super) keys: Arc<Keyring>,
    /// Stored secrets that no key opens are still sealed with another key than the first.
    pub(super) has_damaged_secrets: bool,
    pub(super) limits: Limits,
    pub(super) works: Arc<Works>,
    pub(super) turns: Turns,
    /// A binding that expires was made.
    pub(super) expiring: Notify,
    pub(super) starts: Semaphore,
    /// Room on the disk that is promised to copies.
    pub(super) room: Arc<Room>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    /// Adopted instances whose container and directory have yet to be looked at after this start.
    pub(super) unsettled: Mutex<HashSet<String>>,
    /// Held while one of them is settled: directories are exchanged, and would be changed back.
    pub(super) settling: tokio::sync::Mutex<()>,
    /// Why the last copy of the store could not be made.
    pub(super) backup: Mutex<Option<String>>,
    pub(super) recovery: tokio::sync::watch::Sender<Recovery>,
}

impl Broker {
    /// Puts the rooms together, and makes sure that the first key is the one that seals the store.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn new(
        catalog: Catalog,
        store: Store,
        docker: Arc<Engine>,
        images: Arc<Images>,
        disk: Disk,
        keys: Keyring,
        limits: Limits,
    ) -> Result<Self, StartError> {
        let keys = Arc::new(keys);
        let Resealed { damaged, .. } = use_first_key(&store, &keys).await?;
        let adopted = know_adopted(&store, &keys, &docker).await?;
        let store = Ledger::new(store, disk.clone(), Arc::clone(&keys));
        Ok(Self {
            catalog,
            store,
            docker,
            images,
            disk,
            keys,
            has_damaged_secrets: !damaged.is_empty(),
            starts: Semaphore::new(limits.max_parallel_starts),
            limits,
            room: Arc::default(),
            works: Arc::default(),
            turns: Turns::default(),
            expiring: Notify::new(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            unsettled: Mutex::new(adopted.into_iter().collect()),
            settling: tokio::sync::Mutex::new(()),
            backup: Mutex::default(),
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

    /// Whether the store knows an older state of an instance than its record, or may do so.
    pub(super) fn is_outdated(&self, instance_id: &str) -> bool {
        self.store.is_left_alone(instance_id)
    }

    /// Refuses to change an instance of which the store knows an older state than its record. It
    /// can be deleted.
    pub(super) fn require_current(&self, instance_id: &str) -> Result<(), Refusal> {
        if !self.is_outdated(instance_id) {
            return Ok(());
        }
        Err(Refusal::Unprocessable(format!(
            "the broker knows an older state of service instance {instance_id} than there was; ask \
             the operator"
        )))
    }

    /// Compares the records beside the data with the store. Changes of any instance wait for it.
    pub(super) async fn compare_records(&self) -> Result<(), InternalError> {
        let compared = self.store.compare(false).await?;
        if compared.written > 0 {
            tracing::info!(
                instances = compared.written,
                "the records beside the data were brought up to date"
            );
        }
        let left = compared.left();
        if self.keys.has_others() && !self.has_damaged_secrets && left.is_empty() {
            tracing::info!(
                "everything is sealed with the first of encryption_keys; the others are not needed \
                 any more"
            );
        } else if self.keys.has_others() {
            tracing::warn!(
                records = left.join(", "),
                damaged_secrets = self.has_damaged_secrets,
                "not everything is sealed with the first of encryption_keys; keep the others"
            );
        }
        self.store.allow_writes();
        Ok(())
    }

    /// Reads and writes records again that could not be at once, until the broker stops.
    pub async fn keep_recording(self: &Arc<Self>) {
        tokio::join!(self.store.keep_recording(&self.stopping), self.resume_trusted());
    }

    /// How the broker is.
    pub async fn status(&self) -> Status {
        let looked = self.store.read(|rows| {
            rows.find_meta(KEY_PROOF)?;
            rows.list_unwell(WATCHED)
        });
        let (docker, looked) = tokio::join!(self.docker.ping(), looked);
        let (unwell, store) = match looked {
            Ok(unwell) => (unwell, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let say = |error: &dyn std::error::Error| Chain(error).to_string();
        Status {
            recovery: self.recovery.borrow().clone(),
            docker: docker.err().map(|error| say(&error)),
            store: store.map(|error| say(&error)),
            unwell,
            store_backup: self.backup.lock().unwrap_or_else(PoisonError::into_inner).clone(),
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
