//! Carrying an update out: from the old container to the new one, and back if need be.
//!
//! The new container is made while the old one still serves, and is started the moment that one has
//! stopped. The old one stands by under another name until the new one answers; it comes back when
//! that does not. Ports and secrets are the same for both, and so is the
//! data, unless the new one may rewrite it: then the way back
//! (`way_back.rs`) is to a copy (`snapshot.rs`).

use std::sync::Arc;

use super::{
    Broker, Event, InstanceState,
    container::Faults,
    data_version::{INTERRUPTED, Migration},
    error::{Failure, InternalError},
    fault::{Step, reach},
    guard::mount_problem,
    instance::{Instance, SealedDefinition},
    last_operation::SUCCEEDED,
    retry::{check, while_unreachable},
    snapshot::Chosen,
    tenancy::is_host,
    update::{Target, merged_context},
    work::Context,
};
use crate::{
    catalog::{Action, RestartPolicy},
    disk::Snapshot,
    docker::{ContainerFacts, DockerError, ImageFacts},
    store::OperationRow,
};

/// Mark beside the copy of the data: the migration hook may have begun.
const MIGRATING: &str = "migrating";
/// Likewise: it has succeeded.
const MIGRATED: &str = "migrated";

/// Name under which the new container waits for the old one to stop.
pub(super) fn prepared_name(name: &str) -> String {
    format!("{name}.new")
}

/// Name under which the old container stands by.
#[must_use]
pub fn standby_name(name: &str) -> String {
    format!("{name}.old")
}

impl Broker {
    /// Carries an update out, from wherever it got to. Whatever makes it fail is for
    /// [`Broker::end_update`].
    pub(super) async fn run_update(
        self: &Arc<Self>,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<(), Failure> {
        let mut old = self.get(&operation.instance_id).await?;
        let target = Target::open(&self.keys, operation)?;
        // Those of the moment of acceptance; an interrupted attempt may have reserved more.
        old.ports.clone_from(&target.ports);
        if let Some(reason) = &operation.description {
            // It had been decided to go back: what was done may be half taken back already.
            return Err(Failure::Failed {
                public: reason.clone(),
                cause: operation.refused.then_some(InternalError::HookRefused),
            });
        }
        self.discard_stale_standby(&old, context).await?;
        let mut new = successor(&old, &target);
        let polled = context.for_plan(&target.definition.plan);
        if old.is_guest() {
            self.upgrade_host(&old, &target, &polled).await?;
            // Nothing of the container is the instance's.
            self.take_ports(&mut new).await;
            self.run_own_hook(Action::Update, &new, &operation.id, &polled).await?;
            reach(Step::UpdateHooked);
            self.commit_update(operation, &new, &target, SUCCEEDED, None, context).await?;
            reach(Step::UpdateCommitted);
            return Ok(());
        }
        if is_host(&old.row.id) {
            self.let_hooks_end(&self.container_of(&old), &polled).await?;
        }
        self.change(&old, &mut new, &target, &operation.id, &polled).await?;
        reach(Step::UpdateReady);
        self.give_up_copy(&old, &operation.id, context).await?;
        self.run_own_hook(Action::Update, &new, &operation.id, &polled).await?;
        reach(Step::UpdateHooked);
        self.commit_update(operation, &new, &target, SUCCEEDED, None, context).await?;
        reach(Step::UpdateCommitted);
        self.clear_up(&old, context).await;
        Ok(())
    }

    /// Ends an update that failed, wherever it got to: an instance is `ready` again only when the
    /// way back has been gone to its end. The result is how the operation ends.
    pub(super) async fn end_update(
        &self,
        operation: &OperationRow,
        context: &Context,
        failure: Failure,
    ) -> Failure {
        if matches!(failure, Failure::Interrupted) {
            return failure;
        }
        match self.find_way_back(operation, context).await {
            // It has ended already.
            Ok(None) => failure,
            Ok(Some((operation, old, _))) if old.is_guest() => {
                // Nothing of the container is the instance's.
                let Failure::Failed { public, cause } = failure else { return failure };
                let refused = matches!(cause, Some(InternalError::HookRefused));
                let recorded =
                    self.fail_with(operation, public.clone(), Event::FailIntact, refused).await;
                recorded.map_or_else(Failure::from, |()| Failure::Failed { public, cause })
            }
            Ok(Some((operation, old, target))) => {
                match self.is_past_copy(&old, &operation.id).await {
                    // With a reason written down it is the way back that has used it up.
                    Ok(true) if operation.description.is_none() => {
                        let new = successor(&old, &target);
                        self.stay(&operation, new, &target, context, failure).await
                    }
                    Ok(_) => self.go_back(&old, &operation, context, failure).await,
                    Err(error) => error.into(),
                }
            }
            Err(Failure::Interrupted) => Failure::Interrupted,
            Err(Failure::Failed { public, cause }) => {
                tracing::error!(
                    operation.id,
                    instance.id = operation.instance_id,
                    reason = public,
                    error =
                        cause.map_or_else(String::new, |e| crate::telemetry::Chain(&e).to_string()),
                    "the way back of an update cannot be begun"
                );
                failure
            }
        }
    }

    /// Removes what an update that is committed needs no more.
    pub(super) async fn clear_up(&self, old: &Instance, context: &Context) {
        let standby = standby_name(&self.container_name(&old.row.name));
        let removed = while_unreachable(&context.cancel, context.deadline, || {
            self.docker.remove(&standby, &old.row.id)
        })
        .await;
        if let Err(Failure::Failed { public, .. }) = removed {
            // The update is done; the next start removes what is left.
            tracing::warn!(instance.id = old.row.id, reason = public, "the old container is left");
        }
        self.sweep_after_update(old, true).await;
    }

    async fn change(
        &self,
        old: &Instance,
        new: &mut Instance,
        target: &Target,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        self.finish_earlier_way_back(old, target, operation_id, context).await?;
        // Everything that can fail without touching the old container comes first.
        self.require_image(&new.definition, context).await?;
        let image = self.present_image(new, context).await?;
        if let Some(problem) = mount_problem(&new.definition.plan.container, &image) {
            return Err(Failure::because(problem));
        }
        self.require_ports(new, &image).await?;
        self.require_data(old).await?;
        let is_made = self.has_begun(new, context).await?;
        let (migration, copying) = if is_made {
            // What comes before it has been done.
            (None, None)
        } else {
            self.prepare_data(old, new, target, &image, operation_id, context).await?
        };
        self.ensure_directories(new).await?;
        if !is_made {
            self.prepare_container(new, context).await?;
        }
        self.stop_old(old, context).await?;
        if let Some(copying) = copying {
            self.keep_copy(old, operation_id, copying, context).await?;
        }
        if let Some(migration) = migration {
            self.mark(old, operation_id, MIGRATING).await?;
            reach(Step::UpdateMigrating);
            self.migrate(new, migration, operation_id, context).await?;
            self.mark(old, operation_id, MIGRATED).await?;
            reach(Step::UpdateMigrated);
        }
        self.start_prepared(new).await;
        reach(Step::UpdateStarted);
        self.swap_names(old, new, context).await?;
        let faults = Faults { created: Some(Step::UpdateCreated), ..Faults::NONE };
        self.bring_up(new, true, faults, context).await
    }

    /// Whether the new container has its name, or runs: the data is its own then.
    async fn has_begun(&self, new: &Instance, context: &Context) -> Result<bool, Failure> {
        let name = self.container_name(&new.row.name);
        let is_new = |facts: Option<&ContainerFacts>| {
            facts.and_then(|facts| facts.labels.as_ref()).is_some_and(|labels| {
                labels.instance_id == new.row.id && labels.generation == new.row.generation
            })
        };
        while_unreachable(&context.cancel, context.deadline, async || {
            let named = self.docker.inspect(&name).await?;
            let prepared = self.docker.inspect(&prepared_name(&name)).await?;
            let runs = prepared.as_ref().is_some_and(|facts| facts.running);
            Ok(is_new(named.as_ref()) || (runs && is_new(prepared.as_ref())))
        })
        .await
    }

    /// What is behind the reference of the new plan now: it may be another one than at the start.
    pub(super) async fn present_image(
        &self,
        new: &Instance,
        context: &Context,
    ) -> Result<ImageFacts, Failure> {
        let image = &new.definition.plan.container.image;
        let found =
            while_unreachable(&context.cancel, context.deadline, || self.images.look(image))
                .await?;
        if let Some(facts) = found {
            return Ok(facts);
        }
        self.images.forget(image);
        self.require_image(&new.definition, context).await
    }

    /// What has to happen to the data between the two containers. Nothing is touched.
    async fn prepare_data(
        &self,
        old: &Instance,
        new: &Instance,
        target: &Target,
        image: &ImageFacts,
        operation_id: &str,
        context: &Context,
    ) -> Result<(Option<Migration>, Option<Chosen>), Failure> {
        let (name, key) = (old.row.name.clone(), operation_id.to_owned());
        let (copy, begun, migrated) = self
            .on_disk(move |disk| {
                let is_marked = |mark| disk.is_marked(&name, &key, mark);
                let copy = disk.snapshot_of(&name, &key)?;
                Ok((copy, is_marked(MIGRATING)?, is_marked(MIGRATED)?))
            })
            .await?;
        if migrated {
            return Ok((None, None));
        }
        if begun {
            return Err(Failure::because(INTERRUPTED));
        }
        let migration = self.guard(new, image, context).await?;
        let copying = match copy {
            Snapshot::Absent => {
                self.choose_copy(old, target, image, migration.is_some(), operation_id, context)
                    .await?
            }
            Snapshot::Kept | Snapshot::Spent => None,
        };
        Ok((migration, copying))
    }

    async fn mark(
        &self,
        old: &Instance,
        operation_id: &str,
        mark: &'static str,
    ) -> Result<(), Failure> {
        let (name, key) = (old.row.name.clone(), operation_id.to_owned());
        Ok(self.on_disk(move |disk| disk.mark(&name, &key, mark)).await?)
    }

    /// Makes the new container while the old one still serves. What cannot be done now is tried
    /// again when it is needed.
    async fn prepare_container(&self, new: &Instance, context: &Context) -> Result<(), Failure> {
        check(&context.cancel)?;
        self.require_certificate(new).await?;
        let spec = self.spec(new)?;
        let prepared = prepared_name(&spec.name);
        match self.docker.prepare_container(&spec, &prepared).await {
            Ok(()) => reach(Step::UpdateCreated),
            Err(error) => tracing::warn!(
                instance.id = new.row.id,
                error = %crate::telemetry::Chain(&error),
                "the new container cannot be made beside the old one"
            ),
        }
        Ok(())
    }

    /// Stops the old container, unless it has given up its name already.
    async fn stop_old(&self, old: &Instance, context: &Context) -> Result<(), Failure> {
        check(&context.cancel)?;
        context.step("stopping the container");
        let name = self.container_name(&old.row.name);
        if !self.is_old(old, context).await? {
            return Ok(());
        }
        let grace = old.definition.plan.container.stop_timeout;
        let steps = async || {
            // dockerd must not start it beside the new one.
            self.docker.set_restart(&name, &RestartPolicy::No).await?;
            self.docker.stop(&name, grace).await
        };
        while_unreachable(&context.cancel, context.deadline, steps).await?;
        reach(Step::UpdateStopped);
        Ok(())
    }

    /// Whether the old container has the instance's name.
    async fn is_old(&self, old: &Instance, context: &Context) -> Result<bool, Failure> {
        let name = self.container_name(&old.row.name);
        let generation = while_unreachable(&context.cancel, context.deadline, || {
            self.docker.generation(&name, &old.row.id)
        });
        Ok(generation.await? == Some(old.row.generation))
    }

    /// Starts the prepared container at once: its name can wait, clients cannot. What goes wrong
    /// is met again, and dealt with, when it has its name.
    async fn start_prepared(&self, new: &Instance) {
        let prepared = prepared_name(&self.container_name(&new.row.name));
        let started = async {
            if self.docker.generation(&prepared, &new.row.id).await? == Some(new.row.generation) {
                // The semaphore is never closed.
                let _permit = self.starts.acquire().await;
                self.docker.start(&prepared).await?;
            }
            Ok::<(), DockerError>(())
        };
        if let Err(error) = started.await {
            tracing::warn!(
                instance.id = new.row.id,
                error = %crate::telemetry::Chain(&error),
                "the new container does not start at once"
            );
        }
    }

    /// Gives the old container its other name, and the new one the name of the instance.
    async fn swap_names(
        &self,
        old: &Instance,
        new: &Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        let name = self.container_name(&old.row.name);
        let (standby, prepared) = (standby_name(&name), prepared_name(&name));
        if self.is_old(old, context).await? {
            while_unreachable(&context.cancel, context.deadline, || {
                self.docker.rename(&name, &standby)
            })
            .await?;
            reach(Step::UpdateRenamed);
        }
        while_unreachable(&context.cancel, context.deadline, async || {
            match self.docker.generation(&prepared, &new.row.id).await? {
                Some(generation) if generation == new.row.generation => {
                    self.docker.rename(&prepared, &name).await
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// Removes what an update has left that was committed: as a standby it would be taken for the
    /// container to go back to.
    pub(super) async fn discard_stale_standby(
        &self,
        instance: &Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        let standby = standby_name(&self.container_name(&instance.row.name));
        let id = &instance.row.id;
        while_unreachable(&context.cancel, context.deadline, async || {
            match self.docker.generation(&standby, id).await? {
                Some(generation) if generation != instance.row.generation => {
                    self.docker.remove(&standby, id).await
                }
                _ => Ok(()),
            }
        })
        .await
    }

    pub(super) async fn commit_update(
        &self,
        operation: &OperationRow,
        new: &Instance,
        target: &Target,
        outcome: &'static str,
        reason: Option<String>,
        context: &Context,
    ) -> Result<(), Failure> {
        let sealed = new.private.seal(&self.keys, &new.row.id)?;
        let definition = SealedDefinition::new(&self.keys, &target.definition)?;
        let definition = Arc::new(definition);
        let committed = self.conclude(&context.cancel, || {
            let (id, mut row) = (operation.id.clone(), new.row.clone());
            let (definition, sealed) = (Arc::clone(&definition), sealed.clone());
            let reason = reason.clone();
            move |rows| {
                if !rows.finish_operation(&id, outcome, reason.as_deref())? {
                    let present = rows.find_instance(&row.id)?;
                    // That it failed may have been recorded before its way was known.
                    if present.is_none_or(|row| row.state != InstanceState::UpdateFailed.as_str()) {
                        return Ok(Err(Failure::Interrupted));
                    }
                }
                row.definition_hash = definition.store(rows)?;
                row.sealed = sealed;
                InstanceState::Ready.as_str().clone_into(&mut row.state);
                rows.update_instance(&row)?;
                Ok(Ok(()))
            }
        });
        committed.await?
    }
}

/// The instance as it is to become.
pub(super) fn successor(old: &Instance, target: &Target) -> Instance {
    let mut new = old.clone();
    new.row.plan_id.clone_from(&target.plan_id);
    new.row.maintenance.clone_from(&target.maintenance);
    new.row.generation += 1;
    new.definition = Arc::new(target.definition.clone());
    new.private.parameters.clone_from(&target.parameters);
    new.private.context = merged_context(&old.private.context, target.context.as_ref());
    new.private.secrets.clone_from(&target.secrets);
    let former = &mut new.private.former_plans;
    if old.row.plan_id != target.plan_id && !former.contains(&old.row.plan_id) {
        former.push(old.row.plan_id.clone());
    }
    new
}
