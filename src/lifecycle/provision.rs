//! Making an instance.

use std::sync::Arc;

use super::{
    Accepted, Broker, Event, InstanceState, ProvisionRequest, Refusal, Transition,
    container::Faults,
    error::{Failure, InternalError},
    fault::{Step, reach},
    guard::mount_problem,
    hook::Hooked,
    instance::{
        Instance, Private, SealedDefinition, operation_id, parameter_environment, reserve, state_of,
    },
    last_operation::{FAILED, SUCCEEDED},
    tenancy::is_host,
    work::Context,
};
use crate::{
    catalog::{Action, ContainerPort, Definition, Offer},
    config::PortRange,
    docker::ImageStatus,
    store::{InstanceRow, OperationRow, RowError, Rows},
    telemetry::Chain,
};

/// What the accepting transaction decided.
enum Decision {
    /// The new operation, and that of the new shared container.
    Launch(OperationRow, Option<Box<OperationRow>>),
    Join(String),
    Exists,
}

impl Broker {
    /// Accepts a provision: the same request twice makes one instance.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then, unless it is [`Refusal::OperationFailed`].
    pub async fn provision(
        self: &Arc<Self>,
        request: ProvisionRequest,
    ) -> Result<Accepted, Refusal> {
        let offer = self.offer(&request.service_id, &request.plan_id)?.clone();
        let plan = &offer.plan;
        if let Some(schema) = &plan.schemas.create {
            let problems = schema.problems(&request.parameters);
            if !problems.is_empty() {
                return Err(Refusal::Invalid(format!("parameters: {}", problems.join("; "))));
            }
        }
        parameter_environment(plan, &request.parameters)?;
        Self::check_maintenance(plan, request.maintenance_version.as_deref())?;
        let accepts_incomplete = request.accepts_incomplete;
        let id = request.instance_id.to_string();
        match self.accept_provision(&offer, request).await? {
            Decision::Exists => {
                self.store.settle(&id).await?;
                Ok(Accepted::Already)
            }
            Decision::Join(operation) => {
                self.answer(operation, accepts_incomplete, Accepted::Already).await
            }
            Decision::Launch(operation, host) => {
                reach(Step::ProvisionAccepted);
                tracing::info!(
                    operation.id,
                    instance.id = operation.instance_id,
                    plan.id,
                    service.name = offer.service.name,
                    "provision accepted"
                );
                if let Some(host) = host {
                    self.launch(*host);
                }
                let id = operation.id.clone();
                self.launch(operation);
                self.answer(id, accepts_incomplete, Accepted::Done).await
            }
        }
    }

    async fn accept_provision(
        self: &Arc<Self>,
        offer: &Offer,
        request: ProvisionRequest,
    ) -> Result<Decision, Refusal> {
        let definition = SealedDefinition::new(&self.keys, &Definition::from(offer))?;
        let container = &offer.plan.container;
        let is_existing = container.existing.is_some();
        let is_guest = is_existing || offer.plan.tenancy.is_some();
        let status =
            if is_existing { ImageStatus::Pending } else { self.images.status(&container.image) };
        let ports = match (&container.expose_ports, &status) {
            // They belong to the container.
            _ if is_existing => Vec::new(),
            (stated, _) if !stated.is_empty() => stated.clone(),
            (_, ImageStatus::Ready(facts)) => facts.ports.clone(),
            // Reserved by the operation, as soon as the image says which.
            _ => Vec::new(),
        };
        let unavailable = match status {
            ImageStatus::Failed(message) => Some(message),
            ImageStatus::Ready(facts) if !is_existing => mount_problem(container, &facts),
            ImageStatus::Pending | ImageStatus::Ready(_) => self.missing_container(container).await,
        };
        self.require_disk().await?;
        // A deprovision removes the directory before the row, so this is a lost or older store.
        let remains = self.has_directory(&request.instance_id.safe_name()).await?;
        let broker = Arc::clone(self);
        let max_of_plan = offer.plan.max_instances.unwrap_or(0);
        let plan = Arc::clone(&offer.plan);
        let decided = self.store.write(move |rows| {
            let known = rows.find_instance(request.instance_id.as_str())?;
            if let Some(row) = &known
                && let Some(decision) = broker.repeat(rows, row, &request)?
            {
                return Ok(decision);
            }
            if known.is_none() && remains {
                return Ok(Err(Refusal::Conflict(format!(
                    "data of another service instance {} is on the disk, of which this broker \
                     knows nothing else; ask the operator",
                    request.instance_id
                ))));
            }
            // A shared container may be there, and have room.
            if let Some(message) = &unavailable
                && plan.tenancy.is_none()
            {
                return Ok(Err(unavailable_now(message)));
            }
            // An instance that could not be made is counted already.
            if known.is_none()
                && let Some(refusal) =
                    over_capacity(rows, &request.plan_id, max_of_plan, broker.limits.max_instances)?
            {
                return Ok(Err(refusal));
            }
            // In a container that stays, what a failed attempt has left is found by its names.
            let left = known.as_ref().filter(|_| is_guest);
            let left = match left.map(|row| Private::open(&broker.keys, row)).transpose() {
                Ok(private) => private.map(|private| private.secrets).unwrap_or_default(),
                Err(error) => return Ok(Err(error.into())),
            };
            let private = Private {
                secrets: left.extended_for(&plan),
                parameters: request.parameters.clone(),
                context: request.context.clone(),
                dashboard_url: None,
                former_plans: Vec::new(),
                tls: plan.tls.is_some() && broker.limits.service_tls.is_some(),
                adopted: None,
            };
            let sealed = match private.seal(&broker.keys, request.instance_id.as_str()) {
                Ok(sealed) => sealed,
                Err(error) => return Ok(Err(error.into())),
            };
            let maintenance = plan.maintenance_info.as_ref().map(|info| info.version.clone());
            let mut row = new_row(&request, definition.store(rows)?, sealed, maintenance);
            row.generation += known.as_ref().map_or(0, |failed| failed.generation);
            if known.is_none() {
                rows.insert_instance(&row)?;
            } else {
                // As the catalog has it now: the operator may have mended the plan, ports included.
                rows.release_ports(&row.id)?;
                rows.update_instance(&row)?;
            }
            let host = match broker.place(rows, &row, &plan, &ports, unavailable.as_deref())? {
                Ok(host) => host,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let ports = if plan.tenancy.is_some() { &[] } else { ports.as_slice() };
            broker.start_provision(rows, &row.id, ports, host)
        });
        decided.await?
    }

    /// Reserves ports and writes the operation down.
    fn start_provision(
        &self,
        rows: &Rows<'_>,
        id: &str,
        ports: &[ContainerPort],
        host: Option<OperationRow>,
    ) -> Result<Result<Decision, Refusal>, RowError> {
        let range = self.limits.host_ports;
        if !reserve(rows, id, ports, range)? {
            return Ok(Err(without_ports(range)));
        }
        let operation = OperationRow::new(operation_id("provision"), "provision", id, None);
        rows.insert_operation(&operation)?;
        Ok(Ok(Decision::Launch(operation, host.map(Box::new))))
    }

    /// A provision of an id that is taken; `None` when it may be tried anew.
    fn repeat(
        &self,
        rows: &Rows<'_>,
        row: &InstanceRow,
        request: &ProvisionRequest,
    ) -> Result<Option<Result<Decision, Refusal>>, RowError> {
        let known = state_of(row)
            .and_then(|state| Private::open(&self.keys, row).map(|private| (state, private)));
        let (state, private) = match known {
            Ok(known) => known,
            Err(error) => return Ok(Some(Err(error.into()))),
        };
        let same = row.service_id == request.service_id
            && row.plan_id == request.plan_id
            && (private.parameters == request.parameters
                || self.means_the_same(&private, &request.plan_id, &request.parameters));
        let id = &row.id;
        if state == InstanceState::Deprovisioning {
            let text = format!("service instance {id} is being deleted");
            return Ok(Some(Err(Refusal::Concurrency(text))));
        }
        if !same {
            return Ok(Some(Err(Refusal::Conflict(format!(
                "service instance {id} exists already with another service, plan or parameters"
            )))));
        }
        if let Err(refusal) = self.require_current(id)
            && state != InstanceState::Ready
        {
            return Ok(Some(Err(refusal)));
        }
        if state == InstanceState::Provisioning {
            let running = rows.find_running_operation(id)?;
            return Ok(Some(running.map(|operation| Decision::Join(operation.id)).ok_or_else(
                || super::instance::damaged(&format!("instance {id}"), "no operation runs").into(),
            )));
        }
        Ok(match state.on(Event::Provision) {
            Transition::To(_) => None,
            _ if state == InstanceState::DeprovisionFailed => Some(Err(Refusal::Conflict(
                format!("deleting service instance {id} failed; delete it again first"),
            ))),
            _ => Some(Ok(Decision::Exists)),
        })
    }

    /// Carries a provision out, from wherever it got to.
    pub(super) async fn run_provision(
        &self,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<(), Failure> {
        let mut instance = self.get(&operation.instance_id).await?;
        if instance.row.generation > 1 && !instance.is_guest() {
            // Another attempt after one that failed. What that has left, if it could not be undone,
            // was made with other secrets.
            self.undo(&instance, &operation.id, context).await?;
            // With the directory of that its record has gone as well.
            self.store.renew(&operation.instance_id).await;
        }
        let polled = context.for_plan(&instance.definition.plan);
        let made = self.make(&mut instance, &operation.id, &polled).await;
        match made {
            Ok(()) => {}
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => {
                reach(Step::ProvisionUndoing);
                let context = &context.renewed(self.limits.operation_timeout);
                match self.undo(&instance, &operation.id, context).await {
                    Err(Failure::Interrupted) => return Err(Failure::Interrupted),
                    // What is left goes with the deletion of the instance.
                    Err(Failure::Failed { public, cause }) => tracing::error!(
                        instance.id = instance.row.id,
                        reason = public,
                        error = cause.map_or_else(String::new, |e| Chain(&e).to_string()),
                        "a failed provision could not be undone"
                    ),
                    Ok(()) => {}
                }
                reach(Step::ProvisionUndone);
                return Err(failure);
            }
        }
        instance.row.sealed = instance.private.seal(&self.keys, &instance.row.id)?;
        let filled = self.filled_volumes(&instance).await?;
        let finished = self.conclude(&context.cancel, || {
            let (id, row) = (operation.id.clone(), instance.row.clone());
            let filled = filled.clone();
            move |rows| {
                // A deletion may have overtaken it in this very moment.
                if rows.finish_operation(&id, SUCCEEDED, None)? {
                    rows.clear_filled_volumes(&row.id)?;
                    rows.add_filled_volumes(&row.id, &filled)?;
                    let state = InstanceState::Ready.as_str().to_owned();
                    rows.update_instance(&InstanceRow { state, ..row })?;
                    return Ok(Ok(()));
                }
                Ok(Err(Failure::Interrupted))
            }
        });
        finished.await??;
        reach(Step::ProvisionCommitted);
        Ok(())
    }

    async fn make(
        &self,
        instance: &mut Instance,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        // Nothing is made of which the record beside the data could not tell.
        self.store.settle(&instance.row.id).await?;
        if instance.is_guest() {
            self.join(instance, context).await?;
        } else {
            self.make_container(instance, context).await?;
        }
        reach(Step::ProvisionReady);
        // The hooks of a shared container are for who lives in it.
        if is_host(&instance.row.id) {
            return Ok(());
        }
        let printed = self.run_own_hook(Action::Provision, instance, operation_id, context).await?;
        if let Hooked::Done(Some(printed)) = printed {
            instance.private.dashboard_url = self.dashboard_url(instance, &printed);
        }
        reach(Step::ProvisionHooked);
        Ok(())
    }

    async fn make_container(
        &self,
        instance: &mut Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        let image = self.require_image(&instance.definition, context).await?;
        reach(Step::ProvisionImage);
        if let Some(problem) = mount_problem(&instance.definition.plan.container, &image) {
            return Err(Failure::because(format!("this plan makes no new instances: {problem}")));
        }
        self.require_ports(instance, &image).await?;
        // It may have been accepted before the start, when the disk was there.
        if let Some(why) = self.missing_disk().await? {
            return Err(Failure::because(why));
        }
        self.ensure_directories(instance).await?;
        let faults = Faults {
            directories: Some(Step::ProvisionDirectories),
            created: Some(Step::ProvisionCreated),
            started: Some(Step::ProvisionStarted),
        };
        self.bring_up(instance, false, faults, context).await
    }

    /// Takes back what this attempt made. No tenant has had access to it.
    async fn undo(
        &self,
        instance: &Instance,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        if instance.is_guest() {
            self.clear_guest(instance, operation_id, context).await?;
        } else {
            self.remove_container(instance, context).await?;
        }
        self.remove_directories(instance).await
    }

    /// Records that an operation failed. Whether an update has left everything intact is known to
    /// its way back only, which records that itself.
    pub(super) async fn fail(
        &self,
        operation: &OperationRow,
        public: &str,
        refused: bool,
    ) -> Result<(), InternalError> {
        let (operation, public) = (operation.clone(), public.to_owned());
        self.fail_with(operation, public, Event::Fail, refused).await
    }

    /// Records that an operation failed, and in which state that leaves the instance.
    pub(super) async fn fail_with(
        &self,
        operation: OperationRow,
        public: String,
        event: Event,
        refused: bool,
    ) -> Result<(), InternalError> {
        let recorded = self.conclude(&self.stopping, || {
            let (operation, public) = (operation.clone(), public.clone());
            move |rows: &Rows<'_>| {
                if !rows.finish_operation(&operation.id, FAILED, Some(&public))? {
                    return Ok(Ok(()));
                }
                if refused {
                    rows.mark_refused(&operation.id)?;
                }
                let Some(row) = rows.find_instance(&operation.instance_id)? else {
                    return Ok(Ok(()));
                };
                let state = match state_of(&row) {
                    Ok(state) => state,
                    Err(error) => return Ok(Err(error)),
                };
                if let Transition::To(next) = state.on(event) {
                    rows.update_instance(&InstanceRow { state: next.as_str().to_owned(), ..row })?;
                }
                Ok(Ok(()))
            }
        });
        match recorded.await {
            Ok(outcome) => outcome,
            // The broker stops: the operation runs again at the next start.
            Err(_) => Ok(()),
        }
    }
}

/// The plan has no image or no container to make instances of.
pub(super) fn unavailable_now(message: &str) -> Refusal {
    Refusal::ImageUnavailable(format!(
        "this plan cannot make new instances at the moment: {message}"
    ))
}

pub(super) fn without_ports(range: PortRange) -> Refusal {
    Refusal::CapacityReached(format!(
        "all host ports from {} to {} are in use; delete service instances, or ask the operator \
         for a larger range",
        range.first, range.last
    ))
}

fn new_row(
    request: &ProvisionRequest,
    definition_hash: String,
    sealed: Vec<u8>,
    maintenance: Option<String>,
) -> InstanceRow {
    InstanceRow {
        id: request.instance_id.to_string(),
        name: request.instance_id.safe_name(),
        service_id: request.service_id.clone(),
        plan_id: request.plan_id.clone(),
        definition_hash,
        state: InstanceState::Provisioning.as_str().to_owned(),
        maintenance,
        sealed,
        generation: 1,
        health: None,
        health_since: None,
    }
}

/// Instances are counted by their rows, so stopped and failed ones count as well.
pub(super) fn over_capacity(
    rows: &Rows<'_>,
    plan_id: &str,
    max_of_plan: u32,
    max_in_all: u32,
) -> Result<Option<Refusal>, RowError> {
    if max_in_all > 0 && rows.count_instances(None)? >= u64::from(max_in_all) {
        return Ok(Some(Refusal::CapacityReached(format!(
            "the broker has reached its limit of {max_in_all} service instances; delete some, or \
             ask the operator for more"
        ))));
    }
    if max_of_plan > 0 && rows.count_instances(Some(plan_id))? >= u64::from(max_of_plan) {
        return Ok(Some(Refusal::CapacityReached(format!(
            "this plan has reached its limit of {max_of_plan} service instances; delete some, or \
             choose another plan"
        ))));
    }
    Ok(None)
}
