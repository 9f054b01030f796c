//! What is wrong with an instance at present: a sentence in its row, for people, or nothing.
//!
//! The one notion of an instance that is in a good state but does not work: recovery and the
//! reconciler write it, bindings are refused while it is there, `/readyz` counts it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Broker, InstanceState, error::InternalError, work::Context};
use crate::{catalog::InstanceId, telemetry::Chain};

/// States in which an instance is to work, as they are stored.
pub(super) const WATCHED: [&str; 2] =
    [InstanceState::Ready.as_str(), InstanceState::UpdateFailed.as_str()];

/// How long an instance that does not work may take to answer when it is asked for.
const SECOND_LOOK: Duration = Duration::from_secs(2);

impl Broker {
    /// Records what is wrong with an instance; `None`: nothing any more. Logged when it is news.
    pub(super) async fn set_health(
        &self,
        instance_id: &str,
        health: Option<String>,
    ) -> Result<(), InternalError> {
        let (id, text) = (instance_id.to_owned(), health.clone());
        let written = self
            .store
            .write(move |rows| rows.set_health(&id, text.as_deref()).map(Ok::<_, InternalError>));
        if written.await?? {
            if let Some(reason) = health {
                tracing::warn!(instance.id = instance_id, reason, "an instance does not work");
            } else {
                tracing::info!(instance.id = instance_id, "an instance works again");
            }
        }
        Ok(())
    }

    /// After an operation has succeeded there is nothing wrong. Read first: most are well, and
    /// a write waits for the disk.
    pub(super) async fn is_well(&self, instance_id: &str) {
        let id = instance_id.to_owned();
        let cleared = async {
            match self.store.read(move |rows| rows.find_health(&id)).await? {
                Some(_) => self.set_health(instance_id, None).await,
                None => Ok(()),
            }
        };
        if let Err(error) = cleared.await {
            tracing::error!(
                instance.id = instance_id, error = %Chain(&error),
                "cannot record that an instance works"
            );
        }
    }

    /// Looks once more at an instance that does not work: it may only have been slow. A server that
    /// answers without its data is no help.
    pub(super) async fn look_for(&self, id: &InstanceId) -> Result<(), InternalError> {
        let wanted = id.to_string();
        let unwell = self.store.read(move |rows| {
            let home = rows.find_host_of(&wanted)?.unwrap_or(wanted);
            Ok(rows.find_health(&home)?.map(|_| home))
        });
        let Some(id) = unwell.await? else { return Ok(()) };
        if self.is_outdated(&id) {
            return Ok(());
        }
        let Some(instance) = self.find(&id).await? else { return Ok(()) };
        let deadline = Instant::now() + SECOND_LOOK;
        let context = Context::unattended(self.stopping.child_token(), deadline);
        let has_data = async || {
            instance.definition.plan.container.existing.is_some()
                || self.require_data(&instance).await.is_ok()
        };
        if has_data().await && self.answers(&instance, &context, SECOND_LOOK).await {
            self.set_health(&id, None).await?;
        }
        Ok(())
    }
}
