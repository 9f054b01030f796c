//! A shared container is upgraded with the first of its tenants.
//!
//! No platform knows of a host, so none can ask for its upgrade, and all its tenants are away once
//! whichever way it is done. The upgrade of a tenant therefore waits until its host is made of the
//! same plan: the first tenant's makes it so, by an operation of the host's own that goes back by
//! itself, and the others find it done. If the host cannot be upgraded, nor can the tenant.
//!
//! Meanwhile no hook of a tenant runs in it: what it did might be taken back with the copy. Those
//! that run end before the old container stops; the others wait for the end of the upgrade.

use std::sync::Arc;

use serde_json::Map;

use super::{
    Broker, Event, InstanceState, Transition,
    error::{Failure, InternalError},
    instance::{
        Instance, Private, SealedDefinition, open_definition, operation_id, port_map, state_of,
    },
    last_operation::FAILED,
    update::Target,
    work::Context,
};
use crate::{
    catalog::{Definition, runs_the_same},
    store::{InstanceRow, OperationRow, RowError, Rows},
};

/// What is to be done about the host of a tenant.
enum Step {
    /// It is made of the wanted plan, or there is none.
    Done,
    /// Something happens to it; afterwards it is looked at again.
    Wait(String),
    /// This has just been accepted.
    Launch(OperationRow),
}

/// Why no hook of a tenant may run in its host.
pub(super) enum HostChange {
    /// This operation upgrades it.
    Upgrade(String),
    /// Its upgrade failed, and so did the way back, which is tried again.
    WayBack,
}

impl Broker {
    /// Waits until the shared container of a tenant is made of the tenant's new plan.
    pub(super) async fn upgrade_host(
        self: &Arc<Self>,
        tenant: &Instance,
        target: &Target,
        context: &Context,
    ) -> Result<(), Failure> {
        if tenant.host.is_none() || target.definition.plan.tenancy.is_none() {
            return Ok(());
        }
        let hash: Arc<str> = SealedDefinition::new(&self.keys, &target.definition)?.hash.into();
        // Its plan stays, which may have left the catalog: the host may be ahead of it.
        if *hash == *tenant.row.definition_hash {
            return Ok(());
        }
        context.step("upgrading the shared container");
        let target = Arc::new(target.clone());
        loop {
            let (broker, id) = (Arc::clone(self), tenant.row.id.clone());
            let (target, hash) = (Arc::clone(&target), Arc::clone(&hash));
            let begun =
                self.store.write(move |rows| broker.begin_host_upgrade(rows, &id, &target, &hash));
            let operation = match begun.await?? {
                Step::Done => return Ok(()),
                Step::Wait(operation) => operation,
                Step::Launch(operation) => {
                    let id = operation.id.clone();
                    tracing::info!(
                        operation.id,
                        instance.id = operation.instance_id,
                        "the upgrade of a shared container begins"
                    );
                    self.launch(operation);
                    id
                }
            };
            self.wait_for_host(&operation, context).await?;
            let ended = self.store.read(move |rows| rows.find_operation(&operation)).await?;
            if let Some(failed) = ended.filter(|row| row.state == FAILED) {
                let why = failed.description.unwrap_or_default();
                return Err(Failure::because(format!(
                    "the shared container could not be upgraded: {why}"
                )));
            }
        }
    }

    /// What keeps the hooks of a tenant out of its host at present.
    pub(super) async fn find_host_change(
        &self,
        tenant: &Instance,
    ) -> Result<Option<HostChange>, InternalError> {
        if tenant.host.is_none() {
            return Ok(None);
        }
        let id = tenant.row.id.clone();
        let found = self.store.read(move |rows| {
            let Some(host) = rows.find_host_of(&id)? else { return Ok(None) };
            let Some(row) = rows.find_instance(&host)? else { return Ok(None) };
            Ok(Some((state_of(&row), rows.find_running_operation(&host)?, host)))
        });
        let Some((state, running, host)) = found.await? else { return Ok(None) };
        // What only an older store believes to be under way does not go on.
        if self.is_outdated(&host) {
            return Ok(None);
        }
        Ok(match (state?, running) {
            (InstanceState::Updating, Some(running)) => Some(HostChange::Upgrade(running.id)),
            (InstanceState::UpdateFailed, _) => Some(HostChange::WayBack),
            _ => None,
        })
    }

    /// The tenant when nothing upgrades its host.
    pub(super) async fn after_host_upgrade(
        &self,
        tenant: &Instance,
        context: &Context,
    ) -> Result<Instance, Failure> {
        if tenant.host.is_none() {
            return Ok(tenant.clone());
        }
        while let Some(HostChange::Upgrade(upgrade)) = self.find_host_change(tenant).await? {
            context.step("waiting for the upgrade of the shared container");
            self.wait_for_host(&upgrade, context).await?;
        }
        Ok(self.get(&tenant.row.id).await?)
    }

    /// Whether a host is made of its plan as the catalog has it now. An upgrade of a tenant that was
    /// accepted under an earlier catalog must not take it back.
    fn is_present(&self, host: &InstanceRow) -> Result<bool, InternalError> {
        let Some(offer) = self.catalog.find_plan(&host.plan_id) else { return Ok(false) };
        let present = SealedDefinition::new(&self.keys, &Definition::from(offer))?;
        Ok(present.hash == host.definition_hash)
    }

    fn begin_host_upgrade(
        &self,
        rows: &Rows<'_>,
        tenant: &str,
        target: &Target,
        hash: &str,
    ) -> Result<Result<Step, Failure>, RowError> {
        let Some(id) = rows.find_host_of(tenant)? else { return Ok(Ok(Step::Done)) };
        let Some(host) = rows.find_instance(&id)? else { return Ok(Ok(Step::Done)) };
        if let Err(failure) = self.require_current_host(&id) {
            return Ok(Err(failure));
        }
        if let Some(running) = rows.find_running_operation(&id)? {
            return Ok(Ok(Step::Wait(running.id)));
        }
        let ports = rows.list_ports(&id)?;
        let definition = rows.find_definition(&host.definition_hash)?;
        let last = rows.find_last_operation(&id, None)?;
        let prepared = (|| {
            let state = state_of(&host)?;
            let is_wanted = host.definition_hash == hash || self.is_present(&host)?;
            if is_wanted && state == InstanceState::Ready {
                return Ok(None);
            }
            let Transition::To(next) = state.on(Event::Update) else {
                return Err(Failure::because(format!("the shared container is {state}")));
            };
            let private = Private::open(&self.keys, &host)?;
            // It may be ahead of this tenant: what changes is found out from what it is itself.
            let present = open_definition(&self.keys, &host, definition.as_deref())?;
            let mut target = Target {
                parameters: Map::new(),
                context: None,
                secrets: private.secrets.extended_for(&target.definition.plan),
                ports: port_map(&ports)?,
                changes: true,
                reconfigures: !runs_the_same(&present.plan, &target.definition.plan),
                was_failed: state == InstanceState::UpdateFailed,
                ..target.clone()
            };
            if target.was_failed {
                target.take_former_ports(&self.keys, last)?;
            }
            let operation_id = operation_id("update");
            let sealed = target.seal(&self.keys, &operation_id)?;
            let operation = OperationRow {
                sealed: Some(sealed),
                ..OperationRow::new(operation_id, "update", &id, None)
            };
            Ok(Some((next, operation)))
        })();
        match prepared {
            Err(failure) => Ok(Err(failure)),
            Ok(None) => Ok(Ok(Step::Done)),
            Ok(Some((next, operation))) => {
                rows.update_instance(&InstanceRow { state: next.as_str().to_owned(), ..host })?;
                rows.insert_operation(&operation)?;
                Ok(Ok(Step::Launch(operation)))
            }
        }
    }
}
