//! What dockerd says happens to this broker's containers.
//!
//! The stream is a hint, never a source of truth: dockerd keeps the last 256 events only, and
//! none over its own restart. Whoever follows it compares everything when it begins anew.

use std::{collections::HashMap, pin::Pin};

use bollard::{models::EventActor, query_parameters::EventsOptionsBuilder};
use futures_util::{Stream, StreamExt};

use super::{
    DockerError, Engine,
    labels::{INSTANCE, OWNER},
};

/// What is worth a look. Health checks and hooks make `exec_*` events all the time.
const ACTIONS: [&str; 8] =
    ["die", "stop", "destroy", "pause", "rename", "oom", "disconnect", "health_status"];

/// Something happened to a container of this broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The instance that its labels name.
    pub instance_id: String,
    /// Exit code, if its process ended.
    pub exit_code: Option<i64>,
}

/// Events until the connection ends.
pub type Events<'a> = Pin<Box<dyn Stream<Item = Result<ContainerEvent, DockerError>> + Send + 'a>>;

impl Engine {
    /// Follows what happens to this broker's containers from now on.
    ///
    /// # Errors
    /// [`DockerError`] when dockerd does not answer; the stream ends with one as well.
    pub async fn follow_events(&self) -> Result<Events<'_>, DockerError> {
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![self.label_filter()]),
            ("event", ACTIONS.map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        // A request whose stream is silent looks like one that is never answered.
        self.ping().await?;
        let url = self.options.url.clone();
        let stream = self.client().await?.events(Some(options)).filter_map(move |message| {
            let event = match message {
                Ok(message) => message.actor.and_then(|actor| self.event(actor)).map(Ok),
                Err(source) => Some(Err(DockerError::new(&url, "tell", "events", source))),
            };
            std::future::ready(event)
        });
        Ok(Box::pin(stream))
    }

    /// `None` when it is a container of somebody else, or does not tell of which instance it is.
    fn event(&self, actor: EventActor) -> Option<ContainerEvent> {
        let mut attributes = actor.attributes?;
        let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok());
        let instance_id = match attributes.get(OWNER) {
            Some(owner) if owner == self.owner() => attributes.remove(INSTANCE)?,
            Some(_) => return None,
            None => self.adopted_labels(&actor.id?)?.instance_id,
        };
        Some(ContainerEvent { instance_id, exit_code })
    }
}
