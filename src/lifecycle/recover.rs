//! After a start: what was interrupted goes on, what is missing comes back, what is foreign or
//! left over is reported.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    Broker, InstanceState,
    container::Faults,
    error::{Failure, InternalError},
    instance::Instance,
    replace::standby_name,
    retry::{FIRST_PAUSE, LONGEST_PAUSE, pause_for},
    work::Context,
};
use crate::{
    catalog::InstanceId, disk::DiskError, docker::OwnedContainer, store::InstanceRow,
    telemetry::Chain,
};

/// Instances that are brought back at the same time.
const SIDE_BY_SIDE: usize = 4;

/// How long an instance that was given up may take to answer when it is asked for again.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// How far recovery got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It waits for dockerd.
    Waiting,
    /// It compares rows and containers.
    Running,
    /// Done. `failed` are instances that could not be brought back.
    Done {
        /// Their ids.
        failed: Vec<String>,
    },
}

impl Broker {
    /// Finishes what an earlier process left, once dockerd answers.
    ///
    /// # Errors
    /// [`InternalError`] when the store cannot be read.
    pub async fn recover(self: &Arc<Self>) -> Result<(), InternalError> {
        self.report_hidden_plans().await?;
        let running = self.store.read(|rows| rows.list_running_operations()).await?;
        // Hooks need the container of their instance: they come when that has been looked after.
        let (on_bindings, on_instances): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|operation| operation.binding_id.is_some());
        for operation in on_instances {
            tracing::info!(
                operation.id,
                instance.id = operation.instance_id,
                operation.kind,
                "an interrupted operation goes on"
            );
            self.resume(operation);
        }
        let Some(owned) = self.wait_for_docker().await else { return Ok(()) };
        self.recovery.send_replace(Recovery::Running);
        self.report_orphans(&owned).await?;
        self.report_missing_containers().await;
        let by_name: Arc<HashMap<String, OwnedContainer>> =
            Arc::new(owned.into_iter().map(|one| (one.name.clone(), one)).collect());
        let ids = self.store.read(|rows| rows.list_instance_ids()).await?;
        let failed: Vec<String> = stream::iter(ids)
            .map(|id| {
                let (broker, by_name) = (Arc::clone(self), Arc::clone(&by_name));
                async move {
                    match broker.restore_instance(&id, &by_name).await {
                        Ok(()) | Err(Failure::Interrupted) => None,
                        Err(Failure::Failed { public, cause }) => {
                            let cause = cause.map_or_else(String::new, |e| Chain(&e).to_string());
                            tracing::error!(
                                instance.id = id,
                                reason = public,
                                error = cause,
                                "an instance could not be brought back"
                            );
                            broker.lose(&id);
                            Some(id)
                        }
                    }
                }
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .filter_map(futures_util::future::ready)
            .collect()
            .await;
        for operation in on_bindings {
            tracing::info!(
                operation.id,
                instance.id = operation.instance_id,
                binding.id = operation.binding_id,
                operation.kind,
                "an interrupted operation goes on"
            );
            self.resume(operation);
        }
        tracing::info!(failed = failed.len(), "recovery is done");
        self.recovery.send_replace(Recovery::Done { failed });
        Ok(())
    }

    /// Returns when recovery is done; never, if it fails.
    pub async fn recovered(&self) {
        let mut recovery = self.recovery.subscribe();
        let done = |recovery: &Recovery| matches!(recovery, Recovery::Done { .. });
        if recovery.wait_for(done).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// `None` when the broker stops first.
    async fn wait_for_docker(&self) -> Option<Vec<OwnedContainer>> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.docker.list_owned().await {
                Ok(owned) => match self.docker.ensure_networks().await {
                    Ok(()) => return Some(owned),
                    Err(error) => {
                        tracing::error!(error = %Chain(&error), "cannot prepare the network");
                    }
                },
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "recovery waits for the Docker engine");
                }
            }
            pause_for(&self.stopping, pause).await.ok()?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A usable instance without a running container gets it back, with its ports and its data.
    async fn restore_instance(
        &self,
        id: &str,
        containers: &HashMap<String, OwnedContainer>,
    ) -> Result<(), Failure> {
        let cancel = self.stopping.child_token();
        // An operation that runs already does what is needed.
        let Some(_hold) = self.works.hold(id, None, cancel.clone()) else { return Ok(()) };
        let Some(mut instance) = self.find(id).await? else { return Ok(()) };
        if !instance.state.is_usable() {
            return Ok(());
        }
        let name = self.container_name(&instance.row.name);
        let deadline = Instant::now() + self.limits.operation_timeout;
        let context = Context::unattended(cancel, deadline);
        if instance.definition.plan.container.existing.is_some() {
            return self.join_existing(&mut instance, &context).await;
        }
        if instance.is_guest() {
            // Its host is an instance as well.
            return Ok(());
        }
        if instance.state == InstanceState::UpdateFailed {
            self.require_data(&instance).await?;
            return self.restore_after_update(&instance, &context).await;
        }
        if containers.contains_key(&standby_name(&name)) {
            self.discard_stale_standby(&instance, &context).await?;
        }
        let current = containers
            .get(&name)
            .is_some_and(|one| one.running && one.labels.generation == instance.row.generation);
        if current {
            return Ok(());
        }
        tracing::warn!(instance.id = id, container.name = name, "bringing an instance back");
        self.require_data(&instance).await?;
        self.require_image(&instance.definition, &context).await?;
        self.bring_up(&mut instance, true, Faults::NONE, &context).await
    }

    /// Brings the container back from which an update failed to go away.
    async fn restore_after_update(
        &self,
        instance: &Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        self.restore(instance, context).await?;
        let id = instance.row.id.clone();
        let written = self.store.write(move |rows| {
            if let Some(row) = rows.find_instance(&id)?
                && row.state == InstanceState::UpdateFailed.as_str()
            {
                let state = InstanceState::Ready.as_str().to_owned();
                rows.update_instance(&InstanceRow { state, ..row })?;
            }
            Ok(Ok::<(), Failure>(()))
        });
        written.await?
    }

    /// Looks once more for an instance that could not be brought back: it may only have been slow.
    pub(super) async fn look_for(&self, id: &InstanceId) -> Result<(), InternalError> {
        let wanted = id.to_string();
        let host = self.store.read(move |rows| rows.find_host_of(&wanted)).await?;
        let id = host.as_deref().unwrap_or(id.as_str());
        if !self.is_lost(id) {
            return Ok(());
        }
        let Some(instance) = self.find(id).await? else { return Ok(()) };
        let deadline = Instant::now() + SECOND_LOOK;
        let context = Context::unattended(self.stopping.child_token(), deadline);
        if self.answers(&instance, &context, SECOND_LOOK).await {
            self.found(id);
        }
        Ok(())
    }

    /// A server that starts on a missing directory starts empty: better not at all.
    pub(super) async fn require_data(&self, instance: &Instance) -> Result<(), Failure> {
        let volumes = &instance.definition.plan.container.volumes;
        let paths = self.disk.paths(&instance.row.name, volumes)?;
        for path in paths {
            let there = tokio::fs::try_exists(&path).await.map_err(|source| DiskError::Io {
                verb: "look at",
                path: path.clone(),
                source,
            })?;
            if !there {
                return Err(Failure::because(format!(
                    "its data directory {} is missing, so its container was not started; restore \
                     the directory, or delete the service instance",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// Says which plans are served although they have left the configuration.
    async fn report_hidden_plans(&self) -> Result<(), InternalError> {
        let plans = self.store.read(|rows| rows.count_instances_by_plan()).await?;
        for (plan_id, instances) in plans {
            if self.catalog.find_plan(&plan_id).is_none() {
                tracing::warn!(
                    plan.id = plan_id,
                    instances,
                    "a plan has left the configuration but has instances; they are served, the \
                     plan is hidden from the catalog"
                );
            }
        }
        Ok(())
    }

    /// Says what is there without an instance. Nothing of it is touched.
    async fn report_orphans(&self, owned: &[OwnedContainer]) -> Result<(), InternalError> {
        let ids: HashSet<String> =
            self.store.read(|rows| rows.list_instance_ids()).await?.into_iter().collect();
        for container in owned.iter().filter(|one| !ids.contains(&one.labels.instance_id)) {
            tracing::warn!(
                container.name = container.name,
                instance.id = container.labels.instance_id,
                "a container of this broker has no instance; it is left alone"
            );
        }
        let disk = self.disk.clone();
        let listed = tokio::task::spawn_blocking(move || disk.list());
        let directories = listed.await.map_err(|_| InternalError::Panic)??;
        let names: HashSet<String> =
            self.store.read(|rows| rows.list_instance_names()).await?.into_iter().collect();
        for directory in directories.iter().filter(|name| !names.contains(*name)) {
            tracing::warn!(directory, "a directory has no instance; it is left alone");
        }
        Ok(())
    }
}
