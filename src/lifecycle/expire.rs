//! Ends credentials whose time is up.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::{
    Broker, InstanceState,
    binding::{BindingState, Sealed},
    error::{Failure, InternalError},
    instance::{Instance, operation_id},
    work::Context,
};
use crate::{
    store::{BindingRow, Rows, now},
    telemetry::Chain,
};

/// A binding that could not be unbound expires all the same.
const EXPIRING: [&str; 2] = [BindingState::Ready.as_str(), BindingState::UnbindFailed.as_str()];
/// Bindings that expire at the same time.
const SIDE_BY_SIDE: usize = 4;
/// How soon what could not be revoked is tried again, and the longest time between two looks: a
/// clock may be set.
const AGAIN: Duration = Duration::from_secs(30);

impl Broker {
    /// Revokes credentials when their time is up, until the broker stops. The bindings stay,
    /// marked as expired, until they are unbound.
    pub async fn expire_bindings(self: &Arc<Self>) {
        loop {
            let next = match self.expire_due().await {
                Ok(true) => self.store.read(move |rows| rows.next_expiry(&EXPIRING)).await,
                Ok(false) => Ok(None),
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "cannot look for expired bindings");
                    Ok(None)
                }
            };
            let pause = match next {
                Ok(Some(next)) => Duration::from_secs(u64::try_from(next - now()).unwrap_or(0)),
                Ok(None) | Err(_) => AGAIN,
            };
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.expiring.notified() => {}
                () = sleep(pause.min(AGAIN)) => {}
            }
        }
    }

    /// Whether all that was due was revoked.
    async fn expire_due(self: &Arc<Self>) -> Result<bool, InternalError> {
        let due = self.store.read(move |rows| rows.list_expired_bindings(&EXPIRING, now())).await?;
        let outcomes = stream::iter(due)
            .map(|row| async move {
                match self.expire(&row).await {
                    Ok(()) => true,
                    Err(Failure::Interrupted) => false,
                    Err(Failure::Failed { public, cause }) => {
                        tracing::error!(
                            instance.id = row.instance_id,
                            binding.id = row.id,
                            reason = public,
                            error = cause.map_or_else(String::new, |e| Chain(&e).to_string()),
                            "an expired binding could not be revoked; it is tried again"
                        );
                        false
                    }
                }
            })
            .buffer_unordered(SIDE_BY_SIDE);
        // Not `all`, which would drop the others at the first that fails.
        Ok(outcomes.fold(true, |all, one| std::future::ready(all & one)).await)
    }

    /// Whether an instance, and the host of a tenant, is `ready`.
    async fn is_settled(&self, instance: &Instance) -> Result<bool, InternalError> {
        let id = instance.row.id.clone();
        let home = self.store.read(move |rows| match rows.find_host_of(&id)? {
            Some(host) => rows.find_instance(&host),
            None => Ok(None),
        });
        let is_ready = |state: &str| state == InstanceState::Ready.as_str();
        let home = home.await?;
        Ok(is_ready(&instance.row.state) && home.is_none_or(|home| is_ready(&home.state)))
    }

    async fn expire(self: &Arc<Self>, row: &BindingRow) -> Result<(), Failure> {
        let cancel = self.stopping.child_token();
        // An operation that runs on it revokes it, or has to end first.
        let hold = self.works.hold(&row.instance_id, Some(&row.id), cancel.clone());
        let Some(_hold) = hold else { return Err(Failure::Interrupted) };
        let (instance_id, id) = (row.instance_id.clone(), row.id.clone());
        let found = self.store.read(move |rows| rows.find_binding(&instance_id, &id)).await?;
        // Until its turn came it may have been removed, or made anew.
        if found.is_none_or(|found| found.sealed != row.sealed || found.state != row.state) {
            return Ok(());
        }
        let Some(instance) = self.find(&row.instance_id).await? else { return Ok(()) };
        // In every other state its data changes, or may be replaced by a copy of it.
        if !self.is_settled(&instance).await? || self.is_outdated(&row.instance_id) {
            return Err(Failure::Interrupted);
        }
        let sealed = Sealed::open(&self.keys, row)?;
        let context = Context::unattended(cancel, Instant::now() + self.limits.operation_timeout);
        let id = operation_id("expire");
        if !self.revoke(&instance, &row.id, &sealed, &id, &context).await? {
            return Err(Failure::because("its image has no /unbind"));
        }
        let (row, expected) = (row.clone(), row.sealed.clone());
        let (instance_id, binding_id) = (row.instance_id.clone(), row.id.clone());
        let written = self.store.write(move |rows: &Rows<'_>| {
            // It may have been removed, or made anew, meanwhile.
            if let Some(found) = rows.find_binding(&row.instance_id, &row.id)?
                && found.sealed == expected
                && found.state == row.state
            {
                let state = BindingState::Expired.as_str().to_owned();
                rows.update_binding(&BindingRow { state, expires_at: None, ..found })?;
            }
            Ok(Ok::<(), Failure>(()))
        });
        written.await??;
        tracing::info!(instance.id = instance_id, binding.id = binding_id, "a binding has expired");
        Ok(())
    }
}
