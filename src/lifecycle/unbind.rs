//! Removing bindings.

use std::sync::Arc;

use super::{
    Broker, DeleteRequest, Refusal,
    fault::{Step, reach},
};
use crate::catalog::BindingId;

impl Broker {
    /// Removes a binding.
    ///
    /// # Errors
    /// [`Refusal::Gone`] when there is no such binding; any other [`Refusal`].
    pub async fn unbind(
        self: &Arc<Self>,
        request: DeleteRequest,
        binding: BindingId,
    ) -> Result<(), Refusal> {
        let broker = Arc::clone(self);
        let removed = self.store.write(move |rows| {
            let gone = || {
                Refusal::Gone(format!(
                    "service binding {binding} of instance {} does not exist",
                    request.instance_id
                ))
            };
            let Some(row) = rows.find_instance(request.instance_id.as_str())? else {
                return Ok(Err(gone()));
            };
            if rows.find_binding(&row.id, binding.as_str())?.is_none() {
                return Ok(Err(gone()));
            }
            if let Err(refusal) = broker.belongs(&row, &request.service_id, &request.plan_id) {
                return Ok(Err(refusal));
            }
            rows.delete_binding(&row.id, binding.as_str())?;
            Ok(Ok(()))
        });
        removed.await??;
        reach(Step::UnbindCommitted);
        Ok(())
    }
}
