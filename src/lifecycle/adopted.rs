//! Instances whose first container is one of cf-containers-broker (`adopt.rs` writes them down).
//!
//! Docker cannot change the labels of a container, so the store says whose it is: its row holds the
//! container's id, and the engine is told at the start (`Engine::adopt`). From then on every verb
//! treats it like any other container of the instance, of the generation 1. Before the first of them
//! runs it gets the name of one, and its directory is taken over ([`Broker::settle`]); neither
//! stops it. The container that an update makes after it is one of our own.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Broker,
    error::{Failure, InternalError},
    fault::{Step, reach},
    instance::{Private, parameter_environment, state_of},
    retry::while_unreachable,
};
use crate::{
    credentials::Keyring,
    disk::Disk,
    docker::{DockerError, Engine, Labels, spec::container_name},
    store::{InstanceRow, Store, StoreError},
    telemetry::Chain,
};

/// Generation of a container that was adopted.
pub(super) const GENERATION: i64 = 1;

/// What is kept of the container of an adopted instance, also when there is another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Adopted {
    /// dockerd's id of it.
    pub(super) container_id: String,
    /// Where its directories were, and a link is now; `None`: it had none.
    pub(super) directory: Option<PathBuf>,
    /// Some servers put their host name into their data.
    pub(super) hostname: String,
    /// Environment that comes neither of the plan, nor of credentials, nor of parameters.
    pub(super) environment: Vec<(String, String)>,
}

/// Name that cf-containers-broker gave to the container of an instance.
pub(super) fn legacy_name(instance_id: &str) -> String {
    format!("cf-{instance_id}")
}

/// Tells the engine which containers were adopted; the ids of their instances. Whoever looks at
/// containers beside a broker has to call it as well.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub async fn know_adopted(
    store: &Store,
    keys: &Keyring,
    engine: &Engine,
) -> Result<Vec<String>, StoreError> {
    let rows = store.read(|rows| {
        let ids = rows.list_instance_ids()?;
        let found = ids.iter().map(|id| rows.find_instance(id));
        found.collect::<Result<Vec<_>, _>>()
    });
    let mut known = Vec::new();
    for row in rows.await?.into_iter().flatten() {
        match Private::open(keys, &row) {
            Ok(Private { adopted: Some(adopted), .. }) => {
                engine.adopt(&adopted.container_id, labels(&row, engine.owner()));
                known.push(row.id);
            }
            Ok(_) => {}
            // Whatever needs it will fail; the others are served.
            Err(error) => tracing::error!(
                instance.id = row.id, error = %Chain(&error),
                "an instance cannot be read, nor whether it was adopted"
            ),
        }
    }
    Ok(known)
}

fn labels(row: &InstanceRow, owner: &str) -> Labels {
    Labels {
        owner: owner.to_owned(),
        instance_id: row.id.clone(),
        service_id: row.service_id.clone(),
        service_name: String::new(),
        plan_id: row.plan_id.clone(),
        generation: GENERATION,
    }
}

/// Gives an adopted container the name of one of ours. Gone, or renamed already: nothing.
pub(super) async fn settle_container(
    engine: &Engine,
    row: &InstanceRow,
    adopted: &Adopted,
) -> Result<(), DockerError> {
    let Some(found) = engine.inspect(&adopted.container_id).await? else { return Ok(()) };
    if found.name == legacy_name(&row.id) {
        engine.rename(&found.name, &container_name(engine.owner(), &row.name)).await?;
    }
    Ok(())
}

/// Takes the directory of an adopted container over, and keeps the link to it as long as there is
/// a container that finds its data by it.
pub(super) async fn settle_directory(
    disk: &Disk,
    row: &InstanceRow,
    adopted: &Adopted,
) -> Result<(), InternalError> {
    let Some(legacy) = adopted.directory.clone() else { return Ok(()) };
    let is_leaving = state_of(row)?.is_without_directory() || row.generation != GENERATION;
    let (disk, name) = (disk.clone(), row.name.clone());
    let take_over = move || disk.take_over(&name, &legacy, is_leaving);
    let moved = tokio::task::spawn_blocking(take_over).await;
    Ok(moved.map_err(|_| InternalError::Panic)??)
}

impl Broker {
    fn unsettled(&self) -> MutexGuard<'_, HashSet<String>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that container and directory of an adopted instance are where verbs expect
    /// them. `adopt` has done so, unless it was killed.
    pub(super) async fn settle(
        &self,
        id: &str,
        cancel: &CancellationToken,
        deadline: Instant,
    ) -> Result<(), Failure> {
        if !self.unsettled().contains(id) {
            return Ok(());
        }
        let _turn = tokio::select! {
            () = cancel.cancelled() => return Err(Failure::Interrupted),
            turn = timeout_at(deadline, self.settling.lock()) => turn.map_err(|_| {
                Failure::because("its adopted container waits for that of another instance")
            })?,
        };
        // Somebody else may have done it meanwhile.
        if !self.unsettled().contains(id) {
            return Ok(());
        }
        if let Some(instance) = self.find(id).await?
            && let Some(adopted) = &instance.private.adopted
        {
            let row = &instance.row;
            while_unreachable(cancel, deadline, || settle_container(&self.docker, row, adopted))
                .await?;
            settle_directory(&self.disk, row, adopted).await?;
        }
        self.unsettled().remove(id);
        Ok(())
    }

    /// Likewise for all of them, after a start. One that cannot be is tried again by whatever needs it.
    pub(super) async fn settle_all(&self) {
        let ids: Vec<String> = self.unsettled().iter().cloned().collect();
        for id in ids {
            let deadline = Instant::now() + self.limits.operation_timeout;
            if let Err(Failure::Failed { public, cause }) =
                self.settle(&id, &self.stopping, deadline).await
            {
                tracing::error!(
                    instance.id = id,
                    reason = public,
                    error = cause.map_or_else(String::new, |cause| Chain(&cause).to_string()),
                    "container or directory of an adopted instance are not where they should be"
                );
            }
        }
    }

    /// Whether parameters are those of an adopted instance, of which only the environment that they
    /// became is known.
    pub(super) fn means_the_same(
        &self,
        private: &Private,
        plan_id: &str,
        parameters: &Map<String, Value>,
    ) -> bool {
        let Some(offer) = self.catalog.find_plan(plan_id) else { return false };
        let sorted = |parameters| {
            let mut environment = parameter_environment(&offer.plan, parameters).ok()?;
            environment.sort();
            Some(environment)
        };
        private.adopted.is_some() && sorted(&private.parameters) == sorted(parameters)
    }

    /// Removes what an adopted instance has left outside of our directories.
    pub(super) async fn remove_legacy_link(
        &self,
        name: &str,
        adopted: Option<&Adopted>,
    ) -> Result<(), Failure> {
        let Some(legacy) = adopted.and_then(|adopted| adopted.directory.clone()) else {
            return Ok(());
        };
        let (disk, name) = (self.disk.clone(), name.to_owned());
        let removed = tokio::task::spawn_blocking(move || disk.remove_link(&name, &legacy)).await;
        Ok(removed.map_err(|_| Failure::from(InternalError::Panic))??)
    }
}

/// For `adopt`, which runs without a broker.
pub(super) async fn settle_offline(
    engine: &Engine,
    disk: &Disk,
    row: &InstanceRow,
    adopted: &Adopted,
) -> Result<(), InternalError> {
    settle_container(engine, row, adopted).await?;
    reach(Step::AdoptRenamed);
    settle_directory(disk, row, adopted).await
}
