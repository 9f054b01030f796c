//! What a hook is told: one JSON document to read, and an environment.

use std::fmt;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::instance::Instance;
use crate::{
    catalog::{Action, Parameters, Plan, hex},
    credentials::{BindingSecrets, InstanceSecrets, Tokens},
};

/// Longest variable; Linux takes twice that.
const MAX_PAIR_BYTES: usize = 64 << 10;
/// Version of the contract with hooks.
const CONTRACT: u32 = 1;

/// Shorter values that developers send, or that hooks make, may be any word.
const LEAST_SENT: usize = 8;
/// Entries of credentials that are no secrets.
const OPEN: [&str; 9] =
    ["ca_certificate", "dbname", "host", "hostname", "name", "port", "ports", "username", "vhost"];

/// What a hook is run for.
pub(super) struct HookInput<'a> {
    pub(super) action: Action,
    pub(super) instance: &'a Instance,
    /// The plan whose hook it is.
    pub(super) plan: &'a Plan,
    /// Host that bindings name.
    pub(super) host: &'a str,
    pub(super) operation_id: &'a str,
    pub(super) binding: Option<HookBinding<'a>>,
    /// Major versions of data and image, where one is to become the other.
    pub(super) versions: Option<(u64, u64)>,
}

/// The binding, where it is about one.
#[derive(Clone, Copy)]
pub(super) struct HookBinding<'a> {
    pub(super) id: &'a str,
    pub(super) predecessor: Option<&'a str>,
    pub(super) parameters: &'a Map<String, Value>,
    pub(super) bind_resource: &'a Value,
    pub(super) context: &'a Value,
    pub(super) secrets: &'a BindingSecrets,
    /// Its credentials, once they are made.
    pub(super) made: Option<&'a Map<String, Value>>,
}

impl fmt::Debug for HookInput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookInput({} of {})", self.action.as_str(), self.operation_id)
    }
}

impl HookBinding<'_> {
    fn app_guid(&self) -> Option<&str> {
        self.bind_resource.get("app_guid").and_then(Value::as_str)
    }
}

impl HookInput<'_> {
    /// What all processes of this hook have in their environment: the same for all hooks of one
    /// binding, and for all of an instance itself, of which one runs at a time. Of one length, so
    /// that none is the beginning of another.
    pub(super) fn mark(&self) -> String {
        let instance = &self.instance.row.id;
        let kind = if self.binding.is_some() { "binding" } else { "instance" };
        let what = self.binding.map_or("", |binding| binding.id);
        let text = format!("{kind}:{}:{instance}:{what}", instance.len());
        format!("OSB_MARK={}", hex(&Sha256::digest(text)))
    }

    /// The only argument that a script of an image may get.
    pub(super) fn argument(&self) -> Option<&str> {
        self.instance.private.dashboard_url.as_deref().filter(|_| self.action == Action::Unbind)
    }

    /// Everything of it that must not appear in a log: with what developers have sent, which may
    /// be a password of theirs, and what an earlier hook has made for the binding.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let binding = self.binding.iter().map(|binding| binding.secrets.password.as_str());
        let host = self.instance.host.iter().flat_map(|host| host.secrets.values());
        let own = self.instance.private.secrets.values().chain(host).chain(binding);
        let mut others = Vec::new();
        let sent = self.binding.map(|binding| binding.parameters);
        for (name, value) in sent.into_iter().chain([&self.instance.private.parameters]).flatten() {
            texts(
                value,
                &|text| text.len() >= LEAST_SENT && !self.is_choice(name, text),
                &mut others,
            );
        }
        for (name, value) in self.binding.and_then(|binding| binding.made).into_iter().flatten() {
            if !OPEN.contains(&name.as_str()) {
                texts(value, &|text| text.len() >= LEAST_SENT && text != self.host, &mut others);
            }
        }
        own.chain(others)
    }

    /// Whether the plan's schemas list this value of a parameter for everybody to read.
    fn is_choice(&self, name: &str, value: &str) -> bool {
        let schemas = &self.plan.schemas;
        let schemas = [&schemas.create, &schemas.update, &schemas.bind];
        schemas.into_iter().flatten().any(|schema| schema.lists(name, value))
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens::new(&self.plan.credentials, self.host, &self.instance.ports)
    }

    /// What it reads.
    pub(super) fn document(&self) -> String {
        let (instance, definition) = (self.instance, &self.instance.definition);
        let private = &instance.private;
        let ports: Map<String, Value> = instance
            .ports
            .iter()
            .map(|(inner, outer)| (inner.to_string(), (*outer).into()))
            .collect();
        let mut document = json!({
            "contract": CONTRACT,
            "action": self.action.as_str(),
            "instance": {
                "id": instance.row.id,
                "name": instance.row.name,
                "parameters": private.parameters,
                "context": private.context.get("context"),
                "organization_guid": private.context.get("organization_guid"),
                "space_guid": private.context.get("space_guid"),
                "credentials": shown(&private.secrets),
            },
            "service": { "id": definition.service_id, "name": definition.service_name },
            "plan": { "id": self.plan.id, "name": self.plan.name },
            "host": self.host,
            "ports": ports,
        });
        if let Some((data, image)) = self.versions {
            document["versions"] = json!({ "data": data, "image": image });
        }
        if let Some(host) = &instance.host {
            document["container"] = json!({ "credentials": shown(&host.secrets) });
        }
        if let Some(binding) = &self.binding {
            document["binding"] = json!({
                "id": binding.id,
                "predecessor_id": binding.predecessor,
                "parameters": binding.parameters,
                "context": binding.context,
                "app_guid": binding.app_guid(),
                "credentials": {
                    "username": binding.secrets.username,
                    "password": binding.secrets.password,
                },
            });
        }
        document.to_string()
    }

    /// `NAME=value` besides the container's own environment.
    pub(super) fn environment(&self) -> Vec<String> {
        let (instance, definition) = (self.instance, &self.instance.definition);
        let (private, tokens) = (&instance.private, self.tokens());
        let owned = |text: &str| Some(text.to_owned());
        let context =
            |name: &str| private.context.get(name).and_then(Value::as_str).and_then(owned);
        let binding = self.binding.as_ref();
        let mut pairs = vec![
            ("OSB_CONTRACT".to_owned(), Some(CONTRACT.to_string())),
            ("OSB_ACTION".to_owned(), owned(self.action.as_str())),
            ("OSB_INSTANCE_ID".to_owned(), owned(&instance.row.id)),
            ("OSB_BINDING_ID".to_owned(), binding.and_then(|b| owned(b.id))),
            (
                "OSB_PREDECESSOR_BINDING_ID".to_owned(),
                binding.and_then(|b| b.predecessor).and_then(owned),
            ),
            ("OSB_SERVICE_ID".to_owned(), owned(&definition.service_id)),
            ("OSB_SERVICE_NAME".to_owned(), owned(&definition.service_name)),
            ("OSB_PLAN_ID".to_owned(), owned(&self.plan.id)),
            ("OSB_PLAN_NAME".to_owned(), owned(&self.plan.name)),
            ("OSB_HOST".to_owned(), owned(tokens.host())),
            ("OSB_PORT".to_owned(), tokens.port().map(|port| port.to_string())),
            ("OSB_ORGANIZATION_GUID".to_owned(), context("organization_guid")),
            ("OSB_SPACE_GUID".to_owned(), context("space_guid")),
            ("OSB_APP_GUID".to_owned(), binding.and_then(HookBinding::app_guid).and_then(owned)),
            ("OSB_USERNAME".to_owned(), private.secrets.username.clone()),
            ("OSB_PASSWORD".to_owned(), private.secrets.password.clone()),
            ("OSB_DBNAME".to_owned(), private.secrets.dbname.clone()),
            ("OSB_BINDING_USERNAME".to_owned(), binding.and_then(|b| owned(&b.secrets.username))),
            ("OSB_BINDING_PASSWORD".to_owned(), binding.and_then(|b| owned(&b.secrets.password))),
            ("OSB_DATA_VERSION".to_owned(), self.versions.map(|(data, _)| data.to_string())),
            ("OSB_IMAGE_VERSION".to_owned(), self.versions.map(|(_, image)| image.to_string())),
        ];
        for inner in instance.ports.keys() {
            let port = tokens.port_of(inner.number).map(|port| port.to_string());
            pairs.push((format!("OSB_PORT_{}", inner.number), port));
        }
        let parameters = binding.map_or(&private.parameters, |binding| binding.parameters);
        for (name, value) in parameters.iter().filter(|(name, _)| self.is_declared(name)) {
            if let Some(variable) = variable(name) {
                pairs.push((variable, scalar(value)));
            }
        }
        let set = pairs.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        let set = set.chain(std::iter::once(self.mark()));
        // No variable can hold a NUL; a long one would keep the hook from being run at all.
        set.filter(|pair| !pair.contains('\0') && pair.len() <= MAX_PAIR_BYTES).collect()
    }

    /// Whether the plan names this parameter, so that its name is the operator's.
    fn is_declared(&self, name: &str) -> bool {
        let schemas = &self.plan.schemas;
        let mapped = matches!(&self.plan.parameters,
            Parameters::Declared(names) if names.contains_key(name));
        let in_schema = if self.binding.is_some() {
            [schemas.bind.as_ref(), None]
        } else {
            [schemas.create.as_ref(), schemas.update.as_ref()]
        };
        (mapped && self.binding.is_none())
            || in_schema.into_iter().flatten().any(|schema| schema.declares(name))
    }
}

/// The strings anywhere in a value that are wanted.
fn texts<'a>(value: &'a Value, wanted: &impl Fn(&str) -> bool, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if wanted(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, wanted, found)),
        Value::Object(map) => map.values().for_each(|item| texts(item, wanted, found)),
        _ => {}
    }
}

/// All secrets of an instance or of its shared container.
fn shown(secrets: &InstanceSecrets) -> Map<String, Value> {
    let hidden = secrets.hidden.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
    let own = [
        ("username", &secrets.username),
        ("password", &secrets.password),
        ("dbname", &secrets.dbname),
    ];
    hidden.chain(own.map(|(name, value)| (name.to_owned(), json!(value)))).collect()
}

/// `OSB_PARAM_<NAME>`, if the name can be one.
fn variable(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (!name.is_empty() && name.chars().all(plain))
        .then(|| format!("OSB_PARAM_{}", name.to_ascii_uppercase().replace('-', "_")))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
