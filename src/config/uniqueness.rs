//! What must hold across all services of a configuration.

use std::collections::HashMap;

use super::problems::Problems;
use crate::catalog::Service;

/// Reports ids and names that occur twice. `places[i]` is the path of `services[i]`.
pub(super) fn check(services: &[Service], places: &[String], problems: &Problems) {
    let mut ids: HashMap<&str, String> = HashMap::new();
    let mut names: HashMap<&str, &str> = HashMap::new();
    for (service, place) in services.iter().zip(places) {
        unique(&mut ids, &service.id, format!("{place}.id"), problems);
        if !service.name.is_empty()
            && let Some(first) = names.insert(&service.name, place)
        {
            problems.error(
                format!("{place}.name"),
                format!("is {:?}, the name of {first} as well; names must be unique", service.name),
            );
        }
        let mut plan_names: HashMap<&str, usize> = HashMap::new();
        for (index, plan) in service.plans.iter().enumerate() {
            unique(&mut ids, &plan.id, format!("{place}.plans[{index}].id"), problems);
            if !plan.name.is_empty()
                && let Some(first) = plan_names.insert(&plan.name, index)
            {
                problems.error(
                    format!("{place}.plans[{index}].name"),
                    format!("is {:?}, the name of plans[{first}] as well", plan.name),
                );
            }
        }
    }
}

fn unique<'a>(ids: &mut HashMap<&'a str, String>, id: &'a str, place: String, problems: &Problems) {
    if id.is_empty() {
        return;
    }
    if let Some(first) = ids.get(id) {
        problems.error(
            place,
            format!("is {id:?}, the id at {first} as well; ids of services and plans are unique"),
        );
    } else {
        ids.insert(id, place);
    }
}
