//! What became of the properties of cf-containers-broker and of the docker release, and what a plan
//! written for them should know.

use std::net::IpAddr;

use serde_yaml::Value;

use super::scalars::parse_size;

/// What happens to a property.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is there under the same name; with what is different about it.
    Kept(Option<&'static str>),
    /// There is no such property; with what to do instead.
    Dropped(&'static str),
}

/// Whether the manifest sets this property of the broker by itself.
pub(super) fn in_manifest(name: &str) -> bool {
    ["username", "password", "services"].contains(&name)
}

/// What became of a property of the job cf-containers-broker.
pub(super) fn property(name: &str, value: &Value) -> Fate {
    match name {
        "port" if is_privileged_port(value) => Fate::Kept(Some(
            "the broker is no root any more and cannot open a port below 1024; take another one, such as 5555",
        )),
        "external_ip" if !is_address(value) => Fate::Kept(Some(
            "has to be an IP address of the VM; for a name in bindings there is binding_host",
        )),
        "external_host" => Fate::Kept(Some(
            "is the host of the API, as before; bindings name external_ip, or binding_host",
        )),
        "ssl_enabled" => Fate::Kept(Some(
            "says how the platform reaches the API; TLS on the VM itself is operators/enable-broker-tls.yml",
        )),
        "docker_url" if is_old_socket(value) => {
            Fate::Dropped("it is the default, at the place where the socket is now")
        }
        "username" | "password" | "name" | "port" | "external_ip" | "docker_url"
        | "max_containers" | "fetch_images" => Fate::Kept(None),
        "cookie_secret" | "session_expiry" | "skip_ssl_validation" | "cf" => {
            Fate::Dropped("it was for the dashboard, which there is not")
        }
        "unicorn" => Fate::Dropped("one process serves all requests side by side"),
        "allocate_docker_host_ports" => {
            Fate::Dropped("host ports are always allocated, out of host_ports")
        }
        "enable_host_port_envvar" => Fate::Dropped("containers are not told their host ports"),
        "update_containers" => Fate::Dropped(
            "a changed plan reaches an instance by cf update-service, never at a start of the broker",
        ),
        "env" => Fate::Dropped("a proxy is set on the job docker: operators/use-proxy.yml"),
        "host_directory" | "container_env_var_dir" => {
            Fate::Dropped("it was no property; look at docs/migration.md for where data is now")
        }
        _ => Fate::Dropped("there is no such property, neither before nor now"),
    }
}

/// Why a property of the job docker is no more; `None` if it is there.
pub(super) fn docker_property(name: &str) -> Option<&'static str> {
    match name {
        "store_dir" => {
            Some("data is in /var/vcap/store/docker; for that of before there is data_root")
        }
        "flannel" => Some("there is one VM, hence no network between VMs"),
        "shared_mounts_enable" => Some("no mounts are shared with containers"),
        _ => None,
    }
}

fn is_privileged_port(value: &Value) -> bool {
    let port = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    port.is_some_and(|port| port < 1024)
}

fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok())
}

fn is_old_socket(value: &Value) -> bool {
    value.as_str().is_some_and(|url| url.starts_with("unix://") && url.ends_with("/docker.sock"))
}

/// What is different for a plan, or looks mistaken in it.
pub(super) fn plan_notes(plan: &Value) -> Vec<String> {
    let container = &plan["container"];
    let mut notes = Vec::new();
    if container["privileged"].as_bool() == Some(true) {
        notes.push("privileged: whoever breaks out of the container is root on the VM".to_owned());
    }
    if is_floating(container) {
        notes.push("the tag latest floats: a new VM may get another version; name one".to_owned());
    }
    for key in ["memory", "memory_swap"] {
        let Some(text) = container[key].as_str() else { continue };
        if text.ends_with('g')
            && let Ok(bytes) = parse_size(text)
        {
            notes.push(format!(
                "{key}: {text} is {bytes} bytes now; the old broker miscounted and made it about a thousandth"
            ));
        }
    }
    for entry in container["environment"].as_sequence().into_iter().flatten() {
        if let Some((name, value)) = entry.as_str().and_then(|entry| entry.split_once('='))
            && value.contains('=')
        {
            notes.push(format!(
                "environment: {name} gets all behind the first =; the old broker took what was behind the last one"
            ));
        }
    }
    let uri = &plan["credentials"]["uri"];
    if uri["prefix"].is_null() && !uri["uri"].is_null() {
        notes.push(
            "credentials.uri.uri was never read: prefix was meant, and without it there is no uri"
                .to_owned(),
        );
    }
    if !plan["max_containers"].is_null() {
        notes.push("max_containers of a plan is honoured now".to_owned());
    }
    notes
}

/// Whether an image is named without tag or digest, or with the tag `latest`.
fn is_floating(container: &Value) -> bool {
    let image = container["image"].as_str().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or(image);
    match (&container["tag"], last.split_once(':')) {
        _ if image.contains('@') => false,
        (Value::Null, None) => true,
        (Value::Null, Some((_, tag))) => tag == "latest",
        (tag, _) => tag.as_str() == Some("latest"),
    }
}
