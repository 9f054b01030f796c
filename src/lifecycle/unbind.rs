//! Accepting the removal of bindings. `binding_work.rs` carries out what hooks do.

use std::sync::Arc;

use tokio::time::timeout;

use super::{
    Accepted, Broker, DeleteRequest, Refusal,
    bind::{SHORT, going_back},
    binding::{BindingState, Sealed},
    fault::{Step, reach},
    instance::{operation_id, state_of},
    last_operation::FAILED,
};
use crate::{
    catalog::BindingId,
    store::{BindingRow, OperationRow},
};

enum Decision {
    /// Its row was all that there was of it.
    Removed,
    /// The new operation, the one that it halts, and whether an earlier hook may still run.
    Launch(OperationRow, Option<String>, bool),
    Join(String),
}

impl Broker {
    /// Removes a binding, after its hook has revoked its credentials. It halts a bind that is
    /// still under way.
    ///
    /// # Errors
    /// [`Refusal::Gone`] when there is no such binding; any other [`Refusal`].
    #[expect(clippy::too_many_lines, reason = "the rules of one request, in their order")]
    pub async fn unbind(
        self: &Arc<Self>,
        request: DeleteRequest,
        binding: BindingId,
    ) -> Result<Accepted, Refusal> {
        let accepts_incomplete = request.accepts_incomplete;
        let instance_id = request.instance_id.to_string();
        let broker = Arc::clone(self);
        let decided = self.store.write(move |rows| {
            let gone = || {
                Refusal::Gone(format!(
                    "service binding {binding} of instance {} does not exist",
                    request.instance_id
                ))
            };
            let Some(instance) = rows.find_instance(request.instance_id.as_str())? else {
                return Ok(Err(gone()));
            };
            let Some(row) = rows.find_binding(&instance.id, binding.as_str())? else {
                return Ok(Err(gone()));
            };
            if let Err(refusal) = broker.belongs(&instance, &request.service_id, &request.plan_id) {
                return Ok(Err(refusal));
            }
            let known = (|| {
                let sealed = Sealed::open(&broker.keys, &row)?;
                Ok::<_, Refusal>((sealed, BindingState::of(&row)?, state_of(&instance)?))
            })();
            let (sealed, state, of_instance) = match known {
                Ok(known) => known,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if sealed.secrets.is_none() {
                rows.delete_binding(&instance.id, &row.id)?;
                return Ok(Ok(Decision::Removed));
            }
            // Without a hook it may go: platforms unbind before they delete the instance.
            if let Err(refusal) = broker.require_current(&instance.id) {
                return Ok(Err(refusal));
            }
            let running = rows.find_running_operation_on(&instance.id, &row.id)?;
            if state == BindingState::Unbinding
                && let Some(operation) = running
            {
                return Ok(Ok(Decision::Join(operation.id)));
            }
            if of_instance.is_busy() {
                return Ok(Err(Refusal::Concurrency(format!(
                    "the service instance is {of_instance}; unbind it when that has ended"
                ))));
            }
            if let Some(refusal) = going_back(rows, &instance)? {
                return Ok(Err(refusal));
            }
            if let Some(operation) = &running {
                let why = "halted because the service binding is being deleted";
                rows.finish_operation(&operation.id, FAILED, Some(why))?;
            }
            let operation = OperationRow::new(
                operation_id("unbind"),
                "unbind",
                &instance.id,
                Some(row.id.as_str()),
            );
            rows.insert_operation(&operation)?;
            let before = state;
            let state = BindingState::Unbinding.as_str().to_owned();
            rows.update_binding(&BindingRow { state, ..row })?;
            let unsure = running.is_some() || before != BindingState::Ready;
            Ok(Ok(Decision::Launch(operation, running.map(|operation| operation.id), unsure)))
        });
        match decided.await?? {
            Decision::Removed => {
                reach(Step::UnbindCommitted);
                self.store.settle(&instance_id).await?;
                Ok(Accepted::Done)
            }
            Decision::Join(operation) if accepts_incomplete => {
                Ok(Accepted::InProgress { operation })
            }
            Decision::Join(_) => {
                Err(Refusal::Concurrency("the service binding is being deleted already".to_owned()))
            }
            Decision::Launch(operation, halted, unsure) => {
                reach(Step::UnbindAccepted);
                tracing::info!(
                    operation.id,
                    instance.id = operation.instance_id,
                    binding.id = operation.binding_id,
                    "unbind accepted"
                );
                let id = operation.id.clone();
                if let Some(halted) = halted {
                    self.works.halt(&operation, &halted);
                }
                if unsure {
                    // A hook of an earlier attempt, or of an earlier broker, may still run.
                    self.resume(operation);
                } else {
                    self.launch(operation);
                }
                if !accepts_incomplete {
                    return self.wait_for(&id).await.map(|()| Accepted::Done);
                }
                match timeout(SHORT, self.wait_for(&id)).await {
                    Ok(ended) => ended.map(|()| Accepted::Done),
                    Err(_) => Ok(Accepted::InProgress { operation: id }),
                }
            }
        }
    }
}
