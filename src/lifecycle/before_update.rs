//! What is looked at before an update is accepted, outside of the transaction: files and images.

use super::{
    Broker, InstanceState, Refusal, UpdateRequest,
    error::{Failure, InternalError},
    instance::Instance,
    snapshot::human,
};
use crate::{
    catalog::{Plan, Volume},
    disk::Usage,
};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The image behind the plan's reference is another one than the container's.
    pub(super) image_moved: bool,
    /// What stands against it on the disk.
    pub(super) refusal: Option<Refusal>,
}

impl Broker {
    /// Looks at what an update would meet. Nothing is decided here: the transaction has the say,
    /// and may refuse for another reason first.
    pub(super) async fn look_before_update(
        &self,
        request: &UpdateRequest,
    ) -> Result<Found, Refusal> {
        let Some(instance) = self.find(request.instance_id.as_str()).await? else {
            return Ok(Found::default());
        };
        let is_idle = matches!(instance.state, InstanceState::Ready | InstanceState::UpdateFailed);
        if instance.is_guest() || !is_idle {
            return Ok(Found::default());
        }
        if self.find_update_to_keep(&instance).await?.is_some() {
            let refusal = Refusal::Concurrency(
                "an earlier update of the service instance is still being completed; try again \
                 when that has ended"
                    .to_owned(),
            );
            return Ok(Found { refusal: Some(refusal), ..Found::default() });
        }
        let plan_id = request.plan_id.as_deref().unwrap_or(&instance.row.plan_id);
        let Some(offer) = self.catalog.find_plan(plan_id) else { return Ok(Found::default()) };
        let plan = &offer.plan;
        let changes_plan = plan_id != instance.row.plan_id;
        // Another version makes the container anew anyway.
        let is_present = request.maintenance_version.is_some()
            && request.maintenance_version == instance.row.maintenance;
        let image_moved = is_present && !changes_plan && self.has_moved(&instance, plan).await?;
        if !changes_plan && request.maintenance_version.is_none() && request.parameters.is_none() {
            return Ok(Found::default());
        }
        let looked = match self.require_room(&instance, plan).await {
            Ok(()) => self.guard_at_once(&instance.row.name, plan).await,
            refused => refused,
        };
        let refusal = match looked {
            Ok(()) => None,
            Err(Failure::Interrupted) => Some(Refusal::Stopping),
            Err(Failure::Failed { cause: Some(cause), .. }) => return Err(cause.into()),
            Err(Failure::Failed { public, cause: None }) => Some(Refusal::Unprocessable(public)),
        };
        Ok(Found { image_moved, refusal })
    }

    /// Whether the tag has moved since the container was made. What cannot be told is no reason to
    /// make it anew.
    async fn has_moved(&self, instance: &Instance, plan: &Plan) -> Result<bool, InternalError> {
        let name = self.container_name(&instance.row.name);
        let (container, image) =
            tokio::join!(self.docker.inspect(&name), self.images.look(&plan.container.image));
        Ok(match (container?, image?) {
            (Some(container), Some(image)) => container.image_id != image.id,
            _ => false,
        })
    }

    /// Refuses a plan whose volumes are smaller than what is in them.
    async fn require_room(&self, instance: &Instance, plan: &Plan) -> Result<(), Failure> {
        let present = &instance.definition.plan.container.volumes;
        let size_of =
            |path: &str| present.iter().find(|v| v.path == path).and_then(|v| v.size_bytes);
        let shrinks = |volume: &&Volume| {
            let old = size_of(&volume.path).unwrap_or(u64::MAX);
            volume.size_bytes.is_some_and(|new| new < old)
        };
        let shrunk: Vec<Volume> = plan.container.volumes.iter().filter(shrinks).cloned().collect();
        let paths = self.disk.paths(&instance.row.name, &shrunk)?;
        for (volume, path) in shrunk.iter().zip(paths) {
            let allowed = volume.size_bytes.unwrap_or(u64::MAX);
            let (used, more) = match self.on_disk(move |disk| disk.usage(&path)).await? {
                Usage::Bytes(used) if used <= allowed => continue,
                Usage::Bytes(used) => (used, ""),
                Usage::AtLeast(used) => (used, "more than "),
            };
            return Err(Failure::because(format!(
                "the service instance uses {more}{} of {}, and plan {:?} has {} for it; remove \
                 data, or choose another plan",
                human(used),
                volume.path,
                plan.name,
                human(allowed)
            )));
        }
        Ok(())
    }
}
