//! Carrying out what hooks do for bindings.

use serde_json::{Map, Value};

use super::{
    Broker,
    binding::{BindingState, Sealed},
    error::{Failure, InternalError},
    fault::{Step, reach},
    hook::Hooked,
    hook_input::HookInput,
    instance::{Instance, damaged},
    last_operation::{FAILED, SUCCEEDED},
    work::Context,
};
use crate::{
    catalog::{Action, Plan},
    credentials::{Facts, Tokens, binding_document},
    store::{BindingRow, OperationRow, Rows},
    telemetry::Chain,
};

/// What an envelope may hold besides `credentials`: fields of OSB's binding response.
const ENVELOPE: [&str; 4] = ["endpoints", "syslog_drain_url", "route_service_url", "volume_mounts"];
/// Likewise, in its `metadata`.
const METADATA: [&str; 2] = ["expires_at", "renew_before"];

impl Broker {
    /// A binding that an operation says is there, with its instance.
    async fn get_binding(
        &self,
        instance_id: &str,
        binding_id: &str,
    ) -> Result<(Instance, BindingRow, Sealed), InternalError> {
        let mut instance = self.get(instance_id).await?;
        self.take_ports(&mut instance).await;
        let (id, binding) = (instance_id.to_owned(), binding_id.to_owned());
        let row = self.store.read(move |rows| rows.find_binding(&id, &binding)).await?;
        let row = row.ok_or_else(|| damaged(&format!("binding {binding_id}"), "it is missing"))?;
        let sealed = Sealed::open(&self.keys, &row)?;
        Ok((instance, row, sealed))
    }

    /// Carries a bind out, from wherever it got to.
    pub(super) async fn run_bind(
        &self,
        operation: &OperationRow,
        binding_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        let (instance, row, mut sealed) =
            self.get_binding(&operation.instance_id, binding_id).await?;
        let polled = context.for_plan(&instance.definition.plan);
        match self.make_binding(&instance, &row, &mut sealed, &operation.id, &polled).await {
            Ok(()) => {}
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => {
                return Err(self
                    .undo_bind(operation, &instance, row, &sealed, failure, context)
                    .await);
            }
        }
        reach(Step::BindHooked);
        let ready = BindingRow {
            state: BindingState::Ready.as_str().to_owned(),
            sealed: sealed.seal(&self.keys, &row.instance_id, binding_id)?,
            ..row
        };
        let finished = self.conclude(&context.cancel, || {
            let (id, row) = (operation.id.clone(), ready.clone());
            move |rows: &Rows<'_>| {
                // A deletion may have overtaken it in this very moment.
                if !rows.finish_operation(&id, SUCCEEDED, None)? {
                    return Ok(Err(Failure::Interrupted));
                }
                rows.update_binding(&row)?;
                Ok(Ok(()))
            }
        });
        finished.await??;
        reach(Step::BindCommitted);
        if ready.expires_at.is_some() {
            self.expiring.notify_one();
        }
        Ok(())
    }

    /// Runs the hook and makes the document.
    async fn make_binding(
        &self,
        instance: &Instance,
        row: &BindingRow,
        sealed: &mut Sealed,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        // Its ports may be others then.
        let instance = &self.after_host_upgrade(instance, context).await?;
        context.step("making the credentials");
        let plan = self.hooking_plan(instance, Action::Bind);
        let printed = match plan.lifecycle.hook(Action::Bind) {
            None => Hooked::Absent,
            Some(hook) => {
                let input = HookInput {
                    action: Action::Bind,
                    instance,
                    plan,
                    host: &self.limits.external_host,
                    operation_id,
                    binding: sealed.for_hook(&row.id),
                    versions: None,
                };
                self.run_hook(hook, &input, context).await?
            }
        };
        let printed = match printed {
            // An image without the script: nobody made a user.
            Hooked::Absent => {
                sealed.secrets = None;
                None
            }
            Hooked::Done(printed) => printed,
        };
        sealed.document = self.hooked_document(plan, instance, sealed, &row.id, printed)?;
        sealed.add_metadata(row.expires_at);
        Ok(())
    }

    fn hooked_document(
        &self,
        plan: &Plan,
        instance: &Instance,
        sealed: &Sealed,
        binding_id: &str,
        printed: Option<Map<String, Value>>,
    ) -> Result<Value, InternalError> {
        let facts = Facts {
            host: &self.limits.external_host,
            ports: &instance.ports,
            secrets: &instance.private.secrets,
            own: sealed.secrets.as_ref(),
            instance_id: &instance.row.id,
            binding_id,
            ca_certificate: self.ca_certificate(&instance.private),
        };
        let mut document = binding_document(plan, &facts)
            .map_err(|error| damaged(&format!("plan {}", plan.id), error.to_string()))?;
        if let Some(printed) = printed {
            let tokens = Tokens::new(&plan.credentials, facts.host, facts.ports);
            merge(&mut document, &printed, &tokens);
        }
        Ok(document)
    }

    /// Takes back what a failed bind may have made, and records how it ended.
    async fn undo_bind(
        &self,
        operation: &OperationRow,
        instance: &Instance,
        row: BindingRow,
        sealed: &Sealed,
        failure: Failure,
        context: &Context,
    ) -> Failure {
        let (public, cause) = match failure {
            Failure::Interrupted => return Failure::Interrupted,
            Failure::Failed { public, cause } => (public, cause),
        };
        reach(Step::BindUndoing);
        let context = &context.renewed(self.limits.operation_timeout);
        context.step("taking back what was made");
        let undone = match self.revoke(instance, &row.id, sealed, &operation.id, context).await {
            Ok(_) => true,
            Err(Failure::Interrupted) => return Failure::Interrupted,
            Err(Failure::Failed { public, cause }) => {
                // What is left goes with the deletion of the binding.
                tracing::error!(
                    operation.id,
                    instance.id = row.instance_id,
                    binding.id = row.id,
                    reason = public,
                    error = cause.map_or_else(String::new, |cause| Chain(&cause).to_string()),
                    "a failed bind could not be undone"
                );
                false
            }
        };
        reach(Step::BindUndone);
        let refused = matches!(cause, Some(InternalError::HookRefused));
        let recorded = self.conclude(&self.stopping, || {
            let (operation, row, public) = (operation.clone(), row.clone(), public.clone());
            move |rows: &Rows<'_>| {
                if !rows.finish_operation(&operation.id, FAILED, Some(&public))? {
                    return Ok(Err(Failure::Interrupted));
                }
                if refused {
                    rows.mark_refused(&operation.id)?;
                }
                if refused && undone {
                    // Platforms do not delete what was refused.
                    rows.delete_binding(&row.instance_id, &row.id)?;
                } else {
                    let state = BindingState::BindFailed.as_str().to_owned();
                    rows.update_binding(&BindingRow { state, ..row })?;
                }
                Ok(Ok(()))
            }
        });
        match recorded.await {
            Ok(Ok(())) => Failure::Failed { public, cause },
            Ok(Err(failure)) | Err(failure) => failure,
        }
    }

    /// Runs the unbind hook of a binding that was made by a hook; whether it revoked anything.
    pub(super) async fn revoke(
        &self,
        instance: &Instance,
        binding_id: &str,
        sealed: &Sealed,
        operation_id: &str,
        context: &Context,
    ) -> Result<bool, Failure> {
        let plan = self.hooking_plan(instance, Action::Unbind);
        let Some(binding) = sealed.for_hook(binding_id) else { return Ok(false) };
        let Some(hook) = plan.lifecycle.hook(Action::Unbind) else {
            return Err(Failure::because("the plan has no unbind hook any more; ask the operator"));
        };
        let input = HookInput {
            action: Action::Unbind,
            instance,
            plan,
            host: &self.limits.external_host,
            operation_id,
            binding: Some(binding),
            versions: None,
        };
        let hooked = self.run_hook(hook, &input, context).await?;
        Ok(matches!(hooked, Hooked::Done(_)))
    }

    /// Carries an unbind out, from wherever it got to.
    pub(super) async fn run_unbind(
        &self,
        operation: &OperationRow,
        binding_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        let (instance, row, sealed) = self.get_binding(&operation.instance_id, binding_id).await?;
        context.step("revoking the credentials");
        let polled = context.for_plan(&instance.definition.plan);
        let revoked = self.revoke(&instance, &row.id, &sealed, &operation.id, &polled).await;
        let revoked = revoked.map_err(|failure| match failure {
            Failure::Failed { public, cause } => Failure::Failed {
                public: format!("the credentials were not revoked: {public}; unbind again"),
                cause,
            },
            Failure::Interrupted => Failure::Interrupted,
        })?;
        if !revoked {
            tracing::warn!(
                operation.id,
                instance.id = row.instance_id,
                binding.id = row.id,
                "the image has no /unbind: what its /bind made is valid until the instance is deleted"
            );
        }
        reach(Step::UnbindHooked);
        let finished = self.conclude(&context.cancel, || {
            let (id, row) = (operation.id.clone(), row.clone());
            move |rows: &Rows<'_>| {
                if !rows.finish_operation(&id, SUCCEEDED, None)? {
                    return Ok(Err(Failure::Interrupted));
                }
                rows.delete_binding(&row.instance_id, &row.id)?;
                Ok(Ok(()))
            }
        });
        finished.await??;
        reach(Step::UnbindCommitted);
        Ok(())
    }

    /// Records that an operation on a binding failed.
    pub(super) async fn fail_binding(
        &self,
        operation: &OperationRow,
        binding_id: &str,
        public: &str,
    ) -> Result<(), InternalError> {
        let recorded = self.conclude(&self.stopping, || {
            let (operation, public) = (operation.clone(), public.to_owned());
            let binding_id = binding_id.to_owned();
            move |rows: &Rows<'_>| {
                if !rows.finish_operation(&operation.id, FAILED, Some(&public))? {
                    return Ok(Ok(()));
                }
                if let Some(row) = rows.find_binding(&operation.instance_id, &binding_id)? {
                    let state = match operation.kind.as_str() {
                        "bind" => BindingState::BindFailed,
                        _ => BindingState::UnbindFailed,
                    };
                    rows.update_binding(&BindingRow { state: state.as_str().to_owned(), ..row })?;
                }
                Ok(Ok::<(), InternalError>(()))
            }
        });
        match recorded.await {
            Ok(outcome) => outcome,
            // The broker stops: the operation runs again at the next start.
            Err(_) => Ok(()),
        }
    }
}

/// Puts what a hook printed into the document: credentials, or an envelope with them.
fn merge(document: &mut Value, printed: &Map<String, Value>, tokens: &Tokens<'_>) {
    let Some(credentials) = printed.get("credentials").filter(|value| value.is_object()) else {
        document["credentials"] = tokens.render(&Value::Object(printed.clone()));
        return;
    };
    document["credentials"] = tokens.render(credentials);
    for (name, value) in printed {
        if ENVELOPE.contains(&name.as_str()) {
            document[name] = tokens.render(value);
        } else if METADATA.contains(&name.as_str()) {
            document["metadata"][name] = value.clone();
        } else if name != "credentials" {
            tracing::warn!(field = name, "what a bind hook printed has an unknown field");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::catalog::{ContainerPort, Credentials};

    fn merged(printed: Value) -> Value {
        let ports = BTreeMap::from([(ContainerPort::parse("80").unwrap(), 20000)]);
        let tokens = Tokens::new(&Credentials::default(), "h", &ports);
        let mut document = json!({"credentials": {"x": 1}, "endpoints": []});
        let Value::Object(printed) = printed else { panic!("not an object") };
        merge(&mut document, &printed, &tokens);
        document
    }

    #[test]
    fn an_object_is_the_credentials_unless_it_has_an_object_of_that_name() {
        assert_eq!(
            merged(json!({"uri": "http://$HOST:$PORT", "n": 1.5, "no": null, "credentials": "x"})),
            json!({"credentials": {"uri": "http://h:20000", "n": 1.5, "no": null,
                "credentials": "x"}, "endpoints": []})
        );
        assert_eq!(
            merged(json!({
                "credentials": {"a": ["$PORT_80"]}, "syslog_drain_url": "syslog://$HOST:$PORT",
                "expires_at": "2030-01-01T00:00:00.0Z", "unknown": 1,
            })),
            json!({
                "credentials": {"a": ["20000"]}, "endpoints": [],
                "syslog_drain_url": "syslog://h:20000",
                "metadata": {"expires_at": "2030-01-01T00:00:00.0Z"},
            })
        );
    }
}
