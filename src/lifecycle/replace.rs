//! Carrying an update out: from the old container to the new one, and back if need be.
//!
//! The old container stands by, stopped and under another name, until the new one answers; it
//! comes back when the new one does not. Data, ports and secrets are the same for both.

use std::sync::Arc;

use super::{
    Broker, Event, InstanceState,
    container::Faults,
    error::{Failure, InternalError},
    fault::{Step, reach},
    instance::{Instance, SealedDefinition},
    last_operation::SUCCEEDED,
    retry::{check, while_unreachable},
    update::{Target, merged_context},
    work::Context,
};
use crate::{
    catalog::{Action, RestartPolicy},
    store::OperationRow,
};

/// Name under which the old container stands by.
pub(super) fn standby_name(name: &str) -> String {
    format!("{name}.old")
}

impl Broker {
    /// Carries an update out, from wherever it got to.
    pub(super) async fn run_update(
        &self,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<(), Failure> {
        let mut old = self.get(&operation.instance_id).await?;
        let target = Target::open(&self.keys, operation)?;
        // Those of the moment of acceptance; an interrupted attempt may have reserved more.
        old.ports.clone_from(&target.ports);
        self.discard_stale_standby(&old, context).await?;
        let mut new = successor(&old, &target);
        let polled = context.for_plan(&target.definition.plan);
        if old.is_guest() {
            // Nothing of the container is the instance's.
            self.take_ports(&mut new).await;
            self.run_own_hook(Action::Update, &new, &operation.id, &polled).await?;
            reach(Step::UpdateHooked);
            self.commit_update(operation, &new, &target, context).await?;
            reach(Step::UpdateCommitted);
            return Ok(());
        }
        let changed = self.change(&old, &mut new, &operation.id, &polled).await;
        match changed {
            Ok(()) => {}
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(Failure::Failed { public, cause }) => {
                reach(Step::UpdateRollingBack);
                let context = &context.renewed(self.limits.operation_timeout);
                return Err(self.roll_back(&old, operation, context, public, cause).await);
            }
        }
        self.commit_update(operation, &new, &target, context).await?;
        reach(Step::UpdateCommitted);
        let standby = standby_name(&self.container_name(&old.row.name));
        let removed = while_unreachable(&context.cancel, context.deadline, || {
            self.docker.remove(&standby, &old.row.id)
        })
        .await;
        if let Err(Failure::Failed { public, .. }) = removed {
            // The update is done; the next start removes what is left.
            tracing::warn!(instance.id = old.row.id, reason = public, "the old container is left");
        }
        Ok(())
    }

    async fn change(
        &self,
        old: &Instance,
        new: &mut Instance,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        // Everything that can fail without touching the old container comes first.
        let image = self.require_image(&new.definition, context).await?;
        self.require_ports(new, &image).await?;
        self.require_data(old).await?;
        self.ensure_directories(new).await?;
        self.put_on_standby(old, context).await?;
        let faults = Faults { created: Some(Step::UpdateCreated), ..Faults::NONE };
        self.bring_up(new, true, faults, context).await?;
        reach(Step::UpdateReady);
        self.run_own_hook(Action::Update, new, operation_id, context).await?;
        reach(Step::UpdateHooked);
        Ok(())
    }

    /// Stops the old container and gives it its other name, unless that has happened already.
    async fn put_on_standby(&self, old: &Instance, context: &Context) -> Result<(), Failure> {
        check(&context.cancel)?;
        context.step("stopping the container");
        let name = self.container_name(&old.row.name);
        let found =
            while_unreachable(&context.cancel, context.deadline, || self.docker.inspect(&name))
                .await?;
        let is_old = found
            .and_then(|facts| facts.labels)
            .is_some_and(|labels| labels.generation == old.row.generation);
        if !is_old {
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
        let standby = standby_name(&name);
        while_unreachable(&context.cancel, context.deadline, || {
            self.docker.rename(&name, &standby)
        })
        .await?;
        reach(Step::UpdateRenamed);
        Ok(())
    }

    /// Brings the old container back. The result is how the operation ends.
    async fn roll_back(
        &self,
        old: &Instance,
        operation: &OperationRow,
        context: &Context,
        reason: String,
        cause: Option<InternalError>,
    ) -> Failure {
        context.step("going back to what was there before");
        match self.restore(old, context).await {
            Ok(()) => {
                reach(Step::UpdateRolledBack);
                let public = format!("{reason}; nothing was changed");
                Failure::Failed { public, cause }
            }
            Err(Failure::Interrupted) => Failure::Interrupted,
            Err(Failure::Failed { public, cause: second }) => {
                let public = format!("{reason}; and the way back failed: {public}");
                let recorded =
                    self.fail_with(operation.clone(), public.clone(), Event::Fail, false).await;
                if let Err(error) = recorded {
                    return error.into();
                }
                Failure::Failed { public, cause: second.or(cause) }
            }
        }
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

    /// Brings the container of the present generation back under its name, and up.
    pub(super) async fn restore(&self, old: &Instance, context: &Context) -> Result<(), Failure> {
        let (name, id) = (self.container_name(&old.row.name), &old.row.id);
        let standby = standby_name(&name);
        let container = &old.definition.plan.container;
        let steps = async || {
            if self.docker.generation(&standby, id).await? == Some(old.row.generation) {
                if self.docker.owns(&name, id).await? {
                    // Its clients may have written to it: it ends as gently as any other.
                    self.docker.stop(&name, container.stop_timeout).await?;
                    self.docker.remove_own(&name).await?;
                }
                self.docker.rename(&standby, &name).await?;
            }
            if self.docker.owns(&name, id).await? {
                self.docker.set_restart(&name, &container.restart).await?;
            }
            Ok(())
        };
        while_unreachable(&context.cancel, context.deadline, steps).await?;
        let mut old = old.clone();
        self.bring_up(&mut old, true, Faults::NONE, context).await?;
        self.release_ports_beyond(&old).await
    }

    /// Gives up ports that were reserved for the new container.
    async fn release_ports_beyond(&self, old: &Instance) -> Result<(), Failure> {
        let (id, known) = (old.row.id.clone(), old.ports.clone());
        let released = self.store.write(move |rows| {
            for row in rows.list_ports(&id)? {
                if !known.values().any(|port| *port == row.port) {
                    rows.release_port(&row.protocol, row.port)?;
                }
            }
            Ok(Ok::<(), Failure>(()))
        });
        released.await?
    }

    async fn commit_update(
        &self,
        operation: &OperationRow,
        new: &Instance,
        target: &Target,
        context: &Context,
    ) -> Result<(), Failure> {
        let sealed = new.private.seal(&self.keys, &new.row.id)?;
        let definition = SealedDefinition::new(&self.keys, &target.definition)?;
        let definition = Arc::new(definition);
        let committed = self.conclude(&context.cancel, || {
            let (id, mut row) = (operation.id.clone(), new.row.clone());
            let (definition, sealed) = (Arc::clone(&definition), sealed.clone());
            move |rows| {
                if !rows.finish_operation(&id, SUCCEEDED, None)? {
                    return Ok(Err(Failure::Interrupted));
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
fn successor(old: &Instance, target: &Target) -> Instance {
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
