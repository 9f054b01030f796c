//! A strict stand-in for UAA and the Cloud Controller. Shapes and section names are those of the
//! published UAA and CAPI v3 documentation; what a real one would refuse is refused, and written
//! down as a violation that fails the test.

mod cloud_controller;
mod server;
mod sync;
mod uaa;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};

use super::unique;

pub(crate) const ADMIN: (&str, &str) = ("admin", "the-admin-password");
pub(crate) const NOBODY: (&str, &str) = ("nobody", "the-nobody-password");
pub(crate) const CLIENT: (&str, &str) = ("registrar", "the-client-secret");

/// A broker as the platform knows it.
#[derive(Debug, Clone)]
pub(crate) struct KnownBroker {
    pub(crate) guid: String,
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) login: (String, String),
    pub(crate) space: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct KnownOffering {
    pub(crate) guid: String,
    pub(crate) broker: String,
    pub(crate) name: String,
    pub(crate) catalog_id: String,
    pub(crate) available: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct KnownPlan {
    pub(crate) guid: String,
    pub(crate) offering: String,
    pub(crate) name: String,
    pub(crate) catalog_id: String,
    pub(crate) available: bool,
    /// `admin`, `public` or `organization`.
    pub(crate) visibility: String,
    pub(crate) organizations: Vec<String>,
}

#[derive(Debug, Clone)]
struct Job {
    /// `PROCESSING` answers that are still to be given.
    polls: u32,
    state: &'static str,
    errors: Vec<String>,
    warnings: Vec<String>,
}

/// What goes wrong: the next `times` requests whose "METHOD path" begins so.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) on: &'static str,
    pub(crate) times: u32,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    /// The request is carried out all the same.
    pub(crate) after: bool,
}

/// Everything that the platform knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) url: String,
    pub(crate) brokers: Vec<KnownBroker>,
    pub(crate) offerings: Vec<KnownOffering>,
    pub(crate) plans: Vec<KnownPlan>,
    /// Guid and name.
    pub(crate) organizations: Vec<(String, String)>,
    /// Guid, name, organization.
    pub(crate) spaces: Vec<(String, String, String)>,
    /// Guid, plan, space.
    pub(crate) instances: Vec<(String, String, String)>,
    jobs: BTreeMap<String, Job>,
    /// Token and how many requests it is good for.
    tokens: BTreeMap<String, u32>,
    refresh_tokens: Vec<String>,
    pub(crate) requests_per_token: Option<u32>,
    pub(crate) refresh_is_refused: bool,
    pub(crate) faults: Vec<Fault>,
    /// The Cloud Controller cannot reach any broker.
    pub(crate) brokers_unreachable: bool,
    pub(crate) job_warning: Option<String>,
    /// Jobs are said to be at this host.
    pub(crate) jobs_at: Option<String>,
    /// Brokers whose catalog is being read.
    syncing: Vec<String>,
    pub(crate) sync_takes: std::time::Duration,
    /// Never answers.
    pub(crate) is_silent: bool,
    /// `METHOD path` of every request.
    pub(crate) requests: Vec<String>,
    pub(crate) violations: Vec<String>,
}

/// How its certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    None,
    /// For 127.0.0.1, signed by a CA of its own.
    PrivateCa,
    /// For another host.
    WrongHost,
}

/// A running platform.
pub(crate) struct Platform {
    state: Arc<Mutex<State>>,
    /// PEM of the CA.
    pub(crate) ca: Option<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Platform {
    pub(crate) async fn start() -> Self {
        Self::with(Tls::None).await
    }

    pub(crate) async fn with(tls: Tls) -> Self {
        Self::at("127.0.0.1", tls).await
    }

    /// At an address of this machine.
    pub(crate) async fn at(host: &str, tls: Tls) -> Self {
        let state = Arc::new(Mutex::new(State {
            organizations: ["one", "two", "three", "four, 5%2C"]
                .map(|name| (unique("org-"), name.to_owned()))
                .to_vec(),
            ..State::default()
        }));
        let (url, ca, task) = server::serve(Arc::clone(&state), host, tls).await;
        lock(&state).url = url;
        Self { state, ca, task }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn url(&self) -> String {
        self.state().url.clone()
    }

    /// Guid of an organization.
    pub(crate) fn organization(&self, name: &str) -> String {
        let state = self.state();
        let found = state.organizations.iter().find(|(_, known)| known == name);
        found.expect("an organization of the stand-in").0.clone()
    }

    /// An instance of a plan of this service, in a space of the first organization.
    pub(crate) fn add_instance(&self, service: &str, space: &str) {
        let mut state = self.state();
        let offering = state.offerings.iter().find(|one| one.name == service).expect("a service");
        let plan = state.plans.iter().find(|one| one.offering == offering.guid).expect("a plan");
        let plan = plan.guid.clone();
        let organization = state.organizations[0].0.clone();
        let known = state.spaces.iter().find(|(_, name, _)| name == space);
        let guid = known.map_or_else(|| unique("space-"), |(guid, _, _)| guid.clone());
        if known.is_none() {
            state.spaces.push((guid.clone(), space.to_owned(), organization));
        }
        state.instances.push((unique("instance-"), plan, guid));
    }

    /// Visibility and organizations of every plan that can be ordered, by `service/plan`.
    pub(crate) fn access(&self) -> BTreeMap<String, (String, Vec<String>)> {
        let state = self.state();
        let name = |plan: &KnownPlan| {
            let offering = state.offerings.iter().find(|one| one.guid == plan.offering);
            format!("{}/{}", offering.expect("its offering").name, plan.name)
        };
        let orgs = |plan: &KnownPlan| {
            let name = |guid: &String| {
                state
                    .organizations
                    .iter()
                    .find(|(known, _)| known == guid)
                    .expect("an org")
                    .1
                    .clone()
            };
            let mut names: Vec<String> = plan.organizations.iter().map(name).collect();
            names.sort();
            names
        };
        state
            .plans
            .iter()
            .filter(|plan| plan.available)
            .map(|plan| (name(plan), (plan.visibility.clone(), orgs(plan))))
            .collect()
    }

    /// Requests since the last call that change something.
    pub(crate) fn changes(&self) -> Vec<String> {
        let all = std::mem::take(&mut self.state().requests);
        all.into_iter()
            .filter(|line| !line.starts_with("GET ") && !line.contains("/oauth/token"))
            .collect()
    }

    /// A real platform would have refused something.
    #[track_caller]
    pub(crate) fn assert_contented(&self) {
        assert_eq!(self.state().violations, [""; 0]);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no handler panics")
}

/// Status, headers, body.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Value,
}

impl Answer {
    fn json(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    /// CAPI v3 "Errors".
    fn error(status: u16, code: u32, title: &str, detail: &str) -> Self {
        let error = json!({ "code": code, "title": title, "detail": detail });
        Self::json(status, json!({ "errors": [error] }))
    }

    fn not_found(what: &str) -> Self {
        Self::error(404, 10010, "CF-ResourceNotFound", &format!("{what} not found"))
    }

    fn unprocessable(detail: &str) -> Self {
        Self::error(422, 10008, "CF-UnprocessableEntity", detail)
    }
}

/// A request, read to its end.
struct Asked {
    method: http::Method,
    path: String,
    query: BTreeMap<String, String>,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
