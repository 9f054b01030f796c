//! Accepting bindings, and successors of bindings. `binding_work.rs` carries out what hooks do.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{
    BindRequest, Bound, Broker, InstanceState, Refusal, RotationRequest,
    binding::{BindingState, Sealed, taken},
    error::InternalError,
    existing::Ports,
    fault::{Step, reach},
    instance::{Private, damaged, operation_id, port_map, state_of},
};
use crate::{
    catalog::Plan,
    credentials::{BindingSecrets, Facts, binding_document},
    store::{BindingRow, InstanceRow, OperationRow, RowError, Rows, now},
};

/// How long a client that would poll waits for hooks that are quick.
pub(super) const SHORT: Duration = Duration::from_secs(2);

/// What of the request is compared when it comes twice, and its context.
struct Wanted {
    parameters: Map<String, Value>,
    bind_resource: Value,
    predecessor: Option<String>,
    context: Value,
}

/// What the accepting transaction decided.
enum Decision {
    /// There it is.
    Bound(Box<Sealed>, bool),
    /// A hook has to run first.
    Launch(OperationRow),
    /// One runs already.
    Join(String),
}

impl Broker {
    /// Makes a binding; the same request twice gives the same document.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then, unless it is [`Refusal::OperationFailed`].
    pub async fn bind(self: &Arc<Self>, request: BindRequest) -> Result<Bound, Refusal> {
        self.look_for(&request.instance_id).await?;
        let ports = self.ports_to_bind(&request.instance_id, Some(&request.plan_id)).await;
        let broker = Arc::clone(self);
        let accepts_incomplete = request.accepts_incomplete;
        let (instance, binding) = (request.instance_id.to_string(), request.binding_id.to_string());
        let decided = self.store.write(move |rows| {
            let row = match broker.bindable(rows, request.instance_id.as_str())? {
                Ok(row) => row,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if let Err(refusal) = broker.belongs(&row, &request.service_id, &request.plan_id) {
                return Ok(Err(refusal));
            }
            let wanted = Wanted {
                parameters: request.parameters,
                bind_resource: request.bind_resource,
                predecessor: None,
                context: request.context,
            };
            broker.ensure_binding(rows, &row, request.binding_id.as_str(), wanted, ports)
        });
        let decided = decided.await??;
        self.carry_out(decided, instance, binding, accepts_incomplete).await
    }

    /// Makes a successor of a binding (OSB 2.17, "Rotating a Service Binding"). The predecessor
    /// stays valid until it is unbound.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then, unless it is [`Refusal::OperationFailed`].
    pub async fn rotate(self: &Arc<Self>, request: RotationRequest) -> Result<Bound, Refusal> {
        self.look_for(&request.instance_id).await?;
        let ports = self.ports_to_bind(&request.instance_id, None).await;
        let broker = Arc::clone(self);
        let accepts_incomplete = request.accepts_incomplete;
        let (instance, binding) = (request.instance_id.to_string(), request.binding_id.to_string());
        let decided = self.store.write(move |rows| {
            let row = match broker.bindable(rows, request.instance_id.as_str())? {
                Ok(row) => row,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let predecessor_id = request.predecessor_id.as_str();
            if predecessor_id == request.binding_id.as_str() {
                return Ok(Err(Refusal::Invalid(
                    "predecessor_binding_id must not be the id of the new binding".to_owned(),
                )));
            }
            if let Some(known) = rows.find_binding(&row.id, request.binding_id.as_str())? {
                // Repeated after the predecessor was unbound, it is still the same request.
                return match Sealed::open(&broker.keys, &known) {
                    Ok(sealed) if sealed.predecessor.as_deref() == Some(predecessor_id) => {
                        repeat_bind(rows, &known, sealed)
                    }
                    Ok(_) => Ok(Err(taken(request.binding_id.as_str()))),
                    Err(error) => Ok(Err(error.into())),
                };
            }
            let Some(found) = rows.find_binding(&row.id, predecessor_id)? else {
                return Ok(Err(Refusal::Invalid(format!(
                    "predecessor_binding_id {predecessor_id:?} is not a binding of instance {}",
                    row.id
                ))));
            };
            let predecessor = BindingState::of(&found)
                .and_then(|state| Ok((state, Sealed::open(&broker.keys, &found)?)));
            let wanted = match predecessor {
                // Platforms need not store parameters: the successor takes them over.
                Ok((BindingState::Ready, sealed)) => Wanted {
                    parameters: sealed.parameters,
                    bind_resource: sealed.bind_resource,
                    predecessor: Some(predecessor_id.to_owned()),
                    context: sealed.context,
                },
                Ok((state, _)) => {
                    return Ok(Err(Refusal::Invalid(format!(
                        "predecessor_binding_id {predecessor_id:?} is a binding without valid \
                         credentials: {state}"
                    ))));
                }
                Err(error) => return Ok(Err(error.into())),
            };
            broker.ensure_binding(rows, &row, request.binding_id.as_str(), wanted, ports)
        });
        let decided = decided.await??;
        self.carry_out(decided, instance, binding, accepts_incomplete).await
    }

    /// Runs what was decided, and answers as this kind of client wants it.
    async fn carry_out(
        self: &Arc<Self>,
        decided: Decision,
        instance: String,
        binding: String,
        accepts_incomplete: bool,
    ) -> Result<Bound, Refusal> {
        let (operation, created) = match decided {
            Decision::Bound(sealed, created) => {
                reach(Step::BindCommitted);
                self.store.settle(&instance).await?;
                if created && sealed.lifetime_seconds.is_some() {
                    self.expiring.notify_one();
                }
                return Ok(Bound::Document(sealed.into_document(created)));
            }
            Decision::Join(operation) => (operation, false),
            Decision::Launch(operation) => {
                reach(Step::BindAccepted);
                tracing::info!(
                    operation.id,
                    instance.id = instance,
                    binding.id = binding,
                    "bind accepted"
                );
                let id = operation.id.clone();
                self.launch(operation);
                (id, true)
            }
        };
        if !accepts_incomplete {
            self.wait_for(&operation).await?;
        } else if !created {
            return Ok(Bound::InProgress { operation });
        } else if let Ok(ended) = timeout(SHORT, self.wait_for(&operation)).await {
            ended?;
        } else {
            return Ok(Bound::InProgress { operation });
        }
        let found = self.store.read(move |rows| rows.find_binding(&instance, &binding)).await?;
        let removed = || Refusal::OperationFailed("the binding was removed meanwhile".to_owned());
        let row = found.ok_or_else(removed)?;
        if !BindingState::of(&row)?.is_made() {
            return Err(removed());
        }
        Ok(Bound::Document(Sealed::open(&self.keys, &row)?.into_document(created)))
    }

    /// The instance, if it exists, can be bound and is in a state for it.
    fn bindable(
        &self,
        rows: &Rows<'_>,
        id: &str,
    ) -> Result<Result<InstanceRow, Refusal>, RowError> {
        let Some(row) = rows.find_instance(id)? else {
            return Ok(Err(Refusal::NotFound(format!("service instance {id} does not exist"))));
        };
        if let Err(refusal) = self.require_current(id) {
            return Ok(Err(refusal));
        }
        if let Some(offer) = self.catalog.find_plan(&row.plan_id)
            && !offer.service.is_bindable(&offer.plan)
        {
            return Ok(Err(Refusal::Unprocessable(format!(
                "instances of plan {:?} cannot be bound",
                offer.plan.name
            ))));
        }
        if let Some(refusal) = going_back(rows, &row)? {
            return Ok(Err(refusal));
        }
        Ok(match state_of(&row) {
            Ok(state) if state.is_usable() => Ok(row),
            Ok(state) if state.is_busy() => Err(Refusal::Concurrency(format!(
                "the service instance is {state}; bind it when that has ended"
            ))),
            Ok(state) => Err(Refusal::Unprocessable(format!(
                "the service instance cannot be bound: {state}"
            ))),
            Err(error) => Err(error.into()),
        })
    }

    fn ensure_binding(
        &self,
        rows: &Rows<'_>,
        row: &InstanceRow,
        binding_id: &str,
        wanted: Wanted,
        existing: Result<Option<Ports>, Refusal>,
    ) -> Result<Result<Decision, Refusal>, RowError> {
        if let Some(found) = rows.find_binding(&row.id, binding_id)? {
            return match Sealed::open(&self.keys, &found) {
                Ok(sealed) if is_same(&sealed, &wanted) => repeat_bind(rows, &found, sealed),
                Ok(_) => Ok(Err(taken(binding_id))),
                Err(error) => Ok(Err(error.into())),
            };
        }
        let plan = match self.shaping_plan(rows, row)? {
            Ok(plan) => plan,
            Err(error) => return Ok(Err(error.into())),
        };
        // The predecessor's were checked when it was made.
        if wanted.predecessor.is_none()
            && let Some(schema) = &plan.schemas.bind
        {
            let problems = schema.problems(&wanted.parameters);
            if !problems.is_empty() {
                let text = format!("parameters: {}", problems.join("; "));
                return Ok(Err(Refusal::Invalid(text)));
            }
        }
        if let Err(refusal) = self.require_ca(row) {
            return Ok(Err(refusal));
        }
        let existing = match existing {
            Ok(existing) => existing,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let home = rows.find_host_of(&row.id)?;
        if rows.find_health(home.as_deref().unwrap_or(&row.id))?.is_some() {
            return Ok(Err(Refusal::Unprocessable(format!(
                "service instance {} does not work at present; try again later, or ask the operator",
                row.id
            ))));
        }
        let hooked = plan.lifecycle.bind.is_some();
        let lifetime_seconds =
            plan.binding_lifetime.and_then(|lifetime| i64::try_from(lifetime.as_secs()).ok());
        let mut sealed = Sealed {
            document: Value::Null,
            parameters: wanted.parameters,
            bind_resource: wanted.bind_resource,
            predecessor: wanted.predecessor,
            context: wanted.context,
            secrets: hooked.then(BindingSecrets::generate),
            lifetime_seconds,
        };
        let state = if hooked { BindingState::Binding } else { BindingState::Ready };
        let made = if hooked {
            sealed.seal(&self.keys, &row.id, binding_id)
        } else {
            let stored = rows.list_ports(&row.id)?;
            let ports = existing.map_or_else(|| port_map(&stored), Ok);
            ports.and_then(|ports| self.plain_document(&plan, row, &ports, binding_id)).and_then(
                |document| {
                    sealed.document = document;
                    sealed.seal(&self.keys, &row.id, binding_id)
                },
            )
        };
        let bytes = match made {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error.into())),
        };
        rows.insert_binding(&BindingRow {
            instance_id: row.id.clone(),
            id: binding_id.to_owned(),
            state: state.as_str().to_owned(),
            sealed: bytes,
            expires_at: lifetime_seconds.map(|lifetime| now() + lifetime),
        })?;
        if !hooked {
            return Ok(Ok(Decision::Bound(Box::new(sealed), true)));
        }
        let id = operation_id("bind");
        let operation = OperationRow::new(id, "bind", &row.id, Some(binding_id));
        rows.insert_operation(&operation)?;
        Ok(Ok(Decision::Launch(operation)))
    }

    /// The document of a binding that shares the instance's credentials.
    fn plain_document(
        &self,
        plan: &Plan,
        row: &InstanceRow,
        ports: &Ports,
        binding_id: &str,
    ) -> Result<Value, InternalError> {
        let private = Private::open(&self.keys, row)?;
        let facts = Facts {
            host: &self.limits.external_host,
            ports,
            secrets: &private.secrets,
            own: None,
            instance_id: &row.id,
            binding_id,
            ca_certificate: self.ca_certificate(&private),
        };
        binding_document(plan, &facts)
            .map_err(|error| damaged(&format!("plan {}", plan.id), error.to_string()))
    }
}

/// Refuses to run hooks on data in whose place a copy of it may come at any moment: the way back of
/// an update failed, and is tried again until the instance, or the host of a tenant, is `ready`.
pub(super) fn going_back(rows: &Rows<'_>, row: &InstanceRow) -> Result<Option<Refusal>, RowError> {
    let state = match rows.find_host_of(&row.id)? {
        Some(host) => rows.find_instance(&host)?.map(|host| host.state),
        None => Some(row.state.clone()),
    };
    let is_going_back = state.as_deref() == Some(InstanceState::UpdateFailed.as_str());
    Ok(is_going_back.then(|| {
        Refusal::Concurrency(
            "the service instance has yet to go back to what it was before an update that failed; \
             try again when that has ended, or ask the operator"
                .to_owned(),
        )
    }))
}

/// The same request for a binding that there is.
fn repeat_bind(
    rows: &Rows<'_>,
    row: &BindingRow,
    sealed: Sealed,
) -> Result<Result<Decision, Refusal>, RowError> {
    let id = row.id.clone();
    let state = match BindingState::of(row) {
        Ok(state) => state,
        Err(error) => return Ok(Err(error.into())),
    };
    Ok(match state {
        BindingState::Ready | BindingState::Expired => Ok(Decision::Bound(Box::new(sealed), false)),
        BindingState::Binding => match rows.find_running_operation_on(&row.instance_id, &id)? {
            Some(operation) => Ok(Decision::Join(operation.id)),
            None => Err(damaged(&format!("binding {id}"), "no operation runs").into()),
        },
        // With the same secrets: what the last attempt has left is theirs.
        BindingState::BindFailed => {
            let state = BindingState::Binding.as_str().to_owned();
            let expires_at = sealed.lifetime_seconds.map(|lifetime| now() + lifetime);
            rows.update_binding(&BindingRow { state, expires_at, ..row.clone() })?;
            let operation =
                OperationRow::new(operation_id("bind"), "bind", &row.instance_id, Some(&id));
            rows.insert_operation(&operation)?;
            Ok(Decision::Launch(operation))
        }
        BindingState::Unbinding => {
            Err(Refusal::Concurrency(format!("service binding {id} is being deleted")))
        }
        BindingState::UnbindFailed => Err(Refusal::Conflict(format!(
            "deleting service binding {id} failed; delete it again first"
        ))),
    })
}

fn is_same(sealed: &Sealed, wanted: &Wanted) -> bool {
    sealed.parameters == wanted.parameters
        && sealed.bind_resource == wanted.bind_resource
        && sealed.predecessor == wanted.predecessor
}
