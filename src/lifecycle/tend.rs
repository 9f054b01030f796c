//! Puts one instance back whose container somebody has killed, stopped, removed, paused, renamed
//! or cut off, or that does not come up by itself.
//!
//! Invariants: the container is looked at anew while the instance is held, so what was seen
//! before an operation is never acted upon after it; an operation that comes meanwhile goes
//! first; data directories are required before anything is started, and nothing here makes one;
//! only the container that carries the labels of this instance is touched.
//!
//! An operator who wants to be left alone with a container makes the file `maintenance` in the
//! directory of the instance.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Broker, InstanceState,
    container::Faults,
    diagnosis::{Illness, diagnose},
    error::{Failure, InternalError},
    existing::Unusable,
    instance::Instance,
    replace::standby_name,
    retry::while_unreachable,
    work::Context,
};
use crate::{
    docker::{ContainerFacts, DockerError},
    telemetry::Chain,
};

/// How long a container that ends again and again is left to dockerd, which starts it ever later.
const CRASHING: Duration = Duration::from_secs(20);
/// Tries with the same container, before it is made anew.
const TRIES: u32 = 2;
/// How long a service that is up again may take to answer before it is looked at later.
const GLANCE: Duration = Duration::from_secs(2);

/// What was done for an instance that does not work, and how that went.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct History {
    /// Times that it was put back, or that this failed, since it was well for a while.
    pub(super) tries: u32,
    /// Its container was made anew.
    pub(super) recreated: bool,
    /// dockerd refused to start the container the last time.
    pub(super) stuck: bool,
    /// Its process has ended often of late.
    pub(super) crashing: bool,
    /// For how long it has not been well.
    pub(super) ill_for: Duration,
}

impl History {
    /// Of an instance that nobody has looked after for a while: nothing is known of it, and
    /// dockerd has had its time.
    pub(super) fn at_start() -> Self {
        Self { ill_for: CRASHING, ..Self::default() }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is as it has to be.
    Well,
    /// It was put back, and answers.
    PutBack,
    /// Somebody else works on it, or dockerd is away: nothing is known.
    Busy,
    /// It is not looked after: it is gone, or not in a state to work.
    Released,
    /// It may come up by itself.
    Waiting,
    /// Something was done for it; whether that helps is to be seen.
    Treated,
    /// It could not be put back. The reason is recorded.
    Failed {
        /// dockerd refused to start the container.
        stuck: bool,
    },
}

impl Broker {
    /// Looks at an instance and puts it back if need be; `history` learns if its container was
    /// removed for that.
    pub(super) async fn tend(&self, id: &str, history: &mut History) -> Outcome {
        let cancel = self.stopping.child_token();
        // An operation that runs already does what is needed.
        let Some(_hold) = self.works.hold(id, None, cancel.clone()) else { return Outcome::Busy };
        let context = Context::unattended(cancel, Instant::now() + self.limits.operation_timeout);
        match self.examine(id, history, &context).await {
            Ok(outcome) => outcome,
            Err(Failure::Interrupted) => Outcome::Busy,
            Err(Failure::Failed { public, cause }) => self.give_up(id, public, cause).await,
        }
    }

    /// Records why an instance cannot be put back at present.
    pub(super) async fn give_up(
        &self,
        id: &str,
        public: String,
        cause: Option<InternalError>,
    ) -> Outcome {
        let reason = match &cause {
            Some(InternalError::Docker(error)) if error.is_transient() => return Outcome::Busy,
            Some(InternalError::Docker(error)) => Chain(error).to_string(),
            Some(error) => {
                tracing::error!(
                    instance.id = id, error = %Chain(error),
                    "an instance could not be put back"
                );
                public
            }
            None => public,
        };
        if let Err(error) = self.set_health(id, Some(reason)).await {
            tracing::error!(instance.id = id, error = %Chain(&error), "cannot record its health");
        }
        let refused = |error: &InternalError| {
            matches!(error, InternalError::Docker(DockerError::Refused { .. }))
        };
        Outcome::Failed { stuck: cause.as_ref().is_some_and(refused) }
    }

    async fn examine(
        &self,
        id: &str,
        history: &mut History,
        context: &Context,
    ) -> Result<Outcome, Failure> {
        self.settle(id, &context.cancel, context.deadline).await?;
        let Some(mut instance) = self.find(id).await? else { return Ok(Outcome::Released) };
        if !instance.state.is_usable() {
            return Ok(Outcome::Released);
        }
        if let Some(doubt) = self.store.look_again(id).await {
            return Err(Failure::because(doubt.sentence()));
        }
        if instance.definition.plan.container.existing.is_some() {
            return self.examine_existing(&instance).await;
        }
        if instance.is_guest() {
            // Its host is an instance as well.
            return Ok(Outcome::Released);
        }
        if self.disk.is_in_maintenance(&instance.row.name)? {
            let reason = "an operator has it in maintenance: it is not looked after";
            self.set_health(id, Some(reason.to_owned())).await?;
            return Ok(Outcome::Released);
        }
        if instance.state == InstanceState::UpdateFailed {
            if instance.row.health.is_none() {
                let reason = "an update failed, and so did the way back, which is tried again";
                self.set_health(id, Some(reason.to_owned())).await?;
            }
            // The data may be halfway back: then it is not in its place.
            let safe = instance.row.name.clone();
            if self.on_disk(move |disk| disk.kept_snapshot(&safe)).await?.is_none() {
                self.require_data(&instance).await?;
            }
            self.restore_after_update(&instance, context).await?;
            self.set_health(id, None).await?;
            return Ok(Outcome::PutBack);
        }
        let facts = self.find_container(&instance).await?;
        let exit_code = facts.as_ref().map_or(0, |facts| facts.exit_code);
        let illness = match self.illness(&instance, facts.as_ref()) {
            None if history.crashing => Some(Illness::Crashing),
            other => other,
        };
        let Some(illness) = illness else {
            if instance.row.health.is_none() {
                return Ok(Outcome::Well);
            }
            // It may be unwell for want of its data, and have been started by somebody else.
            self.guard_data(&instance).await?;
            // It runs again, but may still be on its way. (A health check that has not passed yet
            // is no illness.)
            let passes = facts.is_none_or(|facts| facts.healthy != Some(false));
            if !passes || !self.answers(&instance, context, GLANCE).await {
                return Ok(Outcome::Waiting);
            }
            self.unguard(&instance).await?;
            self.set_health(id, None).await?;
            return Ok(Outcome::Well);
        };
        // A reason why it could not be put back says more.
        if instance.row.health.is_none() || history.tries == 0 {
            self.set_health(id, Some(illness.sentence(exit_code, history.crashing))).await?;
        }
        if illness == Illness::Crashing && (history.recreated || history.ill_for < CRASHING) {
            return Ok(Outcome::Waiting);
        }
        tracing::warn!(
            instance.id = id,
            ?illness,
            tries = history.tries,
            "putting an instance back"
        );
        self.put_back(&mut instance, illness, history, context).await?;
        if illness == Illness::Unhealthy {
            return Ok(Outcome::Treated);
        }
        self.set_health(id, None).await?;
        Ok(Outcome::PutBack)
    }

    /// An operator's own container is only looked at.
    async fn examine_existing(&self, instance: &Instance) -> Result<Outcome, Failure> {
        let id = &instance.row.id;
        match self.existing_ports(&instance.definition.plan.container).await {
            Ok(_) if instance.row.health.is_none() => Ok(Outcome::Well),
            Ok(_) => {
                self.set_health(id, None).await?;
                Ok(Outcome::Well)
            }
            Err(Unusable::Docker(error)) => Err(error.into()),
            Err(error) => {
                self.set_health(id, Some(error.to_string())).await?;
                Ok(Outcome::Waiting)
            }
        }
    }

    fn illness(&self, instance: &Instance, facts: Option<&ContainerFacts>) -> Option<Illness> {
        let Some(facts) = facts else { return Some(Illness::Missing) };
        let ours = facts.labels.as_ref().filter(|labels| {
            labels.owner == self.docker.owner() && labels.instance_id == instance.row.id
        });
        // Somebody else's: making ours fails, and says so.
        let Some(labels) = ours else { return Some(Illness::Missing) };
        let ports = instance.ports.values().copied();
        let found = (labels.generation, facts.condition, &facts.reach);
        diagnose(found, instance.row.generation, ports)
    }

    /// The container of an instance; one that goes by another name gets its own back.
    async fn find_container(&self, instance: &Instance) -> Result<Option<ContainerFacts>, Failure> {
        let name = self.container_name(&instance.row.name);
        if let Some(facts) = self.docker.inspect(&name).await? {
            return Ok(Some(facts));
        }
        let owned = self.docker.list_owned().await?;
        let same = owned.into_iter().find(|one| {
            one.labels.instance_id == instance.row.id
                && one.labels.generation == instance.row.generation
        });
        let Some(same) = same else { return Ok(None) };
        self.docker.rename(&same.name, &name).await?;
        if same.name == standby_name(&name) {
            self.docker.set_restart(&name, &instance.definition.plan.container.restart).await?;
        }
        tracing::warn!(
            instance.id = instance.row.id,
            from = same.name,
            to = name,
            "a container that was renamed has its name back"
        );
        Ok(self.docker.inspect(&name).await?)
    }

    /// Whether the container is there that an instance should have, running or not.
    pub(super) async fn has_wanted_container(
        &self,
        instance: &Instance,
        context: &Context,
    ) -> Result<bool, Failure> {
        let spec = self.spec(instance)?;
        let inspect = || self.docker.inspect(&spec.name);
        let found = while_unreachable(&context.cancel, context.deadline, inspect).await?;
        Ok(found.is_some_and(|facts| facts.is_wanted(&spec)))
    }

    /// Brings the container of an instance into order, or a new one up.
    pub(super) async fn put_back(
        &self,
        instance: &mut Instance,
        illness: Illness,
        history: &mut History,
        context: &Context,
    ) -> Result<(), Failure> {
        // What can fail without touching anything comes first.
        self.guard_data(instance).await?;
        let name = self.container_name(&instance.row.name);
        let grace = instance.definition.plan.container.stop_timeout;
        let worn = history.stuck || (history.tries >= TRIES && !history.recreated);
        let anew = match illness {
            Illness::Missing => false,
            Illness::Ended | Illness::Paused => worn,
            Illness::Unhealthy => history.tries > 0,
            Illness::Outdated | Illness::Crashing | Illness::Detached | Illness::Dead => true,
        };
        // One that is there has its image, which may have left the registry.
        if anew || !self.has_wanted_container(instance, context).await? {
            self.require_image(&instance.definition, context).await?;
            if Self::guards_version(instance) {
                let image = self.present_image(instance, context).await?;
                self.require_version(instance, &image, anew, context).await?;
            }
        }
        if anew {
            // Its clients may have written to it: it ends as gently as any other.
            if illness != Illness::Dead && !history.stuck {
                while_unreachable(&context.cancel, context.deadline, || {
                    self.docker.stop(&name, grace)
                })
                .await?;
            }
            self.remove_container(instance, context).await?;
            history.recreated = true;
        } else if illness == Illness::Paused {
            while_unreachable(&context.cancel, context.deadline, || self.docker.unpause(&name))
                .await?;
            return self.wait_until_ready(instance, context).await;
        } else if illness == Illness::Unhealthy {
            while_unreachable(&context.cancel, context.deadline, || self.docker.stop(&name, grace))
                .await?;
        }
        self.bring_up(instance, true, Faults::NONE, context).await?;
        if !anew {
            // While its data was away, dockerd was told not to start it.
            while_unreachable(&context.cancel, context.deadline, || self.unguard(instance)).await?;
        }
        Ok(())
    }
}
