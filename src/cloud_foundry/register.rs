//! Makes the platform know the broker.

use std::io::Write;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use super::{
    access::{access, give_access},
    catalog::own_catalog,
    client::{Ask, CloudController, JOB_LIMIT},
    error::CfError,
    marketplace::{Marketplace, brokers, offered_by_others},
    plan::{BrokerChange, OwnService, find_ours, left_the_catalog, plan_broker},
    preview::preview,
    resources::Broker,
    settings::Settings,
};

/// Between two attempts while another job of the platform is at work on the broker.
const BUSY_PAUSE: Duration = Duration::from_secs(2);

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
    let cc = CloudController::connect(settings, login).await?;
    let access = access(&cc, settings).await?;
    let broker = &settings.broker;
    writeln!(out, "Registering broker {} at {} as {}", broker.name, broker.url, cc.user())?;
    let own = match own_catalog(settings).await? {
        Ok(own) => Some(own),
        Err(problem) => {
            // The platform may reach it nevertheless, and has the last word.
            writeln!(out, "Warning: the broker does not show its catalog to this VM: {problem}")?;
            None
        }
    };
    let known = brokers(&cc).await?;
    let before = match find_ours(&broker.name, &broker.url, &known) {
        Some(found) => Marketplace::of(&cc, &found.guid).await?,
        None => Marketplace::default(),
    };
    let change = plan_broker(&broker.name, &broker.url, broker.take_over, &known)
        .map_err(CfError::NotOurs)?;
    describe(&change, &broker.name, out)?;
    if dry_run {
        return preview(&cc, &change, &before, own.as_deref(), &access, out).await;
    }
    let plain = BrokerChange::Update { guid: guid_of(&change), old_name: None, old_url: None };
    let changed = change != plain;
    let guid = apply(&cc, settings, change, out).await?;
    writeln!(out, "OK")?;
    let after = Marketplace::of(&cc, &guid).await?;
    complain_about_missing(settings, own.as_deref(), &after)?;
    let given = give_access(&cc, &after, &access, out).await?;
    report_gone(&before, &after, out)?;
    report_twins(&cc, &guid, &after, out).await?;
    if changed || given || after.orderable() != before.orderable() {
        writeln!(out, "{} is registered.", broker.name)?;
    } else {
        writeln!(out, "Nothing had to be changed: {} was registered already.", broker.name)?;
    }
    Ok(())
}

fn guid_of(change: &BrokerChange) -> String {
    match change {
        BrokerChange::Create => String::new(),
        BrokerChange::Update { guid, .. } => guid.clone(),
    }
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
    let end = Instant::now() + JOB_LIMIT;
    let mut guid = match change {
        BrokerChange::Create => None,
        BrokerChange::Update { guid, .. } => Some(guid),
    };
    loop {
        let ask = match &guid {
            None => Ask {
                verb: "create the broker",
                method: Method::POST,
                url: cc.url("/service_brokers", &[]),
                body: Some(body.clone()),
            },
            Some(guid) => Ask {
                verb: "update the broker",
                method: Method::PATCH,
                url: cc.url(&format!("/service_brokers/{guid}"), &[]),
                body: Some(body.clone()),
            },
        };
        let error = match cc.change(&ask).await {
            Ok(warnings) => {
                for warning in warnings {
                    writeln!(out, "Warning: {}", warning.trim_start_matches("Warning:").trim())?;
                }
                break;
            }
            Err(error) => error,
        };
        let CfError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, errors, .. } = &error
        else {
            return Err(error);
        };
        let busy = errors.iter().any(|text| text.contains("operation is already in progress"));
        if guid.is_some() && busy && Instant::now() < end {
            // The job of an attempt whose answer was lost, or of somebody else.
            sleep(BUSY_PAUSE).await;
        } else if guid.is_none()
            && let Some(made) = find(cc, &broker.name).await?
        {
            // It was not there before: an attempt whose answer was lost has made it.
            guid = Some(made.guid);
        } else {
            return Err(error);
        }
    }
    match guid {
        Some(guid) => Ok(guid),
        None => {
            find(cc, &broker.name).await?.map(|made| made.guid).ok_or_else(|| CfError::Malformed {
                verb: "create the broker".to_owned(),
                problem: "it is not in the list of brokers afterwards".to_owned(),
            })
        }
    }
}

async fn find(cc: &CloudController, name: &str) -> Result<Option<Broker>, CfError> {
    Ok(brokers(cc).await?.into_iter().find(|one| one.name == name))
}

/// A broker that is registered without its services is of no use to anybody.
fn complain_about_missing(
    settings: &Settings,
    own: Option<&[OwnService]>,
    after: &Marketplace,
) -> Result<(), CfError> {
    let taken =
        |id: &str| after.offerings.iter().any(|one| one.available && one.broker_catalog.id == id);
    let services: Vec<String> = own
        .into_iter()
        .flatten()
        .filter(|service| !taken(&service.id))
        .map(|service| service.name.clone())
        .collect();
    if services.is_empty() {
        return Ok(());
    }
    Err(CfError::NotTaken { services, url: settings.broker.url.clone() })
}

fn report_gone(
    before: &Marketplace,
    after: &Marketplace,
    out: &mut impl Write,
) -> Result<(), CfError> {
    let kept = left_the_catalog(&after.offerings, &after.plans);
    for plan in &kept {
        writeln!(
            out,
            "Plan {plan} is no longer in the catalog; it stays for its instances and cannot be \
             ordered"
        )?;
    }
    let now = after.orderable();
    for (ids, plan) in before.orderable() {
        if !now.contains_key(&ids) && !kept.contains(&plan) {
            writeln!(out, "Plan {plan} is no longer in the catalog and is gone")?;
        }
    }
    Ok(())
}

/// The platform allows it, and its users have to say which one they mean.
async fn report_twins(
    cc: &CloudController,
    guid: &str,
    after: &Marketplace,
    out: &mut impl Write,
) -> Result<(), CfError> {
    let names: Vec<String> = after.offered().iter().map(|one| one.name.clone()).collect();
    for name in offered_by_others(cc, guid, &names).await? {
        writeln!(
            out,
            "Warning: another broker offers a service named {name} as well; cf create-service needs \
             -b then, until one of them has another name or is deregistered"
        )?;
    }
    Ok(())
}
