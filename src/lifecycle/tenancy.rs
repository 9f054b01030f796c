//! Shared containers (`tenancy: shared`): several instances in one.
//!
//! The container is an instance itself, the *host*, of which no platform knows: it is made, brought
//! back and removed as any other. An instance in it, a *tenant*, has a row, secrets and bindings of
//! its own, but no container, directory or port: hooks make and drop what is its own. The host
//! comes with its first tenant and goes with its last.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    Broker, Event, InstanceState, Refusal, Transition,
    error::{Failure, InternalError},
    fault::{Step, reach},
    instance::{Instance, Private, damaged, operation_id, reserve, state_of},
    last_operation::{FAILED, SUCCEEDED},
    work::Context,
};
use crate::{
    catalog::{ContainerPort, HOST_PREFIX, Plan, hex},
    credentials::{InstanceSecrets, Keyring},
    store::{InstanceRow, OperationRow, RowError, Rows},
};

/// The host of a tenant.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// Safe name of its container.
    pub(super) name: String,
    /// The administrator's.
    pub(super) secrets: InstanceSecrets,
    /// It was made at some time: there may be something of a tenant in it.
    pub(super) served: bool,
}

impl Host {
    pub(super) fn open(keys: &Keyring, row: &InstanceRow) -> Result<Self, InternalError> {
        let secrets = Private::open(keys, row)?.secrets;
        // One that is being upgraded has all that its tenants had before.
        let state = state_of(row)?;
        let served = !matches!(state, InstanceState::Provisioning | InstanceState::ProvisionFailed);
        Ok(Self { name: row.name.clone(), secrets, served })
    }
}

pub(super) fn is_host(instance_id: &str) -> bool {
    instance_id.starts_with(HOST_PREFIX)
}

/// How a tenant gets out of its host.
enum Exit {
    /// The host is gone, or there never was one.
    Open,
    /// Others live there: what is the tenant's own has to be dropped.
    Shared,
    /// It is the last one: the host goes, by this operation.
    Last(String),
    /// It is the last one, but this operation on the host has to end first.
    Later(String),
}

impl Broker {
    /// Gives a new tenant its place, in the transaction that accepts it: with others if there is
    /// room, else in a new host, whose operation is returned.
    pub(super) fn place(
        &self,
        rows: &Rows<'_>,
        tenant: &InstanceRow,
        plan: &Plan,
        ports: &[ContainerPort],
        unavailable: Option<&str>,
    ) -> Result<Result<Option<OperationRow>, Refusal>, RowError> {
        let Some(tenancy) = &plan.tenancy else { return Ok(Ok(None)) };
        if let Some(host) = rows.find_host_of(&tenant.id)? {
            return self.place_again(rows, tenant, &host, plan, ports);
        }
        let open = [InstanceState::Ready.as_str(), InstanceState::Provisioning.as_str()];
        let hosts =
            rows.list_hosts_with_room(&tenant.definition_hash, open, tenancy.max_instances)?;
        for host in hosts {
            if rows.find_health(&host)?.is_none() {
                rows.insert_tenant(&tenant.id, &host)?;
                return Ok(Ok(None));
            }
        }
        if let Some(message) = unavailable {
            return Ok(Err(super::provision::unavailable_now(message)));
        }
        let number = number();
        let host = InstanceRow {
            id: format!("{HOST_PREFIX}{number}"),
            name: format!("shared-{number}"),
            generation: 0,
            health: None,
            health_since: None,
            ..tenant.clone()
        };
        let host = match self.renewed(host, tenant, plan) {
            Ok(host) => host,
            Err(error) => return Ok(Err(error.into())),
        };
        rows.insert_instance(&host)?;
        rows.insert_host(&host.id)?;
        rows.insert_tenant(&tenant.id, &host.id)?;
        self.make_host(rows, &host, ports)
    }

    /// A tenant whose provision failed is provisioned again: its host may have failed as well.
    fn place_again(
        &self,
        rows: &Rows<'_>,
        tenant: &InstanceRow,
        host: &str,
        plan: &Plan,
        ports: &[ContainerPort],
    ) -> Result<Result<Option<OperationRow>, Refusal>, RowError> {
        let Some(host) = rows.find_instance(host)? else { return Ok(Ok(None)) };
        match state_of(&host) {
            Ok(InstanceState::Ready | InstanceState::Provisioning | InstanceState::Updating) => {
                Ok(Ok(None))
            }
            Ok(InstanceState::ProvisionFailed) => match self.renewed(host, tenant, plan) {
                Ok(host) => {
                    rows.release_ports(&host.id)?;
                    rows.update_instance(&host)?;
                    self.make_host(rows, &host, ports)
                }
                Err(error) => Ok(Err(error.into())),
            },
            Ok(_) => Ok(Err(Refusal::Concurrency(
                "the shared container of this service instance is being removed; delete the \
                 instance, and make another one"
                    .to_owned(),
            ))),
            Err(error) => Ok(Err(error.into())),
        }
    }

    /// The row of a host that is to be made for a tenant, with new secrets.
    fn renewed(
        &self,
        host: InstanceRow,
        tenant: &InstanceRow,
        plan: &Plan,
    ) -> Result<InstanceRow, InternalError> {
        let private = Private {
            secrets: InstanceSecrets::generate(plan),
            parameters: Map::new(),
            context: Value::Null,
            dashboard_url: None,
            former_plans: Vec::new(),
            tls: false,
            adopted: None,
        };
        Ok(InstanceRow {
            definition_hash: tenant.definition_hash.clone(),
            state: InstanceState::Provisioning.as_str().to_owned(),
            sealed: private.seal(&self.keys, &host.id)?,
            generation: host.generation + 1,
            ..host
        })
    }

    fn make_host(
        &self,
        rows: &Rows<'_>,
        host: &InstanceRow,
        ports: &[ContainerPort],
    ) -> Result<Result<Option<OperationRow>, Refusal>, RowError> {
        if !reserve(rows, &host.id, ports, self.limits.host_ports)? {
            return Ok(Err(super::provision::without_ports(self.limits.host_ports)));
        }
        let operation = OperationRow::new(operation_id("provision"), "provision", &host.id, None);
        rows.insert_operation(&operation)?;
        Ok(Ok(Some(operation)))
    }

    /// Waits until the host of a tenant serves, and takes its ports.
    pub(super) async fn join_host(
        &self,
        instance: &mut Instance,
        context: &Context,
    ) -> Result<(), Failure> {
        context.step("waiting for the shared container");
        loop {
            let tenant = instance.row.id.clone();
            let found = self.store.read(move |rows| {
                let Some(id) = rows.find_host_of(&tenant)? else { return Ok(None) };
                let Some(row) = rows.find_instance(&id)? else { return Ok(None) };
                let running = rows.find_running_operation(&id)?;
                Ok(Some((row, running, rows.find_last_operation(&id, None)?)))
            });
            let gone = || damaged(&format!("instance {}", instance.row.id), "it has no host");
            let (row, running, last) = found.await?.ok_or_else(gone)?;
            match (state_of(&row)?, running) {
                (InstanceState::Ready, _) => break,
                (InstanceState::Provisioning | InstanceState::Updating, Some(running)) => {
                    self.wait_for_host(&running.id, context).await?;
                }
                _ => {
                    let why = last.and_then(|last| last.description).unwrap_or_default();
                    return Err(Failure::because(format!(
                        "the shared container could not be made: {why}"
                    )));
                }
            }
        }
        *instance = self.get(&instance.row.id).await?;
        Ok(())
    }

    /// What only an older store believes to run on a host does not go on, and nothing may begin.
    pub(super) fn require_current_host(&self, host: &str) -> Result<(), Failure> {
        if !self.is_outdated(host) {
            return Ok(());
        }
        Err(Failure::because(
            "the broker knows an older state of the shared container than there was; ask the operator",
        ))
    }

    /// Waits for the end of an operation on a host, whatever it is.
    pub(super) async fn wait_for_host(
        &self,
        operation: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        let id = operation.to_owned();
        let waited = self.store.read(move |rows| rows.find_operation(&id)).await?;
        if let Some(waited) = waited.filter(|waited| waited.kind != "deprovision") {
            self.require_current_host(&waited.instance_id)?;
        }
        let ended = tokio::select! {
            () = context.cancel.cancelled() => return Err(Failure::Interrupted),
            late = context.ended() => return Err(late),
            ended = self.wait_for(operation) => ended,
        };
        match ended {
            Err(Refusal::Stopping) => Err(Failure::Interrupted),
            Err(Refusal::Internal(error)) => Err(error.into()),
            // The rows say how it ended.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes a tenant: what is its own if there are others, the host if there are none.
    pub(super) async fn move_out(
        self: &Arc<Self>,
        instance: &Instance,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<(), Failure> {
        let mut instance = instance.clone();
        loop {
            let (id, stranger) = (instance.row.id.clone(), self.stranger_of(&instance).await?);
            let broker = Arc::clone(self);
            let exit = move |rows: &Rows<'_>| broker.exit(rows, &id, stranger);
            let (exit, launch) = self.store.write(exit).await??;
            if let Some((operation, halted)) = launch {
                if let Some(halted) = halted {
                    self.works.halt(&operation, &halted);
                }
                self.launch(operation);
            }
            match exit {
                Exit::Open => {}
                Exit::Shared => {
                    context.step("dropping what the instance has in the shared container");
                    self.clear_guest(&instance, &operation.id, context).await?;
                    reach(Step::DeprovisionHooked);
                }
                Exit::Last(host_operation) => {
                    context.step("removing the shared container");
                    self.wait_for_host(&host_operation, context).await?;
                    self.expect_host_gone(&host_operation).await?;
                    instance = self.get(&instance.row.id).await?;
                }
                Exit::Later(host_operation) => {
                    context.step("waiting for the upgrade of the shared container");
                    self.wait_for_host(&host_operation, context).await?;
                    continue;
                }
            }
            // Before the row, or its record would be taken for that of an instance.
            self.remove_directories(&instance).await?;
            let finished = self.conclude(&context.cancel, || {
                let (operation_id, id) = (operation.id.clone(), instance.row.id.clone());
                move |rows| {
                    // Another one may have moved out meanwhile: the last takes the host along.
                    if let Some(host) = rows.find_host_of(&id)?
                        && rows.count_tenants(&host)? < 2
                    {
                        return Ok(Ok::<bool, Failure>(false));
                    }
                    rows.delete_instance(&id)?;
                    rows.finish_operation(&operation_id, SUCCEEDED, None)?;
                    rows.delete_old_operations()?;
                    Ok(Ok(true))
                }
            });
            if finished.await?? {
                reach(Step::DeprovisionCommitted);
                return Ok(());
            }
        }
    }

    /// Why a tenant may not be the only one in its host, whatever the rows say.
    async fn stranger_of(&self, tenant: &Instance) -> Result<Option<String>, Failure> {
        let id = tenant.row.id.clone();
        let host = self.store.read(move |rows| rows.find_host_of(&id)).await?;
        let Some(host) = host else { return Ok(None) };
        Ok(self.find_stranger(&host, &tenant.row.id).await?)
    }

    /// Decides how a tenant gets out; the operation that removes its host, and what that halts.
    #[expect(clippy::type_complexity, reason = "the outcome of one transaction, used once")]
    fn exit(
        &self,
        rows: &Rows<'_>,
        tenant: &str,
        stranger: Option<String>,
    ) -> Result<Result<(Exit, Option<(OperationRow, Option<String>)>), Failure>, RowError> {
        let Some(id) = rows.find_host_of(tenant)? else { return Ok(Ok((Exit::Open, None))) };
        let Some(host) = rows.find_instance(&id)? else { return Ok(Ok((Exit::Open, None))) };
        if rows.count_tenants(&id)? > 1 {
            return Ok(Ok((Exit::Shared, None)));
        }
        let running = rows.find_running_operation(&id)?;
        let state = match state_of(&host) {
            Ok(state) => state,
            Err(error) => return Ok(Err(error.into())),
        };
        if state == InstanceState::Deprovisioning
            && let Some(running) = running
        {
            return Ok(Ok((Exit::Last(running.id), None)));
        }
        if let Some(why) = stranger {
            return Ok(Err(InternalError::Stranger { host: id, why }.into()));
        }
        let next = match (state.on(Event::Deprovision), &running) {
            (Transition::To(next), _) => next,
            // Only an older store believes that it runs: nothing would ever end it.
            (Transition::Busy, Some(_)) if self.is_outdated(&id) => InstanceState::Deprovisioning,
            (Transition::Busy, Some(running)) => {
                return Ok(Ok((Exit::Later(running.id.clone()), None)));
            }
            _ => {
                let why = format!("its state is {state}");
                return Ok(Err(damaged(&format!("host {id}"), why).into()));
            }
        };
        if let Some(running) = &running {
            let why = "halted because its last service instance is being deleted";
            rows.finish_operation(&running.id, FAILED, Some(why))?;
        }
        rows.update_instance(&InstanceRow { state: next.as_str().to_owned(), ..host })?;
        let operation = OperationRow::new(operation_id("deprovision"), "deprovision", &id, None);
        rows.insert_operation(&operation)?;
        let exit = Exit::Last(operation.id.clone());
        Ok(Ok((exit, Some((operation, running.map(|running| running.id))))))
    }

    async fn expect_host_gone(&self, operation: &str) -> Result<(), Failure> {
        let id = operation.to_owned();
        let row = self.store.read(move |rows| rows.find_operation(&id)).await?;
        match row.filter(|row| row.state == FAILED) {
            None => Ok(()),
            Some(row) => Err(Failure::because(row.description.unwrap_or_default())),
        }
    }
}

/// Tells hosts apart.
fn number() -> String {
    use rand::RngCore;
    let mut bytes = [0_u8; 8];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}
