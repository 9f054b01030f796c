//! Who may order the plans.

use std::io::Write;

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    client::{Ask, CloudController},
    error::CfError,
    marketplace::{Marketplace, visibility},
    plan::{Access, AccessChange, plan_access},
    resources::Organization,
    settings::{ServiceAccess, Settings},
};

/// CAPI v3 "List organizations".
pub(super) async fn access(cc: &CloudController, settings: &Settings) -> Result<Access, CfError> {
    let names = &settings.cf.organizations;
    let mut organizations: Vec<Organization> = Vec::new();
    for name in names {
        // One by one, because a name may hold a comma; each value is unescaped once more there.
        let escaped = name.replace('%', "%25").replace(',', "%2C");
        let query = [("names", escaped.as_str())];
        let (found, _) =
            cc.list::<Organization>("list the organizations", "/organizations", &query).await?;
        let exact = found.into_iter().find(|one| one.name.eq_ignore_ascii_case(name));
        organizations.push(exact.ok_or_else(|| CfError::NoOrganization(name.clone()))?);
    }
    Ok(Access {
        service_access: settings.cf.service_access,
        organizations,
        remove_access: settings.cf.remove_access,
    })
}

/// Whether anything was changed.
pub(super) async fn give_access(
    cc: &CloudController,
    market: &Marketplace,
    access: &Access,
    out: &mut impl Write,
) -> Result<bool, CfError> {
    let mut changed = false;
    for offering in market.offered() {
        let Some(line) = access_line(&offering.name, access, cc.user()) else { continue };
        writeln!(out, "{line}")?;
        for plan in market.plans_of(offering) {
            let path = format!("/service_plans/{}/visibility", plan.guid);
            let change = plan_access(&visibility(cc, plan).await?, access);
            if let AccessChange::KeepMore(more) = &change {
                writeln!(
                    out,
                    "Plan {}: {more}; set cf.remove_access: true to take it away",
                    plan.name
                )?;
            }
            let Some((method, body)) = request(&change) else { continue };
            let url = cc.url(&path, &[]);
            let verb = "change the access to a plan";
            cc.change(&Ask { verb, method, url, body: Some(body) }).await?;
            changed = true;
        }
        writeln!(out, "OK")?;
    }
    if access.service_access == ServiceAccess::Manual {
        writeln!(out, "Access to the services is left as it is (cf.service_access: manual)")?;
    }
    Ok(changed)
}

/// CAPI v3 "Update a service plan visibility" (replaces), "Apply a service plan visibility" (adds).
fn request(change: &AccessChange) -> Option<(Method, Value)> {
    let organizations = |guids: &[String]| {
        let list: Vec<_> = guids.iter().map(|guid| json!({ "guid": guid })).collect();
        json!({ "type": "organization", "organizations": list })
    };
    match change {
        AccessChange::Keep | AccessChange::KeepMore(_) => None,
        AccessChange::Public => Some((Method::PATCH, json!({ "type": "public" }))),
        AccessChange::Admin => Some((Method::PATCH, json!({ "type": "admin" }))),
        AccessChange::Add(guids) => Some((Method::POST, organizations(guids))),
        AccessChange::Replace(guids) => Some((Method::PATCH, organizations(guids))),
    }
}

/// As the cf command line has said it up to version 6, because scripts look for it.
pub(super) fn access_line(service: &str, access: &Access, user: &str) -> Option<String> {
    let names: Vec<&str> = access.organizations.iter().map(|org| org.name.as_str()).collect();
    match (access.service_access, names.as_slice()) {
        (ServiceAccess::Manual, _) => None,
        (ServiceAccess::Disable, _) => Some(format!(
            "Disabling access to all plans of service {service} for all orgs as {user}..."
        )),
        (ServiceAccess::Enable, []) => Some(format!(
            "Enabling access to all plans of service {service} for all orgs as {user}..."
        )),
        (ServiceAccess::Enable, [one]) => Some(format!(
            "Enabling access to all plans of service {service} for the org {one} as {user}..."
        )),
        (ServiceAccess::Enable, several) => Some(format!(
            "Enabling access to all plans of service {service} for the orgs {} as {user}...",
            several.join(", ")
        )),
    }
}
