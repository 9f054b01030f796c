//! Accepting a change of an instance: plan, parameters, maintenance version. `replace.rs` carries
//! it out.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Accepted, Broker, Event, InstanceState, Refusal, Transition, UpdateRequest,
    before_update::Found,
    deprovision::is_of_service,
    error::InternalError,
    fault::{Step, reach},
    instance::{
        Private, SealedDefinition, damaged, open_definition, operation_id, parameter_environment,
        port_map, state_of,
    },
    provision::over_capacity,
};
use crate::{
    catalog::{ContainerPort, Definition, Offer, Plan, Schemas, runs_the_same},
    credentials::{InstanceSecrets, Keyring},
    store::{InstanceRow, OperationRow, PortRow, RowError, Rows},
};

/// What an instance is to become, sealed in the operation's row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) plan_id: String,
    pub(super) definition: Definition,
    pub(super) parameters: Map<String, Value>,
    pub(super) maintenance: Option<String>,
    pub(super) context: Option<Value>,
    /// Drawn when the update was accepted: an interrupted one goes on with the same.
    pub(super) secrets: InstanceSecrets,
    /// Host ports before the update.
    pub(super) ports: BTreeMap<ContainerPort, u16>,
    /// Whether anything but the context differs from what the instance is.
    pub(super) changes: bool,
    /// Whether it is an upgrade to another configuration: something else runs than before.
    #[serde(default)]
    pub(super) reconfigures: bool,
    /// Whether an earlier update and its way back had failed when this one was accepted. Only then
    /// a copy that is kept beside the data counts more than the data.
    #[serde(default)]
    pub(super) was_failed: bool,
}

impl Target {
    /// Whether two requests want the same of the instance.
    fn is_same(&self, other: &Self) -> bool {
        self.plan_id == other.plan_id
            && self.parameters == other.parameters
            && self.maintenance == other.maintenance
    }

    /// Takes the ports of the time before the last update, which failed: the rows may still hold
    /// what that one had reserved.
    pub(super) fn take_former_ports(
        &mut self,
        keys: &Keyring,
        failed: Option<OperationRow>,
    ) -> Result<(), InternalError> {
        if let Some(failed) = failed.filter(|row| row.kind == "update" && row.sealed.is_some()) {
            self.ports = Self::open(keys, &failed)?.ports;
        }
        Ok(())
    }

    pub(super) fn seal(&self, keys: &Keyring, operation: &str) -> Result<Vec<u8>, InternalError> {
        let text =
            serde_json::to_vec(self).map_err(|error| damaged(operation, error.to_string()))?;
        Ok(keys.seal(&format!("operation:{operation}"), &text)?)
    }

    pub(super) fn open(keys: &Keyring, operation: &OperationRow) -> Result<Self, InternalError> {
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

impl Broker {
    /// Accepts an update.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then, unless it is [`Refusal::OperationFailed`].
    pub async fn update(self: &Arc<Self>, request: UpdateRequest) -> Result<Accepted, Refusal> {
        let accepts_incomplete = request.accepts_incomplete;
        let found = self.look_before_update(&request).await?;
        let broker = Arc::clone(self);
        let id = request.instance_id.to_string();
        let decided = self.store.write(move |rows| broker.accept_update(rows, &request, found));
        match decided.await?? {
            Decision::Applied => {
                self.store.settle(&id).await?;
                Ok(Accepted::Done)
            }
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

    #[expect(clippy::too_many_lines, reason = "the rules of one transaction, in their order")]
    fn accept_update(
        &self,
        rows: &Rows<'_>,
        request: &UpdateRequest,
        found: Found,
    ) -> Result<Result<Decision, Refusal>, RowError> {
        let id = request.instance_id.as_str();
        let Some(row) = rows.find_instance(id)? else {
            return Ok(Err(Refusal::NotFound(format!("service instance {id} does not exist"))));
        };
        if let Err(refusal) = self.require_current(id) {
            return Ok(Err(refusal));
        }
        let sealed = rows.find_definition(&row.definition_hash)?;
        let ports = rows.list_ports(id)?;
        let prepared = (|| {
            is_of_service(&row, &request.service_id)?;
            let private = Private::open(&self.keys, &row)?;
            let current = open_definition(&self.keys, &row, sealed.as_deref())?;
            let target =
                self.target(&row, &current, &private, &ports, request, found.image_moved)?;
            let definition = SealedDefinition::new(&self.keys, &target.definition)?;
            Ok::<_, Refusal>((private, current, target, definition, state_of(&row)?))
        })();
        let (mut private, current, mut target, definition, state) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if state == InstanceState::Updating
            && let Some(running) = rows.find_running_operation(id)?
            && Target::open(&self.keys, &running).is_ok_and(|known| known.is_same(&target))
        {
            return Ok(Ok(Decision::Join(running.id)));
        }
        if !rows.list_running_operations_on_bindings(id)?.is_empty() {
            return Ok(Err(Refusal::Concurrency(
                "a binding of the service instance is being made or removed; try again when that \
                 has ended"
                    .to_owned(),
            )));
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
        // Of an instance without a version nothing is known, or its last upgrade is not complete.
        let is_upgrade = request.maintenance_version.is_some()
            && (found.image_moved || request.maintenance_version != row.maintenance);
        let is_same = !target.changes
            || (!is_upgrade
                && definition.hash == row.definition_hash
                && private.parameters == target.parameters);
        if is_same && state == InstanceState::Ready {
            private.context = merged_context(&private.context, target.context.as_ref());
            let sealed = match private.seal(&self.keys, id) {
                Ok(sealed) => sealed,
                Err(error) => return Ok(Err(error.into())),
            };
            rows.update_instance(&InstanceRow { maintenance: target.maintenance, sealed, ..row })?;
            return Ok(Ok(Decision::Applied));
        }
        let of_catalog = self.catalog.find_plan(&row.plan_id).map(|offer| &*offer.plan);
        if let Err(refusal) = keeps_home(&current.plan, &target.definition.plan)
            .and_then(|()| keeps_volumes(&current.plan, &target.definition.plan))
            .and_then(|()| keeps_hooks(&current.plan, of_catalog, &target.definition.plan))
        {
            return Ok(Err(refusal));
        }
        if let Some(refusal) = found.refusal {
            return Ok(Err(refusal));
        }
        if private.tls && target.definition.plan.tls.is_none() {
            return Ok(Err(Refusal::Unprocessable(format!(
                "clients of the service instance use TLS, which plan {:?} does not have",
                target.definition.plan.name
            ))));
        }
        if target.plan_id != row.plan_id {
            let max = target.definition.plan.max_instances.unwrap_or(0);
            // The instance is there already, so the limit in all does not matter.
            if let Some(refusal) = over_capacity(rows, &target.plan_id, max, 0)? {
                return Ok(Err(refusal));
            }
        }
        if target.was_failed {
            let failed = rows.find_last_operation(id, None)?;
            if let Err(error) = target.take_former_ports(&self.keys, failed) {
                return Ok(Err(error.into()));
            }
        }
        let operation_id = operation_id("update");
        let sealed = match target.seal(&self.keys, &operation_id) {
            Ok(sealed) => sealed,
            Err(error) => return Ok(Err(error.into())),
        };
        rows.update_instance(&InstanceRow { state: next.as_str().to_owned(), ..row.clone() })?;
        let operation = OperationRow {
            sealed: Some(sealed),
            ..OperationRow::new(operation_id, "update", id, None)
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
        ports: &[PortRow],
        request: &UpdateRequest,
        image_moved: bool,
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
        if changes_plan
            && let Some(offer) = offer
            && !offer.plan.takes_from(&row.plan_id, &current.plan.name)
        {
            return Err(Refusal::Unprocessable(format!(
                "an instance of plan {:?} cannot become one of plan {:?}",
                current.plan.name, offer.plan.name
            )));
        }
        let definition = offer.map_or_else(|| current.clone(), Definition::from);
        let plan = &definition.plan;
        Self::check_maintenance(plan, request.maintenance_version.as_deref())?;
        let given = request.parameters.as_ref();
        let parameters = merge(&private.parameters, given);
        check_schema(&plan.schemas, given, &parameters, changes_plan)?;
        parameter_environment(plan, &parameters)?;
        // Without a reason to change the container it stays as it is, also when the operator has
        // changed the plan since: that is what a maintenance version is for.
        let changes = changes_plan
            || parameters != private.parameters
            || request
                .maintenance_version
                .as_ref()
                .is_some_and(|v| image_moved || Some(v) != row.maintenance.as_ref());
        Ok(Target {
            was_failed: state_of(row)? == InstanceState::UpdateFailed,
            reconfigures: changes && !changes_plan && !runs_the_same(&current.plan, plan),
            maintenance: if changes {
                plan.maintenance_info.as_ref().map(|info| info.version.clone())
            } else {
                row.maintenance.clone()
            },
            secrets: private.secrets.extended_for(&definition.plan),
            ports: port_map(ports)?,
            definition: if changes { definition } else { current.clone() },
            plan_id,
            parameters,
            context: request.context.clone(),
            changes,
        })
    }
}

/// What was sent has to fit the schema for updates. Without one, and for another plan, what comes of
/// it has to fit the schema for new instances, or an update would be the way around that.
fn check_schema(
    schemas: &Schemas,
    given: Option<&Map<String, Value>>,
    merged: &Map<String, Value>,
    changes_plan: bool,
) -> Result<(), Refusal> {
    let sent = given.is_some_and(|map| !map.is_empty());
    let mut problems = match (&schemas.update, given) {
        (Some(update), Some(given)) => update.problems(given),
        _ => Vec::new(),
    };
    if let Some(create) = &schemas.create
        && (changes_plan || (sent && schemas.update.is_none()))
    {
        // What only an update may set is not for that schema to judge.
        let later = |name: &str| {
            let update = schemas.update.as_ref();
            !create.declares(name) && update.is_some_and(|update| update.declares(name))
        };
        let mut merged = merged.clone();
        merged.retain(|name, _| !later(name));
        problems.extend(create.problems(&merged));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("parameters: {}", problems.join("; "))))
}

/// The OSB context of an update replaces that of the instance; organization and space stay.
pub(super) fn merged_context(known: &Value, given: Option<&Value>) -> Value {
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

/// An instance stays where it is: its data would not come along.
fn keeps_home(from: &Plan, to: &Plan) -> Result<(), Refusal> {
    let shared = from.tenancy.is_some() || to.tenancy.is_some();
    if from.container.existing == to.container.existing && (!shared || from.id == to.id) {
        return Ok(());
    }
    Err(Refusal::Unprocessable(format!(
        "instances of plan {:?} live in another container than those of plan {:?}",
        to.name, from.name
    )))
}

/// Credentials that a hook has made can only be revoked by another one.
fn keeps_hooks(stored: &Plan, of_catalog: Option<&Plan>, to: &Plan) -> Result<(), Refusal> {
    let binds = |plan: &Plan| plan.lifecycle.bind.is_some();
    if to.lifecycle.unbind.is_some() || !(binds(stored) || of_catalog.is_some_and(binds)) {
        return Ok(());
    }
    Err(Refusal::Unprocessable(format!(
        "plan {:?} has no unbind hook, which the bindings of this service instance need",
        to.name
    )))
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
