//! `container: {existing: NAME}`: a container that somebody else has made.

use super::{container, node::Node};
use crate::catalog::{ContainerPlan, ContainerPort};

/// Keys that make a container.
const MAKING: [&str; 22] = [
    "image",
    "tag",
    "pull",
    "command",
    "entrypoint",
    "workdir",
    "user",
    "restart",
    "environment",
    "secret_environment",
    "persistent_volumes",
    "volumes",
    "ephemeral",
    "memory",
    "memory_swap",
    "cpu_shares",
    "limits",
    "hardening",
    "cap_adds",
    "cap_drops",
    "privileged",
    "stop_timeout",
];

/// Reads the rest of the mapping.
pub(super) fn existing(node: Node<'_>) -> ContainerPlan {
    let making: Vec<_> = MAKING.into_iter().filter(|key| node.has(key)).collect();
    if !making.is_empty() {
        let keys = making.join(", ");
        node.error(
            "existing",
            format!("goes with nothing that makes a container, as {keys} would"),
        );
    }
    let expose_ports = node.parsed_list("expose_ports", ContainerPort::parse);
    let plan = ContainerPlan {
        existing: node.parsed("existing", name),
        readiness: container::readiness(&node, &expose_ports),
        expose_ports,
        ..container::placeholder()
    };
    node.finish();
    plan
}

/// What Docker takes for a name.
fn name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && text.chars().all(inner) {
        return Ok(text.to_owned());
    }
    Err(format!("is {text:?}; it must be the name of a container"))
}
