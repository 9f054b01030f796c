//! Making bindings, and successors of bindings.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    BindRequest, BoundDocument, Broker, Refusal, RotationRequest,
    error::InternalError,
    existing::Ports,
    fault::{Step, reach},
    instance::{Private, damaged, open_definition, port_map, state_of},
};
use crate::{
    catalog::Plan,
    credentials::{Facts, Keyring, binding_document},
    store::{BindingRow, InstanceRow, RowError, Rows},
};

/// What is sealed in a binding's row.
#[derive(Serialize, Deserialize)]
pub(super) struct Sealed {
    pub(super) document: Value,
    pub(super) parameters: Map<String, Value>,
    pub(super) bind_resource: Value,
    pub(super) predecessor: Option<String>,
}

fn place(instance: &str, binding: &str) -> String {
    // Lengths keep two pairs of ids with the same concatenation apart.
    format!("binding:{}:{instance}:{binding}", instance.len())
}

impl Sealed {
    fn seal(&self, keys: &Keyring, instance: &str, id: &str) -> Result<Vec<u8>, InternalError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| damaged(&format!("binding {id}"), error.to_string()))?;
        Ok(keys.seal(&place(instance, id), &text)?)
    }

    pub(super) fn into_document(self, created: bool) -> BoundDocument {
        BoundDocument { created, document: self.document, parameters: self.parameters }
    }

    pub(super) fn open(keys: &Keyring, row: &BindingRow) -> Result<Self, InternalError> {
        let text = keys.open(&place(&row.instance_id, &row.id), &row.sealed)?;
        serde_json::from_slice(&text)
            .map_err(|error| damaged(&format!("binding {}", row.id), error.to_string()))
    }
}

/// What of the request is compared when it comes twice.
struct Wanted {
    parameters: Map<String, Value>,
    bind_resource: Value,
    predecessor: Option<String>,
}

impl Broker {
    /// Makes a binding; the same request twice gives the same document.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then.
    pub async fn bind(self: &Arc<Self>, request: BindRequest) -> Result<BoundDocument, Refusal> {
        self.check_bind_parameters(&request)?;
        self.look_for(&request.instance_id).await?;
        let ports = self.ports_to_bind(&request.instance_id).await;
        let broker = Arc::clone(self);
        let bound = self.store.write(move |rows| {
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
            };
            broker.ensure_binding(rows, &row, request.binding_id.as_str(), wanted, ports)
        });
        let bound = bound.await??;
        reach(Step::BindCommitted);
        Ok(bound)
    }

    /// Makes a successor of a binding (OSB 2.17, "Rotating a Service Binding"). The predecessor
    /// stays valid until it is unbound.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then.
    pub async fn rotate(
        self: &Arc<Self>,
        request: RotationRequest,
    ) -> Result<BoundDocument, Refusal> {
        self.look_for(&request.instance_id).await?;
        let ports = self.ports_to_bind(&request.instance_id).await;
        let broker = Arc::clone(self);
        let bound = self.store.write(move |rows| {
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
                return Ok(match Sealed::open(&broker.keys, &known) {
                    Ok(sealed) if sealed.predecessor.as_deref() == Some(predecessor_id) => {
                        Ok(sealed.into_document(false))
                    }
                    Ok(_) => Err(taken(request.binding_id.as_str())),
                    Err(error) => Err(error.into()),
                });
            }
            let Some(found) = rows.find_binding(&row.id, predecessor_id)? else {
                return Ok(Err(Refusal::Invalid(format!(
                    "predecessor_binding_id {predecessor_id:?} is not a binding of instance {}",
                    row.id
                ))));
            };
            let wanted = match Sealed::open(&broker.keys, &found) {
                // Platforms need not store parameters: the successor takes them over.
                Ok(sealed) => Wanted {
                    parameters: sealed.parameters,
                    bind_resource: sealed.bind_resource,
                    predecessor: Some(predecessor_id.to_owned()),
                },
                Err(error) => return Ok(Err(error.into())),
            };
            broker.ensure_binding(rows, &row, request.binding_id.as_str(), wanted, ports)
        });
        let bound = bound.await??;
        reach(Step::BindCommitted);
        Ok(bound)
    }

    fn check_bind_parameters(&self, request: &BindRequest) -> Result<(), Refusal> {
        // The plan of an instance may have left the catalog; then there is no schema to check.
        let Some(offer) = self.catalog.find_plan(&request.plan_id) else { return Ok(()) };
        let problems = match &offer.plan.schemas.bind {
            Some(schema) => schema.problems(&request.parameters),
            None => Vec::new(),
        };
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Invalid(format!("parameters: {}", problems.join("; "))))
        }
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
        if let Some(offer) = self.catalog.find_plan(&row.plan_id)
            && !offer.service.is_bindable(&offer.plan)
        {
            return Ok(Err(Refusal::Unprocessable(format!(
                "instances of plan {:?} cannot be bound",
                offer.plan.name
            ))));
        }
        if self.is_lost(id) {
            return Ok(Err(Refusal::Unprocessable(format!(
                "service instance {id} could not be brought back after a restart; ask the operator"
            ))));
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

    /// The plan that shapes new bindings: the catalog's, so that an operator can mend it, else the
    /// one that the instance was made of.
    fn shaping_plan(
        &self,
        rows: &Rows<'_>,
        row: &InstanceRow,
    ) -> Result<Result<Arc<Plan>, InternalError>, RowError> {
        if let Some(offer) = self.catalog.find_plan(&row.plan_id) {
            return Ok(Ok(Arc::clone(&offer.plan)));
        }
        let sealed = rows.find_definition(&row.definition_hash)?;
        let definition = open_definition(&self.keys, row, sealed.as_deref());
        Ok(definition.map(|definition| definition.plan))
    }

    fn ensure_binding(
        &self,
        rows: &Rows<'_>,
        row: &InstanceRow,
        binding_id: &str,
        wanted: Wanted,
        existing: Result<Option<Ports>, Refusal>,
    ) -> Result<Result<BoundDocument, Refusal>, RowError> {
        if let Some(found) = rows.find_binding(&row.id, binding_id)? {
            return Ok(match Sealed::open(&self.keys, &found) {
                Ok(sealed) => repeat(sealed, &wanted, binding_id),
                Err(error) => Err(error.into()),
            });
        }
        let plan = match self.shaping_plan(rows, row)? {
            Ok(plan) => plan,
            Err(error) => return Ok(Err(error.into())),
        };
        let existing = match existing {
            Ok(existing) => existing,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let stored = rows.list_ports(&row.id)?;
        let made = (|| {
            let private = Private::open(&self.keys, row)?;
            let facts = Facts {
                host: &self.limits.external_host,
                ports: &existing.map_or_else(|| port_map(&stored), Ok)?,
                secrets: &private.secrets,
                instance_id: &row.id,
                binding_id,
            };
            let document = binding_document(&plan, &facts)
                .map_err(|error| damaged(&format!("plan {}", plan.id), error.to_string()))?;
            let sealed = Sealed {
                document,
                parameters: wanted.parameters,
                bind_resource: wanted.bind_resource,
                predecessor: wanted.predecessor,
            };
            let bytes = sealed.seal(&self.keys, &row.id, binding_id)?;
            Ok::<_, InternalError>((sealed, bytes))
        })();
        let (sealed, bytes) = match made {
            Ok(made) => made,
            Err(error) => return Ok(Err(error.into())),
        };
        rows.insert_binding(&BindingRow {
            instance_id: row.id.clone(),
            id: binding_id.to_owned(),
            sealed: bytes,
        })?;
        Ok(Ok(sealed.into_document(true)))
    }
}

fn repeat(sealed: Sealed, wanted: &Wanted, id: &str) -> Result<BoundDocument, Refusal> {
    let same = sealed.parameters == wanted.parameters
        && sealed.bind_resource == wanted.bind_resource
        && sealed.predecessor == wanted.predecessor;
    if same { Ok(sealed.into_document(false)) } else { Err(taken(id)) }
}

fn taken(id: &str) -> Refusal {
    Refusal::Conflict(format!("service binding {id} exists already with other parameters"))
}
