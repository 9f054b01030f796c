//! `sanity_test` of a plan: how `docker-broker sanity-test` uses an instance of it.

use super::{
    container::{exchange, words},
    node::Node,
};
use crate::catalog::{ContainerPort, Protocol, SanityTest};

/// Reads the key out of a plan's mapping.
pub(super) fn sanity_test(plan: &Node<'_>) -> SanityTest {
    let Some(node) = plan.node("sanity_test") else { return SanityTest::default() };
    let ports = node.parsed_list("tcp", ContainerPort::parse);
    let other = ports.iter().find(|port| port.protocol != Protocol::Tcp);
    if let Some(port) = other {
        node.error("tcp", format!("is {port}; only tcp ports can be talked to"));
    }
    let talks = node.has("tcp") || node.has("send") || node.has("expect");
    let found = SanityTest {
        parameters: node.json_object("parameters"),
        exchange: talks
            .then(|| exchange(&node, &ports))
            .flatten()
            .filter(|exchange| exchange.port.protocol == Protocol::Tcp),
        exec: words(&node, "exec"),
    };
    if found.exec.as_ref().is_some_and(Vec::is_empty) {
        node.error("exec", "must name a command");
    }
    node.finish();
    found
}
