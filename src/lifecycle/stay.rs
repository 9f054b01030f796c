//! Updates that fail when there is no way back any more: the new container was ready, and stays.

use super::{
    Broker, InstanceState,
    container::Faults,
    error::{Failure, InternalError},
    instance::Instance,
    last_operation::FAILED,
    replace::successor,
    update::Target,
    work::Context,
};
use crate::store::OperationRow;

impl Broker {
    /// Whether the copy for this update was given up: the new container was ready, and the old one
    /// cannot have the data back as it is now.
    pub(super) async fn is_past_copy(
        &self,
        old: &Instance,
        key: &str,
    ) -> Result<bool, InternalError> {
        let (name, key) = (old.row.name.clone(), key.to_owned());
        self.on_disk(move |disk| disk.is_given_up(&name, &key)).await
    }

    /// The update hook failed, or the new container did not come up again after the broker had
    /// died. But it was ready, and may have confirmed writes to data that the old one does not
    /// understand: it stays, and is looked after. The operation fails; the next upgrade runs the
    /// hook again.
    pub(super) async fn stay(
        &self,
        operation: &OperationRow,
        new: Instance,
        target: &Target,
        context: &Context,
        failure: Failure,
    ) -> Failure {
        let Failure::Failed { public, cause } = failure else { return failure };
        let public = format!(
            "{public}; the new version was ready and has the data, so there is no way back: upgrade \
             again, or ask the operator"
        );
        match self.keep_new(operation, new, target, public.clone(), context).await {
            Ok(()) => Failure::Failed { public, cause },
            Err(failure) => failure,
        }
    }

    /// Makes an instance what a failed update was to make of it.
    async fn keep_new(
        &self,
        operation: &OperationRow,
        mut new: Instance,
        target: &Target,
        reason: String,
        context: &Context,
    ) -> Result<(), Failure> {
        // Not up to date: it lacks what its hook would have done.
        new.row.maintenance = None;
        self.commit_update(operation, &new, target, FAILED, Some(reason), context).await?;
        self.clear_up(&new, context).await;
        Ok(())
    }

    /// The last update of an instance if it failed.
    pub(super) async fn find_failed_update(
        &self,
        id: &str,
    ) -> Result<Option<OperationRow>, InternalError> {
        let id = id.to_owned();
        let last = self.store.read(move |rows| rows.find_last_operation(&id, None)).await?;
        Ok(last.filter(|last| last.kind == "update" && last.sealed.is_some()))
    }

    /// The update of this instance that was past its copy, although it was recorded as if it could
    /// be taken back: nobody could tell when it ended.
    pub(super) async fn find_update_to_keep(
        &self,
        instance: &Instance,
    ) -> Result<Option<OperationRow>, InternalError> {
        if instance.state != InstanceState::UpdateFailed || instance.is_guest() {
            return Ok(None);
        }
        let Some(update) = self.find_failed_update(&instance.row.id).await? else {
            return Ok(None);
        };
        Ok(self.is_past_copy(instance, &update.id).await?.then_some(update))
    }

    /// Keeps what such an update has made, and brings it up. Whether there was one.
    pub(super) async fn stay_after_all(
        &self,
        instance: &Instance,
        context: &Context,
    ) -> Result<bool, Failure> {
        let Some(update) = self.find_update_to_keep(instance).await? else { return Ok(false) };
        tracing::warn!(
            instance.id = instance.row.id,
            operation.id = update.id,
            "a failed update was past its copy: what it has made stays"
        );
        let target = Target::open(&self.keys, &update)?;
        let reason = update.description.clone().unwrap_or_default();
        self.keep_new(&update, successor(instance, &target), &target, reason, context).await?;
        let mut new = self.get(&instance.row.id).await?;
        self.guard_container(&new, false, context).await?;
        self.bring_up(&mut new, true, Faults::NONE, context).await?;
        Ok(true)
    }
}
