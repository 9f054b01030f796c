//! Services and plans: cf-containers-broker's schema and the keys that were added to it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use super::{
    container, data_version,
    lifecycle::{binding_lifetime, lifecycle},
    node::Node,
    sanity_test::sanity_test,
    service_tls,
    tenancy::{check_shared, tenancy},
};
use crate::catalog::{
    ContainerPort, Credentials, KeyValue, Lifecycle, MaintenanceInfo, Parameters, Plan,
    ReadinessCheck, Schema, Schemas, Service, SyslogDrain, UriShape, derived_maintenance,
    is_environment_name, is_reserved,
};
use crate::credentials;

/// OSB "Service Offering Object": the only values of `requires`.
const REQUIRES: [&str; 3] = ["syslog_drain", "route_forwarding", "volume_mount"];

/// Reads one entry of `services`.
pub(super) fn service(node: Node<'_>) -> Service {
    let requires = node.strings("requires").unwrap_or_default();
    let drains = requires.iter().any(|permission| permission == "syslog_drain");
    let service = Service {
        id: node.required("id"),
        name: node.required("name"),
        description: node.required("description"),
        bindable: node.boolean("bindable").unwrap_or(true),
        tags: node.strings("tags").unwrap_or_default(),
        metadata: node.json_object("metadata"),
        requires,
        plan_updateable: node.boolean("plan_updateable").unwrap_or(true),
        plans: node.nodes("plans").into_iter().map(|entry| Arc::new(plan(entry, drains))).collect(),
    };
    check_name(&node, &service.name);
    for permission in &service.requires {
        if !REQUIRES.contains(&permission.as_str()) {
            node.error(
                "requires",
                format!("holds {permission:?}; OSB knows only {}", REQUIRES.join(", ")),
            );
        }
    }
    if !node.has("plans") || (node.is_list("plans") && service.plans.is_empty()) {
        node.error("plans", "must hold at least one plan");
    }
    check_predecessors(&node, &service);
    // Emitted only together with a dashboard, which this broker does not have: platforms refuse
    // a catalog whose dashboard clients they cannot create.
    node.ignore("dashboard_client");
    node.finish();
    service
}

fn check_name(node: &Node<'_>, name: &str) {
    if name.chars().any(char::is_whitespace) {
        node.error(
            "name",
            format!("is {name:?}; a name has no white space, so that a CLI can take it"),
        );
    }
}

fn plan(node: Node<'_>, drains: bool) -> Plan {
    let schemas = schemas(&node);
    let container_node = node.node("container");
    if container_node.is_none() && !node.has("container") {
        node.error("container", "is missing; it is required");
    }
    let credentials = credentials(&node);
    // Parameters as environment need a container that is yet to be made.
    let existing = container_node.as_ref().is_some_and(|container| container.has("existing"));
    let tenancy = tenancy(&node);
    let is_legacy = schemas.is_empty() && !existing && tenancy.is_none();
    let container = container_node.map_or_else(container::placeholder, container::container);
    let lifecycle = lifecycle(&node);
    let mut plan = Plan {
        id: node.required("id"),
        name: node.required("name"),
        description: node.required("description"),
        free: node.boolean("free").unwrap_or(true),
        metadata: node.json_object("metadata"),
        bindable: node.boolean("bindable"),
        plan_updateable: node.boolean("plan_updateable"),
        binding_rotatable: node.boolean("binding_rotatable").unwrap_or_else(|| lifecycle.binds()),
        max_instances: node
            .integer("max_containers", 0, u64::from(u32::MAX))
            .and_then(|max| u32::try_from(max).ok()),
        maintenance_info: maintenance_info(&node),
        maximum_polling_duration_seconds: node.integer("maximum_polling_duration", 1, 604_800),
        parameters: parameters(&node, is_legacy),
        schemas,
        tls: service_tls::plan(&node, &container),
        data_version: data_version::data_version(&node, &container, &lifecycle),
        update_predecessors: node.strings("update_predecessors"),
        container,
        tenancy,
        credentials,
        syslog_drain: syslog_drain(&node, drains),
        binding_lifetime: binding_lifetime(&node, &lifecycle),
        lifecycle,
        sanity_test: sanity_test(&node),
    };
    check_name(&node, &plan.name);
    check_ports(&node, &plan);
    check_variables(&node, &plan);
    check_tls(&node, &plan);
    check_existing(&node, &plan);
    check_shared(&node, &plan);
    node.finish();
    if plan.maintenance_info.is_none() {
        plan.maintenance_info = derived_maintenance(&plan);
    }
    plan
}

/// A predecessor that is misspelt would forbid what was meant to be allowed.
fn check_predecessors(node: &Node<'_>, service: &Service) {
    for (index, plan) in service.plans.iter().enumerate() {
        for name in plan.update_predecessors.iter().flatten() {
            if !service.plans.iter().any(|other| other.id == *name || other.name == *name) {
                node.error(
                    &format!("plans[{index}].update_predecessors"),
                    format!("holds {name:?}, which is neither the name nor the id of a plan of this service"),
                );
            }
        }
    }
}

fn maintenance_info(node: &Node<'_>) -> Option<MaintenanceInfo> {
    let info = node.node("maintenance_info")?;
    let version = info.required("version");
    if !version.is_empty() && semver::Version::parse(&version).is_err() {
        info.error(
            "version",
            format!("is {version:?}; it must be a semantic version such as 1.0.0"),
        );
    }
    let description = info.string("description");
    info.finish();
    Some(MaintenanceInfo { version, description })
}

fn schemas(node: &Node<'_>) -> Schemas {
    let Some(schemas) = node.node("schemas") else { return Schemas::default() };
    let parameters = |node: Option<Node<'_>>| {
        let node = node?;
        let schema = node.json("parameters").and_then(|document| {
            Schema::parse(document).map_err(|message| node.error("parameters", message)).ok()
        });
        node.finish();
        schema
    };
    let instance = schemas.node("service_instance");
    let binding = schemas.node("service_binding");
    let found = Schemas {
        create: parameters(instance.as_ref().and_then(|node| node.node("create"))),
        update: parameters(instance.as_ref().and_then(|node| node.node("update"))),
        bind: parameters(binding.as_ref().and_then(|node| node.node("create"))),
    };
    for node in [instance, binding].into_iter().flatten() {
        node.finish();
    }
    schemas.finish();
    found
}

/// Without `parameters` and `schemas` a plan is one of cf-containers-broker's.
fn parameters(node: &Node<'_>, is_legacy: bool) -> Parameters {
    let Some(entries) = node.entries("parameters") else {
        return if is_legacy { Parameters::Legacy } else { Parameters::Declared(BTreeMap::new()) };
    };
    let mut seen = BTreeMap::new();
    for (name, variable) in &entries {
        let problem = if !is_environment_name(variable) {
            format!("is {variable:?}, which is no environment variable name")
        } else if is_reserved(variable) {
            format!("is {variable:?}, which is reserved: it would change what runs, not how")
        } else if let Some(other) = seen.insert(variable, name) {
            format!("sets {variable}, which parameter {other:?} sets as well")
        } else {
            continue;
        };
        node.error(&format!("parameters.{name}"), problem);
    }
    Parameters::Declared(entries.into_iter().collect())
}

fn credentials(node: &Node<'_>) -> Credentials {
    let Some(credentials) = node.node("credentials") else { return Credentials::default() };
    let found = Credentials {
        username: key_value(&credentials, "username"),
        password: key_value(&credentials, "password"),
        dbname: key_value(&credentials, "dbname"),
        hostname: hostname(&credentials),
        uri: credentials.node("uri").map(|uri| {
            let shape = UriShape {
                prefix: uri.string("prefix").filter(|prefix| !prefix.is_empty()),
                port: uri.parsed("port", ContainerPort::parse),
            };
            uri.finish();
            shape
        }),
        template: template(&credentials, "template"),
        fixed: template(&credentials, "static"),
    };
    if found.template.is_some() && found.fixed.is_some() {
        credentials.error("static", "and template are two documents; one of them is needed");
    }
    credentials.finish();
    found
}

fn key_value(node: &Node<'_>, which: &'static str) -> Option<KeyValue> {
    let entry = node.node(which)?;
    let (key, value) = (entry.string("key"), entry.string("value"));
    let found = match key {
        Some(key) if !is_environment_name(&key) => {
            entry.error("key", format!("is {key:?}, which is no environment variable name"));
            None
        }
        None if value.is_none() => {
            entry.warning("key", "is missing, so this credential is neither set nor handed out");
            None
        }
        key => Some(KeyValue { key, value }),
    };
    entry.finish();
    found
}

fn hostname(node: &Node<'_>) -> Option<String> {
    let entry = node.node("hostname")?;
    entry.ignore("key");
    let value = entry.string("value");
    entry.finish();
    value
}

fn template(node: &Node<'_>, key: &'static str) -> Option<Json> {
    let template = node.json_object(key)?;
    if let Err(error) = credentials::check_template(&template) {
        node.error(key, error.to_string());
    }
    Some(template)
}

/// OSB: only offerings that require it may hand out a drain.
fn syslog_drain(node: &Node<'_>, required: bool) -> Option<SyslogDrain> {
    let protocol = node.string("syslog_drain_protocol").unwrap_or_else(|| "syslog".to_owned());
    let port = node.parsed("syslog_drain_port", ContainerPort::parse)?;
    if !required {
        let message = "has no effect unless the service says requires: [syslog_drain]";
        node.warning("syslog_drain_port", message);
    }
    required.then_some(SyslogDrain { port, protocol })
}

/// Ports that are named must be published, where the plan says which ones are.
fn check_ports(node: &Node<'_>, plan: &Plan) {
    let published = &plan.container.expose_ports;
    if published.is_empty() {
        return;
    }
    let uri = plan.credentials.uri.as_ref().and_then(|uri| uri.port);
    let drain = plan.syslog_drain.as_ref().map(|drain| drain.port);
    let tested = plan.sanity_test.exchange.as_ref().map(|exchange| exchange.port);
    let named =
        [("credentials.uri.port", uri), ("syslog_drain_port", drain), ("sanity_test.tcp", tested)];
    for (key, port) in named {
        if let Some(port) = port.filter(|port| !published.contains(port)) {
            node.error(key, format!("is {port}, which is not among container.expose_ports"));
        }
    }
    let ports = published.iter().map(|port| (*port, port.number)).collect();
    let tokens = credentials::Tokens::new(&plan.credentials, "", &ports);
    if let Some(fixed) = &plan.credentials.fixed
        && let Err(error) = tokens.fill(fixed)
    {
        node.error("credentials.static", format!("{error}: it is not among expose_ports"));
    }
}

/// An environment reaches no container that runs already.
fn check_existing(node: &Node<'_>, plan: &Plan) {
    if plan.container.existing.is_none() {
        return;
    }
    let credentials = &plan.credentials;
    let shown = [
        ("credentials.username", &credentials.username),
        ("credentials.password", &credentials.password),
        ("credentials.dbname", &credentials.dbname),
    ];
    for (key, credential) in shown {
        let random = credential.as_ref().is_some_and(|credential| credential.value.is_none());
        if random && plan.lifecycle.provision.is_none() {
            node.error(key, "needs its value: nothing tells that container of another one");
        }
    }
    let mapped = matches!(&plan.parameters, Parameters::Declared(names) if !names.is_empty());
    if mapped && plan.lifecycle == Lifecycle::default() {
        node.warning("parameters", "have no effect on a container that the broker does not make");
    }
}

/// Checks within TLS are for plans that have it.
fn check_tls(node: &Node<'_>, plan: &Plan) {
    let other = plan.container.existing.is_some() || plan.tenancy.is_some();
    if plan.tls.is_some() && other {
        node.error("tls", "is for containers of one instance, which the broker makes");
    }
    let ready = match &plan.container.readiness.check {
        ReadinessCheck::Exchange(exchange) => exchange.tls,
        _ => false,
    };
    let tested = plan.sanity_test.exchange.as_ref().is_some_and(|exchange| exchange.tls);
    for (key, asked) in [("container.readiness.tls", ready), ("sanity_test.tls", tested)] {
        if asked && plan.tls.is_none() && !node.has("tls") {
            node.error(key, "is true, but the plan has no tls");
        }
    }
}

/// No environment variable may have two sources that fight for it.
fn check_variables(node: &Node<'_>, plan: &Plan) {
    let credentials = &plan.credentials;
    let keys = [&credentials.username, &credentials.password, &credentials.dbname];
    let mut seen = Vec::new();
    let secret = plan.container.secret_environment.iter().map(String::as_str);
    let keys = keys.into_iter().flatten().filter_map(|entry| entry.key.as_deref());
    for key in keys.chain(secret) {
        if seen.contains(&key) {
            node.error("credentials", format!("uses the variable {key} twice"));
        }
        seen.push(key);
    }
    if let Parameters::Declared(names) = &plan.parameters {
        for (parameter, variable) in names {
            if seen.contains(&variable.as_str()) {
                node.error(
                    &format!("parameters.{parameter}"),
                    format!("would override {variable}, which holds a credential"),
                );
            }
        }
    }
}
