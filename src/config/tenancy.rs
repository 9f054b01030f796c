//! `tenancy` and `max_instances_per_container` of a plan.

use super::node::Node;
use crate::catalog::{Parameters, Plan, Tenancy};

/// Reads the keys out of a plan's mapping.
pub(super) fn tenancy(plan: &Node<'_>) -> Option<Tenancy> {
    let shared = plan.parsed("tenancy", |text| match text {
        "shared" => Ok(true),
        "dedicated" => Ok(false),
        other => Err(format!("is {other:?}; it must be shared or dedicated")),
    });
    let most = plan.integer("max_instances_per_container", 1, 10_000);
    if shared != Some(true) {
        if most.is_some() {
            plan.error("max_instances_per_container", "needs tenancy: shared");
        }
        return None;
    }
    if !plan.has("max_instances_per_container") {
        plan.error("max_instances_per_container", "is missing; tenancy: shared needs it");
    }
    let max_instances = u32::try_from(most.unwrap_or(1)).unwrap_or(1);
    Some(Tenancy { max_instances })
}

/// What a plan of shared containers needs and cannot have.
pub(super) fn check_shared(node: &Node<'_>, plan: &Plan) {
    if plan.tenancy.is_none() {
        return;
    }
    let hooks = &plan.lifecycle;
    if hooks.provision.is_none() || hooks.deprovision.is_none() {
        let message = "needs provision and deprovision with tenancy: shared: they make and drop \
                       what belongs to one instance";
        node.error("lifecycle", message);
    }
    if plan.container.existing.is_some() {
        node.error("tenancy", "is for containers that the broker makes; existing is another way");
    }
    if matches!(&plan.parameters, Parameters::Declared(names) if !names.is_empty()) {
        node.error("parameters", "become no environment with tenancy: shared; hooks read them");
    }
}
