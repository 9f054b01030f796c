//! What the clients know: every instance, every binding and every write, with what was answered.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::{
    services::Kind,
    support::{Client, Reply, violations},
};

/// A rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// A write that was confirmed is not there.
    Lost,
    /// A binding that was answered does not work, or says something else.
    Binding,
    /// A binding that was revoked works.
    Revoked,
    /// An operation does not end.
    Unfinished,
    /// An instance cannot be deleted.
    Undeletable,
    /// Something is left over.
    LeftOver,
    /// The broker answers what it must not, or does not come up.
    Answer,
}

/// An instance as its client knows it.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The platform was told that it is there.
    pub(crate) succeeded: bool,
    /// Its deletion was asked for at least once.
    pub(crate) deleting: bool,
    pub(crate) bindings: Vec<Binding>,
    /// Next number to be written.
    pub(crate) next: u64,
    /// Numbers that the service has confirmed.
    pub(crate) confirmed: BTreeSet<u64>,
    /// An application writes.
    pub(crate) writer: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) id: String,
    /// What the broker answered.
    pub(crate) document: Option<Value>,
    /// Its deletion was asked for at least once.
    pub(crate) unbinding: bool,
    /// The platform was told that it is gone.
    pub(crate) gone: bool,
}

impl Binding {
    pub(crate) fn is_live(&self) -> bool {
        self.document.is_some() && !self.unbinding
    }
}

impl Instance {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn path(&self) -> String {
        format!("/v2/service_instances/{}", self.id)
    }

    /// Whether it has to be there with all that was written.
    pub(crate) fn has_to_be_there(&self) -> bool {
        let state = self.state();
        state.succeeded && !state.deleting
    }

    /// Changes what is known of a binding.
    pub(crate) fn with_binding(&self, id: &str, change: impl FnOnce(&mut Binding)) {
        if let Some(binding) = self.state().bindings.iter_mut().find(|known| known.id == id) {
            change(binding);
        }
    }

    /// Bindings that have to work.
    pub(crate) fn live(&self) -> Vec<Binding> {
        self.state().bindings.iter().filter(|binding| binding.is_live()).cloned().collect()
    }
}

/// One run's knowledge, shared by all its tasks.
#[derive(Debug)]
pub(crate) struct World {
    client: Client,
    address: Mutex<String>,
    /// Clients and writers come to an end.
    pub(crate) stop: AtomicBool,
    names: AtomicU32,
    instances: Mutex<Vec<Arc<Instance>>>,
    problems: Mutex<Vec<(Rule, String)>>,
}

impl World {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            address: Mutex::new(client.address.clone()),
            client,
            stop: AtomicBool::new(false),
            names: AtomicU32::new(0),
            instances: Mutex::default(),
            problems: Mutex::default(),
        }
    }

    pub(crate) fn moved(&self, address: &str) {
        address.clone_into(&mut self.address.lock().unwrap());
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn problem(&self, rule: Rule, text: impl Into<String>) {
        let text = text.into();
        println!("PROBLEM {rule:?}: {text}");
        self.problems.lock().unwrap().push((rule, text));
    }

    pub(crate) fn problems(&self) -> Vec<(Rule, String)> {
        self.problems.lock().unwrap().clone()
    }

    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        self.instances.lock().unwrap().clone()
    }

    pub(crate) fn new_instance(&self, kind: Kind) -> Arc<Instance> {
        let id = self.name("r");
        let instance = Arc::new(Instance { id, kind, state: Mutex::default() });
        self.instances.lock().unwrap().push(Arc::clone(&instance));
        instance
    }

    /// A request, once. `Err` when no whole answer came: nobody knows what became of it.
    pub(crate) async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Reply, String> {
        let mut client = self.client.clone();
        self.address.lock().unwrap().clone_into(&mut client.address);
        let authorization = client.authorization();
        let headers = [
            ("authorization", authorization.as_str()),
            ("x-broker-api-version", "2.17"),
            ("content-type", "application/json"),
        ];
        let body = body.map(Value::to_string).unwrap_or_default();
        let reply = timeout(limit, client.raw(method.clone(), path, &headers, body)).await;
        let reply = reply.map_err(|_| "no answer in time".to_owned())??;
        if !path.starts_with("/v2/") {
            return Ok(reply);
        }
        for violation in violations(method, path, &reply) {
            self.problem(Rule::Answer, format!("{method} {path}: {violation}"));
        }
        // A platform that sends the same again, or something else, is never told that it is wrong.
        if [400, 401, 403, 405, 409, 412].contains(&reply.status) {
            let text = String::from_utf8_lossy(&reply.bytes).into_owned();
            self.problem(Rule::Answer, format!("{method} {path}: {} {text}", reply.status));
        }
        Ok(reply)
    }

    /// A request, sent again a few times while there is no answer.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, String> {
        const TIMES: usize = 4;
        let mut last = Err("never sent".to_owned());
        for _ in 0..TIMES {
            last = self.once(method, path, body, Duration::from_secs(15)).await;
            if last.as_ref().is_ok_and(|reply| reply.status < 500) {
                break;
            }
            sleep(Duration::from_millis(300)).await;
        }
        last
    }
}
