//! Instances in a container that is not theirs alone: an existing one, or a shared one. It stays
//! when they go, so nothing of them may be left in it.

use tokio::time::timeout_at;

use super::{
    Broker, binding::Sealed, error::Failure, instance::Instance, retry::while_unreachable,
    work::Context,
};
use crate::catalog::Action;

impl Broker {
    /// Waits until the container of a guest serves, and takes its ports.
    pub(super) async fn join(
        &self,
        instance: &mut Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        if instance.definition.plan.tenancy.is_some() {
            return self.join_host(instance, context).await;
        }
        self.join_existing(instance, context).await?;
        self.wait_until_ready(instance, context).await
    }

    /// Takes back what a guest has in a container that stays: first the credentials of its bindings.
    pub(super) async fn clear_guest(
        &self,
        instance: &Instance,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        let instance = &self.after_host_upgrade(instance, context).await?;
        if !self.has_traces(instance, context).await? {
            return Ok(());
        }
        let id = instance.row.id.clone();
        let bindings = self.store.read(move |rows| rows.list_bindings(&id)).await?;
        for row in bindings {
            let sealed = Sealed::open(&self.keys, &row)?;
            self.revoke(instance, &row.id, &sealed, operation_id, context).await?;
        }
        self.run_own_hook(Action::Deprovision, instance, operation_id, context).await?;
        Ok(())
    }

    /// Whether there may be anything of a guest in its container.
    async fn has_traces(&self, instance: &Instance, context: &Context) -> Result<bool, Failure> {
        if instance.host.as_ref().is_some_and(|host| !host.served) {
            return Ok(false);
        }
        let name = self.container_of(instance);
        let inspect =
            || while_unreachable(&context.cancel, context.deadline, || self.docker.inspect(&name));
        let mut found = inspect().await?;
        if found.is_none() && instance.host.is_some() {
            // After a start of the broker it may be on its way back.
            tokio::select! {
                () = context.cancel.cancelled() => return Err(Failure::Interrupted),
                late = context.ended() => return Err(late),
                _ = timeout_at(context.deadline, self.recovered()) => {}
            }
            found = inspect().await?;
        }
        if found.is_none() && instance.host.is_some() {
            return Err(Failure::because(
                "the shared container is missing; start the broker again, then delete again",
            ));
        }
        // An existing one may be on its way back, with the users and the data that hooks have made.
        let hooks = &self.hooking_plan(instance, Action::Deprovision).lifecycle;
        if found.is_none() && (hooks.deprovision.is_some() || hooks.unbind.is_some()) {
            return Err(Failure::because(format!(
                "the container {name} is missing, and what hooks have made in it is to be removed; \
                 delete again when it is there"
            )));
        }
        Ok(found.is_some())
    }
}
