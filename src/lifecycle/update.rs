//! Changing an instance: plan, parameters, maintenance version.
//!
//! The old container stands by, stopped and under another name, until the new one answers; it
//! comes back when the new one does not. Data, ports and secrets are the same for both.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Accepted, Broker, Event, InstanceState, Refusal, Transition, UpdateRequest,
    container::Faults,
    deprovision::belongs,
    error::{Failure, InternalError},
    fault::{Step, reach},
    instance::{
        Instance, Private, SealedDefinition, damaged, open_definition, operation_id,
        parameter_environment, state_of,
    },
    last_operation::{IN_PROGRESS, SUCCEEDED},
    provision::over_capacity,
    retry::{check, while_unreachable},
    work::Context,
};
use crate::{
    catalog::{Definition, Offer, Plan, RestartPolicy},
    credentials::Keyring,
    store::{InstanceRow, OperationRow, RowError, Rows},
};

/// What an instance is to become, sealed in the operation's row.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Target {
    plan_id: String,
    definition: Definition,
    parameters: Map<String, Value>,
    maintenance: Option<String>,
    context: Option<Value>,
    /// Whether anything but the context differs from what the instance is.
    changes: bool,
}

impl Target {
    /// Whether two requests want the same of the instance.
    fn is_same(&self, other: &Self) -> bool {
        self.plan_id == other.plan_id
            && self.parameters == other.parameters
            && self.maintenance == other.maintenance
    }

    fn seal(&self, keys: &Keyring, operation: &str) -> Result<Vec<u8>, InternalError> {
        let text =
            serde_json::to_vec(self).map_err(|error| damaged(operation, error.to_string()))?;
        Ok(keys.seal(&format!("operation:{operation}"), &text)?)
    }

    fn open(keys: &Keyring, operation: &OperationRow) -> Result<Self, InternalError> {
        let sealed = operation.sealed.as_deref().unwrap_or_default();
        let text = keys.open(&format!("operation:{}", operation.id), sealed)?;
        serde_json::from_slice(&text).map_err(|error| damaged(&operation.id, error.to_string()))
    }
}

enum Decision {
    Launch(OperationRow),
    Join(String),
    Applied,
}

/// Name under which the old container stands by.
pub(super) fn standby_name(name: &str) -> String {
    format!("{name}.old")
}

impl Broker {
    /// Accepts an update.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then, unless it is [`Refusal::OperationFailed`].
    pub async fn update(self: &Arc<Self>, request: UpdateRequest) -> Result<Accepted, Refusal> {
        let accepts_incomplete = request.accepts_incomplete;
        let broker = Arc::clone(self);
        let decided = self.store.write(move |rows| broker.accept_update(rows, &request));
        match decided.await?? {
            Decision::Applied => Ok(Accepted::Done),
            Decision::Join(operation) => {
                self.answer(operation, accepts_incomplete, Accepted::Done).await
            }
            Decision::Launch(operation) => {
                reach(Step::UpdateAccepted);
                tracing::info!(
                    operation.id,
                    instance.id = operation.instance_id,
                    "update accepted"
                );
                let id = operation.id.clone();
                self.launch(operation);
                self.answer(id, accepts_incomplete, Accepted::Done).await
            }
        }
    }

    fn accept_update(
        &self,
        rows: &Rows<'_>,
        request: &UpdateRequest,
    ) -> Result<Result<Decision, Refusal>, RowError> {
        let id = request.instance_id.as_str();
        let Some(row) = rows.find_instance(id)? else {
            return Ok(Err(Refusal::NotFound(format!("service instance {id} does not exist"))));
        };
        let sealed = rows.find_definition(&row.definition_hash)?;
        let prepared = (|| {
            belongs(&row, &request.service_id, None)?;
            let private = Private::open(&self.keys, &row)?;
            let current = open_definition(&self.keys, &row, sealed.as_deref())?;
            let target = self.target(&row, &current, &private, request)?;
            let definition = SealedDefinition::new(&self.keys, &target.definition)?;
            Ok::<_, Refusal>((private, current, target, definition, state_of(&row)?))
        })();
        let (mut private, current, target, definition, state) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if state == InstanceState::Updating
            && let Some(running) = rows.find_running_operation(id)?
            && Target::open(&self.keys, &running).is_ok_and(|known| known.is_same(&target))
        {
            return Ok(Ok(Decision::Join(running.id)));
        }
        let next = match state.on(Event::Update) {
            Transition::To(next) => next,
            Transition::Busy => {
                return Ok(Err(Refusal::Concurrency(format!(
                    "the service instance is {state}; try again when that has ended"
                ))));
            }
            _ => {
                return Ok(Err(Refusal::Unprocessable(format!(
                    "the service instance cannot be updated: {state}"
                ))));
            }
        };
        let is_same = !target.changes
            || (definition.hash == row.definition_hash && private.parameters == target.parameters);
        if is_same && state == InstanceState::Ready {
            private.context = merged_context(&private.context, target.context.as_ref());
            let sealed = match private.seal(&self.keys, id) {
                Ok(sealed) => sealed,
                Err(error) => return Ok(Err(error.into())),
            };
            rows.update_instance(&InstanceRow { maintenance: target.maintenance, sealed, ..row })?;
            return Ok(Ok(Decision::Applied));
        }
        if let Err(refusal) = keeps_volumes(&current.plan, &target.definition.plan) {
            return Ok(Err(refusal));
        }
        if target.plan_id != row.plan_id {
            let max = target.definition.plan.max_instances.unwrap_or(0);
            // The instance is there already, so the limit in all does not matter.
            if let Some(refusal) = over_capacity(rows, &target.plan_id, max, 0)? {
                return Ok(Err(refusal));
            }
        }
        let operation_id = operation_id("update");
        let sealed = match target.seal(&self.keys, &operation_id) {
            Ok(sealed) => sealed,
            Err(error) => return Ok(Err(error.into())),
        };
        rows.update_instance(&InstanceRow { state: next.as_str().to_owned(), ..row.clone() })?;
        let operation = OperationRow {
            id: operation_id,
            instance_id: row.id,
            binding_id: None,
            kind: "update".to_owned(),
            state: IN_PROGRESS.to_owned(),
            description: None,
            sealed: Some(sealed),
        };
        rows.insert_operation(&operation)?;
        Ok(Ok(Decision::Launch(operation)))
    }

    /// What the request makes of the instance, checked against the catalog.
    fn target(
        &self,
        row: &InstanceRow,
        current: &Definition,
        private: &Private,
        request: &UpdateRequest,
    ) -> Result<Target, Refusal> {
        let plan_id = request.plan_id.clone().unwrap_or_else(|| row.plan_id.clone());
        let changes_plan = plan_id != row.plan_id;
        let offer: Option<&Offer> = match self.offer(&request.service_id, &plan_id) {
            Ok(offer) => Some(offer),
            // A plan that left the catalog still serves the instances that have it.
            Err(_) if !changes_plan => None,
            Err(refusal) => return Err(refusal),
        };
        if changes_plan
            && let Some(from) = self.catalog.find_plan(&row.plan_id)
            && !from.service.is_plan_updateable(&from.plan)
        {
            return Err(Refusal::Unprocessable(format!(
                "instances of plan {:?} cannot change their plan",
                from.plan.name
            )));
        }
        let definition = offer.map_or_else(|| current.clone(), Definition::from);
        let plan = &definition.plan;
        Self::check_maintenance(plan, request.maintenance_version.as_deref())?;
        if let (Some(schema), Some(given)) = (&plan.schemas.update, &request.parameters) {
            let problems = schema.problems(given);
            if !problems.is_empty() {
                return Err(Refusal::Invalid(format!("parameters: {}", problems.join("; "))));
            }
        }
        let parameters = merge(&private.parameters, request.parameters.as_ref());
        parameter_environment(plan, &parameters)?;
        // Without a reason to change the container it stays as it is, also when the operator has
        // changed the plan since: that is what a maintenance version is for.
        let changes = changes_plan
            || parameters != private.parameters
            || request
                .maintenance_version
                .as_ref()
                .is_some_and(|v| Some(v) != row.maintenance.as_ref());
        Ok(Target {
            maintenance: if changes {
                plan.maintenance_info.as_ref().map(|info| info.version.clone())
            } else {
                row.maintenance.clone()
            },
            definition: if changes { definition } else { current.clone() },
            plan_id,
            parameters,
            context: request.context.clone(),
            changes,
        })
    }

    /// Carries an update out, from wherever it got to.
    pub(super) async fn run_update(
        &self,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<(), Failure> {
        let old = self.get(&operation.instance_id).await?;
        let target = Target::open(&self.keys, operation)?;
        let mut new = successor(&old, &target);
        let changed = self.change(&old, &mut new, context).await;
        match changed {
            Ok(()) => {}
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(Failure::Failed { public, cause }) => {
                reach(Step::UpdateRollingBack);
                return Err(self.roll_back(&old, operation, context, public, cause).await);
            }
        }
        self.commit_update(operation, &new, &target).await?;
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
                let recorded = self.fail_with(operation.clone(), public.clone(), Event::Fail).await;
                if let Err(error) = recorded {
                    return error.into();
                }
                Failure::Failed { public, cause: second.or(cause) }
            }
        }
    }

    async fn restore(&self, old: &Instance, context: &Context) -> Result<(), Failure> {
        let name = self.container_name(&old.row.name);
        let standby = standby_name(&name);
        let steps = async || {
            if self.docker.owns(&standby, &old.row.id).await? {
                self.docker.remove(&name, &old.row.id).await?;
                self.docker.rename(&standby, &name).await?;
            }
            if self.docker.owns(&name, &old.row.id).await? {
                self.docker.set_restart(&name, &old.definition.plan.container.restart).await?;
                self.docker.start(&name).await?;
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
    ) -> Result<(), Failure> {
        let sealed = new.private.seal(&self.keys, &new.row.id)?;
        let definition = SealedDefinition::new(&self.keys, &target.definition)?;
        let (id, mut row) = (operation.id.clone(), new.row.clone());
        let committed = self.store.write(move |rows| {
            if !rows.finish_operation(&id, SUCCEEDED, None)? {
                return Ok(Err(Failure::Interrupted));
            }
            row.definition_hash = definition.store(rows)?;
            row.sealed = sealed;
            InstanceState::Ready.as_str().clone_into(&mut row.state);
            rows.update_instance(&row)?;
            Ok(Ok(()))
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
    new.private.secrets = old.private.secrets.extended_for(&target.definition.plan);
    new
}

/// The OSB context of an update replaces that of the instance; organization and space stay.
fn merged_context(known: &Value, given: Option<&Value>) -> Value {
    let mut merged = known.clone();
    if let (Some(merged), Some(given)) = (merged.as_object_mut(), given.and_then(Value::as_object))
    {
        merged.extend(given.clone());
    }
    merged
}

/// New values win; `null` takes a parameter back.
fn merge(known: &Map<String, Value>, given: Option<&Map<String, Value>>) -> Map<String, Value> {
    let mut merged = known.clone();
    for (name, value) in given.into_iter().flatten() {
        if value.is_null() {
            merged.remove(name);
        } else {
            merged.insert(name.clone(), value.clone());
        }
    }
    merged
}

/// Data in a volume that the target plan does not mount would seem lost.
fn keeps_volumes(from: &Plan, to: &Plan) -> Result<(), Refusal> {
    let kept = |path: &str| to.container.volumes.iter().any(|volume| volume.path == path);
    match from.container.volumes.iter().find(|volume| !kept(&volume.path)) {
        None => Ok(()),
        Some(volume) => Err(Refusal::Unprocessable(format!(
            "plan {:?} does not have the data directory {} of plan {:?}",
            to.name, volume.path, from.name
        ))),
    }
}
