//! Removing an instance with everything that was made for it.

use std::sync::Arc;

use super::{
    Accepted, Broker, DeleteRequest, Event, InstanceState, Refusal, Transition,
    data_version::{migrate_name, probe_name},
    error::Failure,
    fault::{Step, reach},
    instance::{Instance, Private, operation_id, state_of},
    last_operation::{FAILED, SUCCEEDED},
    replace::{prepared_name, standby_name},
    retry::{check, while_unreachable},
    tenancy::is_host,
    work::Context,
};
use crate::{
    catalog::Action,
    store::{InstanceRow, OperationRow},
    telemetry::Chain,
};

enum Decision {
    /// The new operation, and the one that it halts.
    Launch(OperationRow, Option<String>),
    Join(String),
}

impl Broker {
    /// Accepts a deprovision. It halts a provision that is still under way.
    ///
    /// # Errors
    /// [`Refusal::Gone`] when there is no such instance; any other [`Refusal`].
    pub async fn deprovision(
        self: &Arc<Self>,
        request: DeleteRequest,
    ) -> Result<Accepted, Refusal> {
        let accepts_incomplete = request.accepts_incomplete;
        let broker = Arc::clone(self);
        let decided = self.store.write(move |rows| {
            let id = request.instance_id.as_str();
            let Some(row) = rows.find_instance(id)? else {
                return Ok(Err(Refusal::Gone(format!("service instance {id} does not exist"))));
            };
            if let Err(refusal) = broker.belongs(&row, &request.service_id, &request.plan_id) {
                return Ok(Err(refusal));
            }
            let state = match state_of(&row) {
                Ok(state) => state,
                Err(error) => return Ok(Err(error.into())),
            };
            let running = rows.find_running_operation(id)?;
            if state == InstanceState::Deprovisioning
                && let Some(operation) = running
            {
                return Ok(Ok(Decision::Join(operation.id)));
            }
            let next = match state.on(Event::Deprovision) {
                Transition::To(next) => next,
                // Only an older store believes that it runs: nothing would ever end it.
                Transition::Busy if broker.is_outdated(id) => InstanceState::Deprovisioning,
                _ => {
                    return Ok(Err(Refusal::Concurrency(
                        "another operation runs on this service instance; try again when it has \
                         ended"
                            .to_owned(),
                    )));
                }
            };
            if let Some(operation) = &running {
                rows.finish_operation(
                    &operation.id,
                    FAILED,
                    Some("halted because the service instance is being deleted"),
                )?;
            }
            for operation in rows.list_running_operations_on_bindings(id)? {
                let why = "halted because the service instance is being deleted";
                rows.finish_operation(&operation.id, FAILED, Some(why))?;
            }
            rows.update_instance(&InstanceRow { state: next.as_str().to_owned(), ..row.clone() })?;
            let operation =
                OperationRow::new(operation_id("deprovision"), "deprovision", &row.id, None);
            rows.insert_operation(&operation)?;
            Ok(Ok(Decision::Launch(operation, running.map(|operation| operation.id))))
        });
        match decided.await?? {
            Decision::Join(operation) if accepts_incomplete => {
                Ok(Accepted::InProgress { operation })
            }
            Decision::Join(_) => Err(Refusal::Concurrency(
                "the service instance is being deleted already".to_owned(),
            )),
            Decision::Launch(operation, halted) => {
                reach(Step::DeprovisionAccepted);
                tracing::info!(
                    operation.id,
                    instance.id = operation.instance_id,
                    "deprovision accepted"
                );
                if let Some(halted) = halted {
                    self.works.halt(&operation, &halted);
                }
                let id = operation.id.clone();
                // Hooks of what it halts, or of an earlier broker, may still run.
                self.resume(operation);
                self.answer(id, accepts_incomplete, Accepted::Done).await
            }
        }
    }

    /// Runs the deprovision hook, if the container runs: it goes whatever becomes of the hook.
    async fn run_deprovision_hook(
        &self,
        instance: &Instance,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        // Those of a shared container are for who lives in it.
        let plan = self.hooking_plan(instance, Action::Deprovision);
        if plan.lifecycle.deprovision.is_none() || is_host(&instance.row.id) {
            return Ok(());
        }
        let name = self.container_of(instance);
        let found =
            while_unreachable(&context.cancel, context.deadline, || self.docker.inspect(&name))
                .await?;
        if !found.is_some_and(|facts| facts.running) {
            return Ok(());
        }
        match self.run_own_hook(Action::Deprovision, instance, operation_id, context).await {
            Ok(_) => Ok(()),
            Err(Failure::Interrupted) => Err(Failure::Interrupted),
            Err(Failure::Failed { public, cause }) => {
                tracing::error!(
                    operation.id = operation_id,
                    instance.id = instance.row.id,
                    reason = public,
                    error = cause.map_or_else(String::new, |cause| Chain(&cause).to_string()),
                    "the deprovision hook failed; the instance is deleted all the same"
                );
                Ok(())
            }
        }
    }

    /// Carries a deprovision out, from wherever it got to.
    pub(super) async fn run_deprovision(
        self: &Arc<Self>,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<(), Failure> {
        let mut instance = self.get(&operation.instance_id).await?;
        if instance.is_guest() && instance.definition.plan.tenancy.is_some() {
            return self.move_out(&instance, operation, context).await;
        }
        if instance.is_guest() {
            self.take_ports(&mut instance).await;
            self.clear_guest(&instance, &operation.id, context).await?;
            reach(Step::DeprovisionHooked);
            self.remove_directories(&instance).await?;
        } else {
            self.run_deprovision_hook(&instance, &operation.id, context).await?;
            reach(Step::DeprovisionHooked);
            self.take_down(&instance, context).await?;
        }
        let finished = self.conclude(&context.cancel, || {
            let (operation_id, instance_id) = (operation.id.clone(), instance.row.id.clone());
            move |rows| {
                rows.delete_instance(&instance_id)?;
                rows.finish_operation(&operation_id, SUCCEEDED, None)?;
                rows.delete_old_operations()?;
                Ok(Ok::<(), Failure>(()))
            }
        });
        finished.await??;
        reach(Step::DeprovisionCommitted);
        Ok(())
    }

    /// Removes the containers of an instance, and its directories.
    async fn take_down(&self, instance: &Instance, context: &Context) -> Result<(), Failure> {
        let grace = instance.definition.plan.container.stop_timeout;
        let name = self.container_name(&instance.row.name);
        context.step("stopping the container");
        let beside = [standby_name, prepared_name, migrate_name, probe_name].map(|of| of(&name));
        for name in std::iter::once(name.clone()).chain(beside) {
            check(&context.cancel)?;
            let ours = while_unreachable(&context.cancel, context.deadline, || {
                self.docker.owns(&name, &instance.row.id)
            });
            if !ours.await? {
                continue;
            }
            while_unreachable(&context.cancel, context.deadline, || self.docker.stop(&name, grace))
                .await?;
            reach(Step::DeprovisionStopped);
            while_unreachable(&context.cancel, context.deadline, || self.docker.remove_own(&name))
                .await?;
        }
        self.docker.leave_network(&instance.row.id).await;
        reach(Step::DeprovisionRemoved);
        context.step("removing the data");
        self.remove_directories(instance).await?;
        reach(Step::DeprovisionDirectories);
        Ok(())
    }
}

impl Broker {
    /// OSB: the ids in a request have to be those of the instance. A platform that did not hear of
    /// a change of plan names the former one, and must be able to delete all the same.
    pub(super) fn belongs(
        &self,
        row: &InstanceRow,
        service_id: &str,
        plan_id: &str,
    ) -> Result<(), Refusal> {
        is_of_service(row, service_id)?;
        if row.plan_id == plan_id
            || Private::open(&self.keys, row)?.former_plans.iter().any(|plan| plan == plan_id)
        {
            return Ok(());
        }
        Err(Refusal::Invalid(format!("plan_id {plan_id:?} is not the plan of instance {}", row.id)))
    }
}

pub(super) fn is_of_service(row: &InstanceRow, service_id: &str) -> Result<(), Refusal> {
    if row.service_id == service_id {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "service_id {service_id:?} is not the service of instance {}",
        row.id
    )))
}
