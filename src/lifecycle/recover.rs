//! After a start: what was interrupted goes on, what is missing comes back, what is foreign or
//! left over is reported.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    Broker, InstanceState,
    error::{Failure, InternalError},
    health::WATCHED,
    instance::Instance,
    reconcile::is_right,
    replace::standby_name,
    retry::{FIRST_PAUSE, LONGEST_PAUSE, pause_for},
    tend::{History, Outcome},
    work::Context,
};
use crate::{docker::OwnedContainer, store::InstanceRow, telemetry::Chain};

/// Instances that are looked after at the same time. More than `max_parallel_starts`, which bounds
/// what dockerd has to do, as some only wait for their service.
const SIDE_BY_SIDE: usize = 16;

/// How far recovery got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It waits for dockerd.
    Waiting,
    /// It compares rows and containers.
    Running,
    /// Done. What could not be brought back is marked as unwell.
    Done,
}

impl Broker {
    /// Finishes what an earlier process left, once dockerd answers.
    ///
    /// # Errors
    /// [`InternalError`] when the store cannot be read.
    pub async fn recover(self: &Arc<Self>) -> Result<(), InternalError> {
        // Changes wait for it, so it is not given up.
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.compare_records().await {
            tracing::error!(error = %Chain(&error), "the records cannot be compared; tried again");
            if pause_for(&self.stopping, pause).await.is_err() {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
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
        if let Err(error) = self.report_orphans(&owned).await {
            // Only told: the instances come back all the same.
            tracing::warn!(error = %Chain(&error), "what has no instance could not be looked for");
        }
        self.report_missing_containers().await;
        let by_name: HashMap<&str, &OwnedContainer> =
            owned.iter().map(|one| (one.name.as_str(), one)).collect();
        let watched = self.store.read(|rows| rows.list_watched(WATCHED)).await?;
        let looks = stream::iter(watched).map(|row| {
            let name = self.container_name(&row.name);
            let well = is_right(&row, by_name.get(name.as_str()).copied())
                && !by_name.contains_key(standby_name(&name).as_str())
                && !self.is_outdated(&row.id);
            async move {
                let works = if well {
                    self.guard_running(&row.id).await
                } else {
                    self.recover_instance(&row.id).await
                };
                (!works).then_some(row.id)
            }
        });
        let looks = looks.buffer_unordered(SIDE_BY_SIDE);
        let failed: Vec<String> = looks.filter_map(futures_util::future::ready).collect().await;
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
        self.report_other_hosts().await?;
        tracing::info!(failed = failed.len(), "recovery is done");
        self.recovery.send_replace(Recovery::Done);
        Ok(())
    }

    /// Returns when recovery is done; never, if it fails.
    pub async fn recovered(&self) {
        let mut recovery = self.recovery.subscribe();
        if recovery.wait_for(|recovery| *recovery == Recovery::Done).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// `None` when the broker stops first.
    async fn wait_for_docker(&self) -> Option<Vec<OwnedContainer>> {
        let mut pause = FIRST_PAUSE;
        loop {
            let listed = match self.docker.ping().await {
                Ok(()) => {
                    // Names of adopted containers have to be right before they are listed.
                    self.settle_all().await;
                    self.docker.list_owned().await
                }
                Err(error) => Err(error),
            };
            match listed {
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
    /// Whether it works.
    async fn recover_instance(&self, id: &str) -> bool {
        // Now or never: what an update has left is not looked for later.
        if let Err(Failure::Failed { public, .. }) = self.discard_standby_of(id).await {
            tracing::warn!(instance.id = id, reason = public, "an old container is left");
        }
        match self.tend(id, &mut History::at_start()).await {
            Outcome::Waiting | Outcome::Failed { .. } => {
                tracing::error!(instance.id = id, "an instance could not be brought back");
                false
            }
            Outcome::Well
            | Outcome::PutBack
            | Outcome::Treated
            | Outcome::Busy
            | Outcome::Released => true,
        }
    }

    async fn discard_standby_of(&self, id: &str) -> Result<(), Failure> {
        let cancel = self.stopping.child_token();
        let Some(_hold) = self.works.hold(id, None, cancel.clone()) else { return Ok(()) };
        let Some(instance) = self.find(id).await? else { return Ok(()) };
        if instance.state != InstanceState::Ready || instance.is_guest() || self.is_outdated(id) {
            return Ok(());
        }
        let deadline = Instant::now() + self.limits.operation_timeout;
        let context = Context::unattended(cancel, deadline);
        self.discard_stale_standby(&instance, &context).await?;
        self.sweep_after_update(&instance, false).await;
        Ok(())
    }

    /// Brings the container back from which an update failed to go away.
    pub(super) async fn restore_after_update(
        &self,
        instance: &Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        if self.stay_after_all(instance, context).await? {
            return Ok(());
        }
        let old = self.with_former_ports(instance).await?;
        self.restore(&old, context).await?;
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
