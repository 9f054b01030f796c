//! Makes the platform know the broker, and gives access to its plans.

use std::{collections::BTreeMap, io::Write};

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{
    client::{Ask, CloudController, GUIDS_PER_REQUEST},
    error::CfError,
    plan::{
        Access, AccessChange, BrokerChange, OwnCatalog, left_the_catalog, plan_access, plan_broker,
    },
    resources::{Broker, Offering, Organization, Plan, Visibility},
    settings::{ServiceAccess, Settings},
    tls,
};

/// Registers the broker, or brings its registration up to date. With `dry_run` only says what it
/// would do. The transcript goes to `out`.
///
/// # Errors
/// [`CfError`]; what was done until then stays, and the next run goes on from there.
pub async fn register(
    settings: &Settings,
    dry_run: bool,
    out: &mut (impl Write + Send),
) -> Result<(), CfError> {
    let login = settings.login().map_err(CfError::NotOurs)?;
    let own = own_catalog(settings).await?;
    let cc = CloudController::connect(&settings.cf, login).await?;
    let access = access(&cc, settings).await?;
    let broker = &settings.broker;
    writeln!(out, "Registering broker {} at {} as {}", broker.name, broker.url, cc.user())?;
    let known = brokers(&cc).await?;
    let same = known
        .iter()
        .find(|one| one.name == broker.name)
        .or_else(|| known.iter().find(|one| one.url.trim_end_matches('/') == broker.url));
    let before = match same {
        Some(found) => Marketplace::of(&cc, &found.guid).await?,
        None => Marketplace::default(),
    };
    let change = plan_broker(&broker.name, &broker.url, &own, &known, &before.offerings)
        .map_err(CfError::NotOurs)?;
    describe(&change, &broker.name, out)?;
    if dry_run {
        return preview(&cc, &change, &before, &own, &access, out).await;
    }
    let changed = matches!(
        change,
        BrokerChange::Create
            | BrokerChange::Update { old_name: Some(_), .. }
            | BrokerChange::Update { old_url: Some(_), .. }
    );
    let guid = apply(&cc, settings, change, out).await?;
    writeln!(out, "OK")?;
    let after = Marketplace::of(&cc, &guid).await?;
    let given = give_access(&cc, &after, &access, out).await?;
    report_gone(&after, out)?;
    if changed || given || after.names() != before.names() {
        writeln!(out, "{} is registered.", broker.name)?;
    } else {
        writeln!(out, "Nothing had to be changed: {} was registered already.", broker.name)?;
    }
    Ok(())
}

/// What the platform knows of one broker.
#[derive(Default)]
struct Marketplace {
    offerings: Vec<Offering>,
    plans: Vec<Plan>,
}

impl Marketplace {
    async fn of(cc: &CloudController, broker: &str) -> Result<Self, CfError> {
        Ok(Self { offerings: offerings(cc, broker).await?, plans: plans(cc, broker).await? })
    }

    /// What can be ordered: offerings with their plans, by name.
    fn names(&self) -> BTreeMap<&str, Vec<&str>> {
        let offered = self.offerings.iter().filter(|offering| offering.available);
        offered
            .map(|offering| {
                let mut plans: Vec<_> =
                    self.plans_of(offering).map(|plan| plan.name.as_str()).collect();
                plans.sort_unstable();
                (offering.name.as_str(), plans)
            })
            .collect()
    }

    fn plans_of<'a>(&'a self, offering: &'a Offering) -> impl Iterator<Item = &'a Plan> {
        self.plans.iter().filter(|plan| {
            plan.available && plan.relationships.service_offering.data.guid == offering.guid
        })
    }

    fn offered(&self) -> Vec<&Offering> {
        let mut offered: Vec<_> =
            self.offerings.iter().filter(|offering| offering.available).collect();
        offered.sort_by(|a, b| a.name.cmp(&b.name));
        offered
    }
}

/// CAPI v3 "List service brokers".
pub(super) async fn brokers(cc: &CloudController) -> Result<Vec<Broker>, CfError> {
    Ok(cc.list("list the brokers", "/service_brokers", &[]).await?.0)
}

/// CAPI v3 "List service offerings".
pub(super) async fn offerings(
    cc: &CloudController,
    broker: &str,
) -> Result<Vec<Offering>, CfError> {
    let query = [("service_broker_guids", broker)];
    Ok(cc.list("list the service offerings", "/service_offerings", &query).await?.0)
}

/// CAPI v3 "List service plans".
pub(super) async fn plans(cc: &CloudController, broker: &str) -> Result<Vec<Plan>, CfError> {
    let query = [("service_broker_guids", broker)];
    Ok(cc.list("list the service plans", "/service_plans", &query).await?.0)
}

/// CAPI v3 "List organizations".
async fn access(cc: &CloudController, settings: &Settings) -> Result<Access, CfError> {
    let names = &settings.cf.organizations;
    let mut organizations: Vec<Organization> = Vec::new();
    for name in names {
        // One by one, because a name may hold a comma.
        let escaped = name.replace(',', "%2C");
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

/// The broker's own catalog, as the platform will read it.
async fn own_catalog(settings: &Settings) -> Result<OwnCatalog, CfError> {
    let broker = &settings.broker;
    let failed = |problem: String| CfError::Catalog { url: broker.url.clone(), problem };
    let asked = tls::client(&settings.cf)?
        .get(format!("{}/v2/catalog", broker.url))
        .basic_auth(&broker.username, Some(&broker.password))
        .header("X-Broker-API-Version", "2.17")
        .header(header::ACCEPT, "application/json")
        .send()
        .await;
    let answer = asked.map_err(|source| CfError::Unreachable {
        who: "the broker",
        url: broker.url.clone(),
        source,
    })?;
    let status = answer.status();
    if status == StatusCode::UNAUTHORIZED {
        return Err(failed(
            "it refuses the user and password that the registrar has; deploy both with the same \
             ones"
                .to_owned(),
        ));
    }
    if !status.is_success() {
        return Err(failed(format!("it answers {status}")));
    }
    let bytes = answer.bytes().await.map_err(|error| failed(error.to_string()))?;
    let catalog: Value = serde_json::from_slice(&bytes)
        .map_err(|_| failed("its answer is no catalog; is this the URL of a broker?".to_owned()))?;
    let services = catalog["services"].as_array();
    let services = services.ok_or_else(|| failed("its answer is no catalog".to_owned()))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(services.iter().map(|one| (text(&one["id"]), text(&one["name"]))).collect())
}

fn describe(change: &BrokerChange, name: &str, out: &mut impl Write) -> Result<(), CfError> {
    match change {
        BrokerChange::Create => {
            writeln!(out, "Service broker '{name}' does not exist - creating broker")?;
        }
        BrokerChange::Update { old_name, old_url, .. } => {
            writeln!(out, "Service broker '{name}' already exists - updating broker")?;
            if let Some(old) = old_name {
                writeln!(out, "It was registered under the name {old}")?;
            }
            if let Some(old) = old_url {
                writeln!(out, "It was registered at {old}")?;
            }
        }
    }
    Ok(())
}

/// CAPI v3 "Create a service broker", "Update a service broker". The broker's id.
async fn apply(
    cc: &CloudController,
    settings: &Settings,
    change: BrokerChange,
    out: &mut impl Write,
) -> Result<String, CfError> {
    let broker = &settings.broker;
    let body = json!({
        "name": broker.name,
        "url": broker.url,
        "authentication": {
            "type": "basic",
            "credentials": { "username": broker.username, "password": broker.password },
        },
    });
    let ask = match &change {
        BrokerChange::Create => Ask {
            verb: "create the broker",
            method: Method::POST,
            url: cc.url("/service_brokers", &[]),
            body: Some(body),
        },
        BrokerChange::Update { guid, .. } => Ask {
            verb: "update the broker",
            method: Method::PATCH,
            url: cc.url(&format!("/service_brokers/{guid}"), &[]),
            body: Some(body),
        },
    };
    let warnings = match cc.change(&ask).await {
        // An attempt that seemed to fail may have made it; its successor is refused then.
        Err(CfError::Refused { status, errors, .. })
            if change == BrokerChange::Create
                && status == StatusCode::UNPROCESSABLE_ENTITY
                && find(cc, &broker.name).await?.is_some() =>
        {
            writeln!(out, "It was created meanwhile: {}", errors.join("; "))?;
            Vec::new()
        }
        other => other?,
    };
    for warning in warnings {
        writeln!(out, "Warning: {warning}")?;
    }
    if let BrokerChange::Update { guid, .. } = change {
        return Ok(guid);
    }
    find(cc, &broker.name).await?.map(|one| one.guid).ok_or_else(|| CfError::Malformed {
        verb: "create the broker".to_owned(),
        problem: "it is not in the list of brokers afterwards".to_owned(),
    })
}

async fn find(cc: &CloudController, name: &str) -> Result<Option<Broker>, CfError> {
    Ok(brokers(cc).await?.into_iter().find(|one| one.name == name))
}

/// Whether anything was changed.
async fn give_access(
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

/// CAPI v3 "Get a service plan visibility". What the list of plans says is enough, unless it
/// is about organizations.
async fn visibility(cc: &CloudController, plan: &Plan) -> Result<Visibility, CfError> {
    if plan.visibility_type == "organization" {
        let path = format!("/service_plans/{}/visibility", plan.guid);
        return cc.get("read the access to a plan", &path).await;
    }
    Ok(Visibility { kind: plan.visibility_type.clone(), organizations: Vec::new() })
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

/// As the cf command line says it, because scripts look for it.
fn access_line(service: &str, access: &Access, user: &str) -> Option<String> {
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

fn report_gone(market: &Marketplace, out: &mut impl Write) -> Result<(), CfError> {
    for plan in left_the_catalog(&market.offerings, &market.plans) {
        writeln!(
            out,
            "Plan {plan} is no longer in the catalog; it stays for its instances and cannot be \
             ordered"
        )?;
    }
    Ok(())
}

/// What a run would do.
async fn preview(
    cc: &CloudController,
    change: &BrokerChange,
    market: &Marketplace,
    own: &OwnCatalog,
    access: &Access,
    out: &mut impl Write,
) -> Result<(), CfError> {
    writeln!(out, "Dry run: nothing is changed. A run would")?;
    match change {
        BrokerChange::Create => {
            writeln!(out, "  create the broker")?;
        }
        BrokerChange::Update { .. } => {
            writeln!(out, "  send its URL and login, and read its catalog")?;
        }
    }
    let known = |id: &str| market.offerings.iter().find(|one| one.broker_catalog.id == id);
    for (_, name) in own.iter().filter(|(id, _)| known(id).is_none()) {
        writeln!(out, "  add service {name}")?;
        if let Some(line) = access_line(name, access, cc.user()) {
            writeln!(out, "  {line}")?;
        }
    }
    for offering in market.offered() {
        if !own.iter().any(|(id, _)| *id == offering.broker_catalog.id) {
            writeln!(out, "  take service {} out of the marketplace", offering.name)?;
            continue;
        }
        for plan in market.plans_of(offering) {
            let name = format!("{}/{}", offering.name, plan.name);
            let change = match plan_access(&visibility(cc, plan).await?, access) {
                AccessChange::Keep => continue,
                AccessChange::KeepMore(more) => format!("leave {name}: {more}"),
                AccessChange::Public => format!("open {name} to all organizations"),
                AccessChange::Admin => format!("close {name} to all organizations"),
                AccessChange::Add(guids) => {
                    format!("open {name} to {} more organizations", guids.len())
                }
                AccessChange::Replace(guids) => {
                    format!("open {name} to {} organizations and no others", guids.len())
                }
            };
            writeln!(out, "  {change}")?;
        }
    }
    Ok(())
}

/// Lists of guids as the API takes them, in pieces.
pub(super) fn in_pieces(guids: &[String]) -> impl Iterator<Item = String> {
    guids.chunks(GUIDS_PER_REQUEST).map(|piece| piece.join(","))
}
