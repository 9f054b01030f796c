//! How operations stand and how they ended.

use super::{Broker, Refusal};
use crate::{
    catalog::{BindingId, InstanceId},
    store::OperationRow,
};

pub(super) const IN_PROGRESS: &str = "in progress";
pub(super) const SUCCEEDED: &str = "succeeded";
pub(super) const FAILED: &str = "failed";

/// State of an operation in the words of OSB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// `in progress`, `succeeded` or `failed`.
    pub state: String,
    /// For users.
    pub description: Option<String>,
    /// After a failed update: whether the instance still works.
    pub instance_usable: Option<bool>,
}

impl Broker {
    /// The newest operation on an instance, or the one that the platform names.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when the instance is not known (any more); [`Refusal::Invalid`] when
    /// the operation is not one of this instance.
    pub async fn last_operation(
        &self,
        id: &InstanceId,
        operation: Option<&str>,
    ) -> Result<Progress, Refusal> {
        let (instance, named) = (id.to_string(), operation.map(str::to_owned));
        let (row, found) = self
            .store
            .read(move |rows| {
                let row = rows.find_instance(&instance)?;
                let found = match named {
                    Some(named) => rows
                        .find_operation(&named)?
                        .filter(|op| op.instance_id == instance && op.binding_id.is_none()),
                    None => rows.find_last_operation(&instance, None)?,
                };
                Ok((row, found))
            })
            .await?;
        match (row, found) {
            (row, Some(operation)) => {
                let usable = row.and_then(|row| super::InstanceState::parse(&row.state));
                Ok(self.progress(&operation, usable))
            }
            (Some(_), None) if operation.is_some() => Err(Refusal::Invalid(
                "operation is not one that this broker gave out for this instance".to_owned(),
            )),
            _ => Err(Refusal::NotFound(format!("service instance {id} does not exist"))),
        }
    }

    /// An operation has not succeeded as long as the record beside the data does not say so.
    fn is_unrecorded(&self, row: &OperationRow) -> bool {
        row.state == SUCCEEDED && self.store.is_behind(&row.instance_id)
    }

    fn progress(&self, row: &OperationRow, state: Option<super::InstanceState>) -> Progress {
        if self.is_unrecorded(row) {
            return Progress {
                state: IN_PROGRESS.to_owned(),
                description: Some("writing it down beside the data".to_owned()),
                instance_usable: None,
            };
        }
        let failed_update = row.kind == "update" && row.state == FAILED;
        // For a moment after its end its task is still there.
        let running = row.state == IN_PROGRESS;
        let step = running.then(|| self.works.step_of(row)).flatten().map(str::to_owned);
        Progress {
            state: row.state.clone(),
            description: step.or_else(|| row.description.clone()).filter(|text| !text.is_empty()),
            instance_usable: failed_update
                .then(|| state.is_some_and(|state| state == super::InstanceState::Ready)),
        }
    }

    /// The newest operation on a binding, or the one that the platform names. A binding without
    /// one was made at once.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn last_binding_operation(
        &self,
        instance: &InstanceId,
        binding: &BindingId,
        operation: Option<&str>,
    ) -> Result<Progress, Refusal> {
        let (instance_id, binding_id) = (instance.to_string(), binding.to_string());
        let named = operation.map(str::to_owned);
        let (row, found) = self
            .store
            .read(move |rows| {
                let row = rows.find_binding(&instance_id, &binding_id)?;
                let is_ours = |op: &OperationRow| {
                    op.instance_id == instance_id && op.binding_id.as_ref() == Some(&binding_id)
                };
                let found = match named {
                    Some(named) => rows.find_operation(&named)?.filter(is_ours),
                    // Of a binding that is gone, only the operation that it was known by is told.
                    None if row.is_none() => None,
                    None => rows.find_last_operation(&instance_id, Some(&binding_id))?,
                };
                Ok((row, found))
            })
            .await?;
        match (row, found) {
            (_, Some(operation)) => Ok(self.progress(&operation, None)),
            (Some(_), None) => Ok(Progress {
                state: SUCCEEDED.to_owned(),
                description: None,
                instance_usable: None,
            }),
            (None, None) => Err(Refusal::NotFound(format!(
                "service binding {binding} of instance {instance} does not exist"
            ))),
        }
    }
}
