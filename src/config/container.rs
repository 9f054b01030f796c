//! The `container` mapping of a plan.

use std::time::Duration;

use super::{
    existing,
    node::Node,
    scalars::{parse_duration, parse_mode, parse_owner, parse_size},
};
use crate::catalog::{
    ContainerPlan, ContainerPort, Ephemeral, Exchange, Hardening, ImageReference, Limits,
    PullPolicy, Readiness, ReadinessCheck, RestartPolicy, Tmpfs, Volume, is_environment_name,
};

/// Docker's smallest memory limit.
const MIN_MEMORY_BYTES: u64 = 6 << 20;
const DEFAULT_PIDS: i64 = 1024;
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_READINESS_TIMEOUT: Duration = Duration::from_mins(2);
/// What entry points need that start as root, take ownership of their data and drop to their
/// user: nothing beyond Docker's own default set.
const ROOT_ENTRYPOINT_CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// Stands for a container that could not be read (a configuration with errors is never used), and
/// for what the broker does not know of one that somebody else has made.
pub(crate) fn placeholder() -> ContainerPlan {
    ContainerPlan {
        existing: None,
        image: ImageReference::parse("invalid", None).unwrap_or_else(|_| unreachable!()),
        pull: None,
        command: Vec::new(),
        entrypoint: None,
        workdir: None,
        user: None,
        restart: RestartPolicy::No,
        environment: Vec::new(),
        secret_environment: Vec::new(),
        expose_ports: Vec::new(),
        volumes: Vec::new(),
        ephemeral: Ephemeral::default(),
        limits: Limits::default(),
        hardening: Hardening {
            cap_drop: Vec::new(),
            cap_add: Vec::new(),
            no_new_privileges: true,
            read_only: false,
            tmpfs: Vec::new(),
            privileged: false,
        },
        readiness: Readiness {
            check: ReadinessCheck::Tcp(Vec::new()),
            timeout: DEFAULT_READINESS_TIMEOUT,
        },
        stop_timeout: DEFAULT_STOP_TIMEOUT,
    }
}

/// Reads the mapping.
pub(super) fn container(node: Node<'_>) -> ContainerPlan {
    if let Some(backend) = node.string("backend")
        && backend != "docker"
    {
        node.error("backend", format!("is {backend:?}; only \"docker\" exists"));
    }
    if node.has("existing") {
        return existing::existing(node);
    }
    let user = node.string("user").filter(|user| !user.is_empty());
    let expose_ports = node.parsed_list("expose_ports", ContainerPort::parse);
    let plan = ContainerPlan {
        existing: None,
        image: image(&node),
        pull: node.parsed("pull", parse_pull),
        command: words(&node, "command").unwrap_or_default(),
        entrypoint: words(&node, "entrypoint").filter(|words| !words.is_empty()),
        workdir: node.parsed("workdir", absolute),
        restart: node.parsed("restart", parse_restart).unwrap_or_default(),
        environment: environment(&node),
        secret_environment: node.parsed_list("secret_environment", variable),
        volumes: volumes(&node, user.as_deref()),
        ephemeral: ephemeral(&node),
        limits: limits(&node),
        hardening: hardening(&node, user.as_deref()),
        readiness: readiness(&node, &expose_ports),
        stop_timeout: node.parsed("stop_timeout", parse_duration).unwrap_or(DEFAULT_STOP_TIMEOUT),
        user,
        expose_ports,
    };
    node.finish();
    plan
}

fn image(node: &Node<'_>) -> ImageReference {
    let image = node.required("image");
    let tag = node.string("tag").filter(|tag| !tag.is_empty());
    if !image.is_empty() {
        match ImageReference::parse(&image, tag.as_deref()) {
            Ok(reference) => return reference,
            Err(message) => node.error("image", format!("{image:?} {message}")),
        }
    }
    placeholder().image
}

pub(super) fn parse_pull(text: &str) -> Result<PullPolicy, String> {
    match text {
        "always" => Ok(PullPolicy::Always),
        "missing" | "if-missing" | "true" => Ok(PullPolicy::Missing),
        "never" | "false" => Ok(PullPolicy::Never),
        other => Err(format!("is {other:?}; it must be always, missing or never")),
    }
}

/// Command lines honour quotes as a shell does, or are lists.
pub(super) fn words(node: &Node<'_>, key: &'static str) -> Option<Vec<String>> {
    if node.is_list(key) {
        return node.strings(key);
    }
    node.parsed(key, |line| {
        shell_words::split(line).map_err(|error| format!("{line:?} cannot be split: {error}"))
    })
}

pub(super) fn absolute(path: &str) -> Result<String, String> {
    let clean = path.trim_end_matches('/');
    let parts_ok = clean.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    if clean.starts_with('/') && parts_ok && !clean.contains('\0') {
        Ok(clean.to_owned())
    } else {
        Err(format!("{path:?} must be an absolute path below / without . and .. parts"))
    }
}

fn variable(name: &str) -> Result<String, String> {
    if is_environment_name(name) {
        Ok(name.to_owned())
    } else {
        Err(format!("{name:?} is no environment variable name"))
    }
}

fn parse_restart(text: &str) -> Result<RestartPolicy, String> {
    let (name, retries) = text.split_once(':').map_or((text, None), |(n, r)| (n, Some(r)));
    match (name, retries) {
        // YAML 1.1 turns an unquoted `no` into false.
        ("no" | "false", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        ("on-failure", retries) => retries
            .unwrap_or("0")
            .parse()
            .map(RestartPolicy::OnFailure)
            .map_err(|_| format!("{text:?} must end in a number of retries")),
        _ => Err(format!("is {text:?}; it must be no, always, unless-stopped or on-failure[:N]")),
    }
}

/// `K=V` keeps everything after the first `=`; a mapping is taken as well.
fn environment(node: &Node<'_>) -> Vec<(String, String)> {
    let entries = if node.is_mapping("environment") {
        node.entries("environment").unwrap_or_default()
    } else {
        node.parsed_list("environment", |entry| {
            let (name, value) = entry
                .split_once('=')
                .ok_or_else(|| format!("{entry:?} must have the form NAME=value"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
    };
    for (name, _) in entries.iter().filter(|(name, _)| !is_environment_name(name)) {
        node.error("environment", format!("sets {name:?}, which is no environment variable name"));
    }
    entries
}

/// `true`, or a list of paths.
fn ephemeral(node: &Node<'_>) -> Ephemeral {
    if node.is_list("ephemeral") {
        return Ephemeral::Paths(node.parsed_list("ephemeral", absolute));
    }
    match node.boolean("ephemeral") {
        Some(true) => Ephemeral::Everything,
        Some(false) | None => Ephemeral::default(),
    }
}

fn volumes(node: &Node<'_>, user: Option<&str>) -> Vec<Volume> {
    let owner_of_user = user.and_then(|user| parse_owner(user).ok());
    let legacy = node.parsed_list("persistent_volumes", absolute).into_iter();
    let mut volumes: Vec<Volume> = legacy
        .map(|path| Volume { path, owner: owner_of_user, mode: 0o700, size_bytes: None })
        .collect();
    for entry in node.nodes("volumes") {
        // All keys are read, whatever the path is like: none of them is unknown.
        let volume = Volume {
            path: entry.required("path"),
            owner: entry.parsed("owner", parse_owner).or(owner_of_user),
            mode: entry.parsed("mode", parse_mode).unwrap_or(0o700),
            size_bytes: entry.parsed("size", parse_size),
        };
        if !volume.path.is_empty() {
            match absolute(&volume.path) {
                Ok(path) => volumes.push(Volume { path, ..volume }),
                Err(message) => entry.error("path", message),
            }
        }
        if entry.has("size") {
            entry.warning("size", "is not enforced by this version");
        }
        entry.finish();
    }
    for (index, volume) in volumes.iter().enumerate() {
        for other in &volumes[..index] {
            if nested(&volume.path, &other.path) || nested(&other.path, &volume.path) {
                node.error(
                    "volumes",
                    format!(
                        "{:?} lies in {:?}; volumes must not be nested",
                        volume.path, other.path
                    ),
                );
            }
        }
    }
    if !volumes.is_empty() && user.is_some() && owner_of_user.is_none() {
        node.warning(
            "user",
            "is a name, so directories belong to root unless volumes[].owner says uid:gid",
        );
    }
    volumes
}

/// Whether `inner` is `outer` or lies below it.
pub(super) fn nested(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn limits(node: &Node<'_>) -> Limits {
    let bytes = |node: &Node<'_>, key, min: u64| {
        let bytes = node.parsed(key, parse_size).filter(|bytes| *bytes > 0)?;
        if bytes < min {
            node.error(key, format!("is {bytes} bytes; Docker's minimum is {min}"));
        }
        i64::try_from(bytes).ok()
    };
    let count = |node: &Node<'_>, key, max: u64| {
        node.integer(key, 0, max).filter(|n| *n > 0).and_then(|n| i64::try_from(n).ok())
    };
    let mut limits = Limits {
        memory_bytes: bytes(node, "memory", MIN_MEMORY_BYTES),
        memory_swap_bytes: bytes(node, "memory_swap", MIN_MEMORY_BYTES),
        cpu_shares: count(node, "cpu_shares", 262_144),
        pids: Some(DEFAULT_PIDS),
        ..Limits::default()
    };
    if let Some(entry) = node.node("limits") {
        limits.memory_bytes = bytes(&entry, "memory", MIN_MEMORY_BYTES).or(limits.memory_bytes);
        limits.nano_cpus = entry.parsed("cpus", parse_cpus);
        limits.pids = count(&entry, "pids", 4_194_304).or(limits.pids);
        limits.shm_size_bytes = bytes(&entry, "shm_size", 1);
        limits.nofile = count(&entry, "nofile", 1_048_576);
        entry.finish();
    }
    if limits.memory_swap_bytes.is_none() {
        limits.memory_swap_bytes = limits.memory_bytes;
    }
    if limits.memory_swap_bytes < limits.memory_bytes {
        node.error("memory_swap", "must not be smaller than memory; it is memory plus swap");
    }
    limits
}

fn parse_cpus(text: &str) -> Result<i64, String> {
    let cpus: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of CPUs"))?;
    if !(0.01..=1024.0).contains(&cpus) {
        return Err(format!("is {text}; it must be between 0.01 and 1024 CPUs"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 1024e9, checked above")]
    Ok((cpus * 1e9) as i64)
}

fn hardening(node: &Node<'_>, user: Option<&str>) -> Hardening {
    let entry = node.node("hardening");
    let entry = entry.as_ref();
    let privileged = node.boolean("privileged").unwrap_or(false);
    let root = user.is_none_or(|user| matches!(user.split(':').next(), Some("0" | "root")));
    let capabilities = |key| node.strings(key).unwrap_or_default();
    let mut cap_add = capabilities("cap_adds");
    let mut cap_drop = capabilities("cap_drops");
    if let Some(dropped) = entry.and_then(|entry| entry.strings("cap_drop")) {
        cap_drop.extend(dropped);
    } else {
        // The default: everything goes but what a root entry point needs.
        if root {
            let needed = ROOT_ENTRYPOINT_CAPABILITIES.map(str::to_owned);
            cap_add.extend(needed.into_iter().filter(|cap| !cap_drop.contains(cap)));
        }
        cap_drop.push("ALL".to_owned());
    }
    if let Some(added) = entry.and_then(|entry| entry.strings("cap_add")) {
        cap_add.extend(added);
    }
    let truth = |key, default| entry.and_then(|entry| entry.boolean(key)).unwrap_or(default);
    let hardening = Hardening {
        cap_drop,
        cap_add,
        no_new_privileges: truth("no_new_privileges", true) && !privileged,
        read_only: truth("read_only", false),
        tmpfs: entry.map_or_else(Vec::new, |entry| entry.parsed_list("tmpfs", parse_tmpfs)),
        privileged,
    };
    if privileged {
        node.warning("privileged", "gives the container full access to the machine");
    }
    hardening
}

fn parse_tmpfs(text: &str) -> Result<Tmpfs, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    Ok(Tmpfs { path: absolute(path)?, options: options.to_owned() })
}

/// Ports that are open, or, with `send` and `expect`, one that answers.
fn tcp(node: &Node<'_>) -> Option<ReadinessCheck> {
    let ports = node.parsed_list("tcp", ContainerPort::parse);
    if node.has("send") || node.has("expect") {
        return exchange(node, &ports).map(ReadinessCheck::Exchange);
    }
    Some(ReadinessCheck::Tcp(ports))
}

/// `send` and `expect` for the one port of `tcp`.
pub(super) fn exchange(node: &Node<'_>, ports: &[ContainerPort]) -> Option<Exchange> {
    let (send, expect) = (node.string("send"), node.string("expect"));
    let tls = node.boolean("tls").unwrap_or(false);
    if let Some(Err(error)) =
        send.as_ref().map(|send| crate::credentials::check_template(&send.as_str().into()))
    {
        node.error("send", error.to_string());
    }
    if let (Some(send), Some(expect), [port]) = (send, expect, ports) {
        return Some(Exchange { port: *port, send, expect, tls });
    }
    node.error("send", "and expect belong together, with one port in tcp");
    None
}

pub(super) fn readiness(node: &Node<'_>, published: &[ContainerPort]) -> Readiness {
    let mut check = None;
    let mut timeout = DEFAULT_READINESS_TIMEOUT;
    if let Some(entry) = node.node("readiness") {
        let checks = ["tcp", "exec", "http", "healthcheck"];
        let given: Vec<_> = checks.into_iter().filter(|key| entry.has(key)).collect();
        if given.len() > 1 {
            node.error("readiness", format!("has {}; one check is needed", given.join(" and ")));
        }
        check = match given.first().copied() {
            Some("tcp") => tcp(&entry),
            Some("exec") => words(&entry, "exec").map(ReadinessCheck::Exec),
            Some("http") => entry.node("http").and_then(|http| {
                let port = http.parsed("port", ContainerPort::parse);
                if !http.has("port") {
                    http.error("port", "is missing; it is required");
                }
                let path = http.string("path").unwrap_or_else(|| "/".to_owned());
                http.finish();
                port.map(|port| ReadinessCheck::Http { port, path })
            }),
            Some("healthcheck") => {
                entry.boolean("healthcheck").filter(|on| *on).map(|_| ReadinessCheck::HealthCheck)
            }
            _ => None,
        };
        timeout = entry.parsed("timeout", parse_duration).unwrap_or(timeout);
        entry.finish();
    }
    if let Some(ReadinessCheck::Exec(command)) = &check
        && command.is_empty()
    {
        node.error("readiness.exec", "must name a command");
    }
    let ports = match &check {
        Some(ReadinessCheck::Tcp(ports)) => ports.as_slice(),
        Some(
            ReadinessCheck::Http { port, .. } | ReadinessCheck::Exchange(Exchange { port, .. }),
        ) => std::slice::from_ref(port),
        _ => &[],
    };
    for port in ports {
        if !published.is_empty() && !published.contains(port) {
            node.error("readiness", format!("checks {port}, which is not among expose_ports"));
        }
        if port.protocol != crate::catalog::Protocol::Tcp {
            node.error("readiness", format!("checks {port}; only tcp ports can be checked"));
        }
    }
    Readiness { check: check.unwrap_or(ReadinessCheck::Tcp(Vec::new())), timeout }
}
