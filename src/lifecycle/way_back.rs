//! The way back of an update that went wrong.
//!
//! It is decided once and written down before its first step: an operation with a reason never goes
//! forward again. Whatever of it has happened already when it is taken up again is found out.

use super::{
    Broker, Event,
    container::Faults,
    data_version::{migrate_name, probe_name},
    error::{Failure, InternalError},
    fault::{Step, reach},
    instance::Instance,
    last_operation::IN_PROGRESS,
    replace::{prepared_name, standby_name},
    retry::{FIRST_PAUSE, LONGEST_PAUSE, pause_for, while_unreachable},
    update::Target,
    work::Context,
};
use crate::{disk::Snapshot, store::OperationRow};

impl Broker {
    /// An earlier update whose way back failed may have left the data as it was before that one
    /// beside the data as it is now. That is what counts, and it comes back first. What that one
    /// has left of containers goes too: it would be taken for this one's. The old container need
    /// not become ready: this update may be what makes the service work again.
    pub(super) async fn finish_earlier_way_back(
        &self,
        old: &Instance,
        target: &Target,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        if !target.was_failed {
            return self.set_stale_copies_aside(old, operation_id).await;
        }
        let (name, key) = (old.row.name.clone(), operation_id.to_owned());
        // Once this update has a copy of its own, that is done: the containers are its own.
        if self.on_disk(move |disk| disk.snapshot_of(&name, &key)).await? == Snapshot::Absent {
            self.bring_home(old, context).await?;
        }
        Ok(())
    }

    /// The data of an instance that was `ready` is in its place, so a copy that another update has
    /// left is old: it never comes back by itself.
    async fn set_stale_copies_aside(
        &self,
        old: &Instance,
        operation_id: &str,
    ) -> Result<(), Failure> {
        let (name, key) = (old.row.name.clone(), operation_id.to_owned());
        let moved = self.on_disk(move |disk| disk.set_stale_copies_aside(&name, &key)).await?;
        for path in moved {
            tracing::error!(
                instance.id = old.row.id,
                path = %path.display(),
                "a copy of the data that an earlier update has left is set aside; it is not used, \
                 and goes with the service instance unless the operator removes it"
            );
        }
        Ok(())
    }

    /// What the way back of an update needs; `None` if the operation has ended. The store is asked
    /// until it answers: whether there is a way back cannot be told without it.
    pub(super) async fn find_way_back(
        &self,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<Option<(OperationRow, Instance, Target)>, Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.look_for_way_back(operation, context).await {
                Err(Failure::Failed { cause: Some(InternalError::Store(error)), .. }) => {
                    tracing::error!(
                        operation.id,
                        instance.id = operation.instance_id,
                        error = %crate::telemetry::Chain(&error),
                        "the way back of an update cannot be begun; it is tried again"
                    );
                }
                found => return found,
            }
            pause_for(&context.cancel, pause).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn look_for_way_back(
        &self,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<Option<(OperationRow, Instance, Target)>, Failure> {
        let id = operation.id.clone();
        let current = self.store.read(move |rows| rows.find_operation(&id)).await?;
        let Some(operation) = current.filter(|row| row.state == IN_PROGRESS) else {
            return Ok(None);
        };
        // Before that the container of an adopted instance has another name.
        self.settle(&operation.instance_id, &context.cancel, context.deadline).await?;
        let mut old = self.get(&operation.instance_id).await?;
        let target = Target::open(&self.keys, &operation)?;
        old.ports.clone_from(&target.ports);
        Ok(Some((operation, old, target)))
    }

    /// Decides on the way back, and takes it. The result is how the operation ends.
    pub(super) async fn go_back(
        &self,
        old: &Instance,
        operation: &OperationRow,
        context: &Context,
        failure: Failure,
    ) -> Failure {
        let Failure::Failed { public, cause } = failure else { return failure };
        let refused = matches!(cause, Some(InternalError::HookRefused));
        let noted = self.conclude(&context.cancel, || {
            let (id, reason) = (operation.id.clone(), public.clone());
            move |rows| {
                rows.note_reason(&id, &reason)?;
                if refused {
                    rows.mark_refused(&id)?;
                }
                Ok(Ok::<(), Failure>(()))
            }
        });
        match noted.await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) | Err(failure) => return failure,
        }
        reach(Step::UpdateRollingBack);
        let context = &context.renewed(self.limits.operation_timeout);
        self.roll_back(old, operation, context, public, cause).await
    }

    /// Brings the old container back. The result is how the operation ends.
    async fn roll_back(
        &self,
        old: &Instance,
        operation: &OperationRow,
        context: &Context,
        reason: String,
        cause: Option<InternalError>,
    ) -> Failure {
        context.step("going back to what was there before");
        let restored = async {
            let was_failed = Target::open(&self.keys, operation)?.was_failed;
            if !was_failed {
                self.set_stale_copies_aside(old, &operation.id).await?;
            }
            self.restore(old, context).await?;
            // Also if an earlier broker did it.
            let name = old.row.name.clone();
            let aside = self.on_disk(move |disk| disk.list_set_aside(&name)).await?;
            // The data that gave way to the copy of an earlier update goes by the name of that one.
            Ok(if was_failed { !aside.is_empty() } else { aside.contains(&operation.id) })
        };
        match restored.await {
            Ok(restored) => {
                reach(Step::UpdateRolledBack);
                self.sweep_after_update(old, false).await;
                let outcome = if restored {
                    "the service is back with its data as it was before; what was written since is \
                     kept aside until the next successful update"
                } else {
                    "nothing was changed"
                };
                let public = format!("{reason}; {outcome}");
                let refused = matches!(cause, Some(InternalError::HookRefused));
                let recorded =
                    self.fail_with(operation.clone(), public.clone(), Event::FailIntact, refused);
                match recorded.await {
                    Ok(()) => Failure::Failed { public, cause },
                    Err(error) => error.into(),
                }
            }
            Err(Failure::Interrupted) => Failure::Interrupted,
            Err(Failure::Failed { public, cause: second }) => {
                let public = format!("{reason}; and the way back failed: {public}");
                let recorded =
                    self.fail_with(operation.clone(), public.clone(), Event::Fail, false).await;
                if let Err(error) = recorded {
                    return error.into();
                }
                Failure::Failed { public, cause: second.or(cause) }
            }
        }
    }

    /// Brings the container of the present generation back under its name, and up, and the data as
    /// it was if a copy of it is kept.
    pub(super) async fn restore(&self, old: &Instance, context: &Context) -> Result<(), Failure> {
        self.bring_home(old, context).await?;
        // It may have been lost, and its tag have moved.
        self.guard_container(old, false, context).await?;
        let mut old = old.clone();
        self.bring_up(&mut old, true, Faults::NONE, context).await
    }

    /// Likewise without starting it.
    async fn bring_home(&self, old: &Instance, context: &Context) -> Result<(), Failure> {
        let (name, id) = (self.container_name(&old.row.name), &old.row.id);
        let standby = standby_name(&name);
        let container = &old.definition.plan.container;
        let present = Some(old.row.generation);
        let safe = old.row.name.clone();
        let has_copy = self.on_disk(move |disk| disk.kept_snapshot(&safe)).await?.is_some();
        let clear = async || {
            let prepared = prepared_name(&name);
            if self.docker.owns(&prepared, id).await? {
                // It may have been started, and its clients may have written to it.
                self.docker.stop(&prepared, container.stop_timeout).await?;
                self.docker.remove_own(&prepared).await?;
            }
            for helper in [migrate_name(&name), probe_name(&name)] {
                self.docker.remove(&helper, id).await?;
            }
            let stands_by = self.docker.generation(&standby, id).await? == present;
            let current = self.docker.generation(&name, id).await?;
            if current.is_some() && (stands_by || current != present) {
                // Likewise.
                self.docker.stop(&name, container.stop_timeout).await?;
                self.docker.remove_own(&name).await?;
            } else if current.is_some() && has_copy {
                self.docker.stop(&name, container.stop_timeout).await?;
            }
            Ok(stands_by)
        };
        let stands_by = while_unreachable(&context.cancel, context.deadline, clear).await?;
        self.release_ports_beyond(old).await?;
        self.go_back_to_copy(old).await?;
        let steps = async || {
            if stands_by {
                self.docker.rename(&standby, &name).await?;
            }
            if self.docker.owns(&name, id).await? {
                self.docker.set_restart(&name, &container.restart).await?;
            }
            Ok(())
        };
        while_unreachable(&context.cancel, context.deadline, steps).await
    }

    /// An instance whose way back failed, with the ports of the time before the update: rows may
    /// hold more, and with these its container would seem to be another one.
    pub(super) async fn with_former_ports(&self, instance: &Instance) -> Result<Instance, Failure> {
        let mut old = instance.clone();
        if let Some(update) = self.find_failed_update(&old.row.id).await? {
            old.ports = Target::open(&self.keys, &update)?.ports;
        }
        Ok(old)
    }

    /// Gives up ports that were reserved for the new container.
    async fn release_ports_beyond(&self, old: &Instance) -> Result<(), Failure> {
        let (id, known) = (old.row.id.clone(), old.ports.clone());
        let released = self.store.write(move |rows| {
            for row in rows.list_ports(&id)? {
                let is_known = known.iter().any(|(inner, port)| {
                    inner.protocol.as_str() == row.protocol && *port == row.port
                });
                if !is_known {
                    rows.release_port(&row.protocol, row.port)?;
                }
            }
            Ok(Ok::<(), Failure>(()))
        });
        released.await?
    }
}
