//! The document that a binding hands out.

use std::{collections::BTreeMap, fmt::Write as _};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::{
    BindingSecrets, InstanceSecrets,
    template::{self, TemplateError},
    tokens::Tokens,
};
use crate::catalog::{ContainerPort, Credentials, Plan, ServiceTls};

/// RFC 3986 "unreserved" characters stay as they are in the parts of a URI.
const URI_PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, URI_PART).to_string()
}

/// What is known of an instance when it is bound.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Host that clients connect to.
    pub host: &'a str,
    /// Host port of each published container port.
    pub ports: &'a BTreeMap<ContainerPort, u16>,
    /// The instance's secrets.
    pub secrets: &'a InstanceSecrets,
    /// User name and password of this binding alone, if it has any: shown instead of the instance's.
    pub own: Option<&'a BindingSecrets>,
    /// Id of the instance.
    pub instance_id: &'a str,
    /// Id of the binding.
    pub binding_id: &'a str,
    /// What clients have to trust, PEM; `None` when the instance does without TLS.
    pub ca_certificate: Option<&'a str>,
}

/// What OSB calls the "Service Binding" of `plan`: `credentials`, `endpoints` and, if the service
/// drains logs, `syslog_drain_url`.
///
/// # Errors
/// [`TemplateError`] when the plan's template uses something that this instance does not have.
pub fn binding_document(plan: &Plan, facts: &Facts<'_>) -> Result<Value, TemplateError> {
    let shape = &plan.credentials;
    let tls = plan.tls.as_ref().filter(|_| facts.ca_certificate.is_some());
    let mut shown = credentials(shape, tls, facts);
    // Tokens first: a value that handlebars put in may hold a $.
    let fixed = shape.fixed.as_ref();
    let fixed = fixed.map(|fixed| Tokens::new(shape, facts.host, facts.ports).fill(fixed));
    if let Some(template) = fixed.transpose()?.as_ref().or(shape.template.as_ref()) {
        let mut context = shown.clone();
        context.insert("instance_id".to_owned(), facts.instance_id.into());
        context.insert("binding_id".to_owned(), facts.binding_id.into());
        context.entry("tls").or_insert(false.into());
        context.entry("ca_certificate").or_insert("".into());
        if let Value::Object(rendered) = template::render(template, &context)? {
            shown = rendered;
        }
    }
    let mut document = Map::new();
    document.insert("credentials".to_owned(), Value::Object(shown));
    let endpoints: Vec<Value> = facts
        .ports
        .iter()
        .map(|(port, host_port)| {
            json!({
                "host": facts.host,
                "ports": [host_port.to_string()],
                "protocol": port.protocol.as_str(),
            })
        })
        .collect();
    if !endpoints.is_empty() {
        document.insert("endpoints".to_owned(), Value::Array(endpoints));
    }
    if let Some(drain) = &plan.syslog_drain
        && let Some(port) = facts.ports.get(&drain.port)
    {
        let url = format!("{}://{}:{port}", drain.protocol, bracketed(facts.host));
        document.insert("syslog_drain_url".to_owned(), url.into());
    }
    Ok(Value::Object(document))
}

/// cf-containers-broker's credentials, with its escaping put right.
fn credentials(
    shape: &Credentials,
    tls: Option<&ServiceTls>,
    facts: &Facts<'_>,
) -> Map<String, Value> {
    let mut map = Map::new();
    let hostname = shape.hostname.as_deref().unwrap_or(facts.host);
    map.insert("hostname".to_owned(), hostname.into());
    map.insert("host".to_owned(), facts.host.into());
    let port = main_port(shape, facts.ports);
    if !facts.ports.is_empty() {
        // Strings, because that is what applications of cf-containers-broker parse.
        let ports =
            facts.ports.iter().map(|(inner, outer)| (inner.to_string(), outer.to_string().into()));
        map.insert("ports".to_owned(), Value::Object(ports.collect()));
    }
    if let Some(port) = port {
        map.insert("port".to_owned(), port.to_string().into());
    }
    let secrets = facts.secrets;
    let shown = [
        ("username", &shape.username, &secrets.username),
        ("password", &shape.password, &secrets.password),
        ("dbname", &shape.dbname, &secrets.dbname),
    ];
    for (name, key, value) in shown {
        if let (Some(_), Some(value)) = (key, value) {
            map.insert(name.to_owned(), value.as_str().into());
        }
    }
    if let Some(own) = facts.own {
        map.insert("username".to_owned(), own.username.as_str().into());
        map.insert("password".to_owned(), own.password.as_str().into());
    }
    if let Some(ca) = facts.ca_certificate {
        map.insert("tls".to_owned(), true.into());
        map.insert("ca_certificate".to_owned(), ca.into());
    }
    if let Some(prefix) = shape.uri.as_ref().and_then(|uri| uri.prefix.as_deref()) {
        let prefix = tls.and_then(|tls| tls.uri_prefix.as_deref()).unwrap_or(prefix);
        let mut uri = uri(prefix, hostname, port, &map);
        for (index, (name, value)) in
            tls.into_iter().flat_map(|tls| &tls.uri_parameters).enumerate()
        {
            let separator = if index == 0 { '?' } else { '&' };
            // Writing to a string cannot fail.
            let _infallible = write!(uri, "{separator}{}={}", encode(name), encode(value));
        }
        map.insert("uri".to_owned(), uri.into());
    }
    map
}

pub(super) fn main_port(shape: &Credentials, ports: &BTreeMap<ContainerPort, u16>) -> Option<u16> {
    match shape.uri.as_ref().and_then(|uri| uri.port) {
        Some(wanted) => ports.get(&wanted).copied(),
        None if ports.len() == 1 => ports.values().next().copied(),
        None => None,
    }
}

/// `prefix://[user][:password]@host[:port][/dbname]`, every part percent-encoded.
fn uri(prefix: &str, host: &str, port: Option<u16>, shown: &Map<String, Value>) -> String {
    let encoded = |name: &str| shown.get(name).and_then(Value::as_str).map(encode);
    let login = match (encoded("username"), encoded("password")) {
        (None, None) => String::new(),
        (user, None) => format!("{}@", user.unwrap_or_default()),
        (user, Some(password)) => format!("{}:{password}@", user.unwrap_or_default()),
    };
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    let dbname = encoded("dbname").map_or(String::new(), |dbname| format!("/{dbname}"));
    format!("{prefix}://{login}{}{port}{dbname}", bracketed(host))
}

/// IPv6 addresses stand in brackets in a URI.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{KeyValue, UriShape};

    fn ports(of: &[(&str, u16)]) -> BTreeMap<ContainerPort, u16> {
        of.iter().map(|(port, host)| (ContainerPort::parse(port).unwrap(), *host)).collect()
    }

    fn shown(shape: &Credentials, of: &[(&str, u16)], password: &str) -> Value {
        let secrets = InstanceSecrets {
            username: Some("user".to_owned()),
            password: Some(password.to_owned()),
            dbname: Some("db".to_owned()),
            ..InstanceSecrets::default()
        };
        let facts = Facts {
            host: "10.0.0.1",
            ports: &ports(of),
            secrets: &secrets,
            own: None,
            instance_id: "i",
            binding_id: "b",
            ca_certificate: None,
        };
        Value::Object(credentials(shape, None, &facts))
    }

    fn key(name: &str) -> KeyValue {
        KeyValue { key: Some(name.to_owned()), value: None }
    }

    fn shape(prefix: Option<&str>, port: Option<&str>) -> Credentials {
        Credentials {
            username: Some(key("U")),
            password: Some(key("P")),
            dbname: Some(key("D")),
            uri: Some(UriShape {
                prefix: prefix.map(str::to_owned),
                port: port.map(|port| ContainerPort::parse(port).unwrap()),
            }),
            ..Credentials::default()
        }
    }

    #[test]
    fn one_port_is_the_port_and_all_ports_are_strings() {
        assert_eq!(
            shown(&shape(Some("postgres"), None), &[("5432/tcp", 20000)], "pw"),
            json!({
                "hostname": "10.0.0.1", "host": "10.0.0.1",
                "port": "20000", "ports": {"5432/tcp": "20000"},
                "username": "user", "password": "pw", "dbname": "db",
                "uri": "postgres://user:pw@10.0.0.1:20000/db",
            })
        );
    }

    #[test]
    fn of_several_ports_uri_port_is_the_port_and_without_it_there_is_none() {
        let two = [("4222/tcp", 20000), ("8222/tcp", 20001)];
        let named = shown(&shape(Some("nats"), Some("4222/tcp")), &two, "pw");
        assert_eq!(named["port"], "20000");
        assert_eq!(named["uri"], "nats://user:pw@10.0.0.1:20000/db");
        let unnamed = shown(&shape(Some("nats"), None), &two, "pw");
        assert_eq!(unnamed.get("port"), None);
        assert_eq!(unnamed["uri"], "nats://user:pw@10.0.0.1/db");
    }

    #[test]
    fn a_password_without_a_user_name_is_in_the_uri_and_parts_are_percent_encoded() {
        let mut password_only = shape(Some("redis"), None);
        password_only.username = None;
        password_only.dbname = None;
        let document = shown(&password_only, &[("6379/tcp", 20000)], "p@ss/w:rd");
        assert_eq!(document["uri"], "redis://:p%40ss%2Fw%3Ard@10.0.0.1:20000");
        assert_eq!(document["password"], "p@ss/w:rd");
        assert_eq!(document.get("username"), None);
    }

    #[test]
    fn without_credentials_there_are_only_host_and_ports() {
        assert_eq!(
            shown(&Credentials::default(), &[("514/udp", 20000)], "pw"),
            json!({
                "hostname": "10.0.0.1", "host": "10.0.0.1",
                "port": "20000", "ports": {"514/udp": "20000"},
            })
        );
        let fixed =
            Credentials { hostname: Some("db.example.com".to_owned()), ..Credentials::default() };
        let document = shown(&fixed, &[], "pw");
        assert_eq!(document, json!({"hostname": "db.example.com", "host": "10.0.0.1"}));
    }

    #[test]
    fn templates_take_handlebars_at_any_depth_and_refuse_unknown_variables() {
        let template = json!({"a": [{"b": "{{host}}:{{ports.[6379/tcp]}}"}], "n": 3});
        let context = json!({"host": "h", "ports": {"6379/tcp": "20000"}});
        assert_eq!(
            template::render(&template, &context).unwrap(),
            json!({"a": [{"b": "h:20000"}], "n": 3})
        );
        assert!(template::render(&json!("{{nobody}}"), &context).is_err());
        assert!(template::check_template(&json!(["{{#if"])).is_err());
    }
}
