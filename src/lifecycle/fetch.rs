//! Showing instances and bindings.

use super::{
    BoundDocument, Broker, FetchedInstance, InstanceState, Refusal,
    binding::{BindingState, Sealed},
    instance::{Private, state_of},
};
use crate::catalog::{BindingId, InstanceId};

impl Broker {
    /// An instance.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], also while it is being made; [`Refusal::Concurrency`] while it
    /// changes.
    pub async fn fetch_instance(&self, id: &InstanceId) -> Result<FetchedInstance, Refusal> {
        let wanted = id.to_string();
        let row = self.store.read(move |rows| rows.find_instance(&wanted)).await?;
        let missing = || Refusal::NotFound(format!("service instance {id} does not exist"));
        let row = row.ok_or_else(missing)?;
        match state_of(&row)? {
            InstanceState::Provisioning | InstanceState::ProvisionFailed => return Err(missing()),
            InstanceState::Updating => {
                return Err(Refusal::Concurrency(
                    "the service instance is being updated; fetch it when that has ended"
                        .to_owned(),
                ));
            }
            InstanceState::Ready
            | InstanceState::UpdateFailed
            | InstanceState::Deprovisioning
            | InstanceState::DeprovisionFailed => {}
        }
        let private = Private::open(&self.keys, &row)?;
        Ok(FetchedInstance {
            service_id: row.service_id,
            plan_id: row.plan_id,
            parameters: private.parameters,
            maintenance_version: row.maintenance,
            dashboard_url: private.dashboard_url,
        })
    }

    /// A binding, with the document that it was made with.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], also while it is being made.
    pub async fn fetch_binding(
        &self,
        instance: &InstanceId,
        binding: &BindingId,
    ) -> Result<BoundDocument, Refusal> {
        let (instance_id, binding_id) = (instance.to_string(), binding.to_string());
        let found =
            self.store.read(move |rows| rows.find_binding(&instance_id, &binding_id)).await?;
        let missing = || {
            Refusal::NotFound(format!(
                "service binding {binding} of instance {instance} does not exist"
            ))
        };
        let row = found.ok_or_else(missing)?;
        if !BindingState::of(&row)?.is_made() {
            return Err(missing());
        }
        let sealed = Sealed::open(&self.keys, &row)?;
        // One that is being deleted before it was made.
        if sealed.document.is_null() {
            return Err(missing());
        }
        Ok(sealed.into_document(false))
    }
}
