//! Makes the platform forget the broker.

use std::{collections::BTreeMap, io::Write};

use reqwest::Method;

use super::{
    client::{Ask, CloudController},
    error::CfError,
    marketplace::{Marketplace, brokers, in_pieces},
    plan::find_ours,
    resources::Instance,
    settings::Settings,
};

/// Deregisters the broker, unless there are instances. With `purge: true` the platform forgets
/// those first. With `dry_run` only says what it would do.
///
/// # Errors
/// [`CfError::Instances`] names what is there; any other [`CfError`].
pub async fn deregister(
    settings: &Settings,
    dry_run: bool,
    out: &mut (impl Write + Send),
) -> Result<(), CfError> {
    let login = settings.login().map_err(CfError::NotOurs)?;
    let cc = CloudController::connect(settings, login).await?;
    writeln!(out, "Deregistering broker {} as {}", settings.broker.name, cc.user())?;
    let (name, url) = (&settings.broker.name, &settings.broker.url);
    let known = brokers(&cc).await?;
    let Some(broker) = find_ours(name, url, &known) else {
        writeln!(out, "Service broker '{name}' does not exist - nothing to do")?;
        return Ok(());
    };
    if broker.relationships.space.is_some()
        || broker.name != *name
        || broker.url.trim_end_matches('/') != url
    {
        let owner = if broker.relationships.space.is_some() { ", by a space," } else { "" };
        return Err(CfError::NotOurs(format!(
            "the broker {} is registered{owner} at {}, and not {name} at {url}; run \
             broker-registrar first if it is this one",
            broker.name, broker.url
        )));
    }
    let market = Marketplace::of(&cc, &broker.guid).await?;
    let counts = instances(&cc, &market).await?;
    if !settings.purge && !counts.is_empty() {
        return Err(CfError::Instances { counts });
    }
    if dry_run {
        writeln!(out, "Dry run: nothing is changed. A run would")?;
        for count in &counts {
            writeln!(out, "  forget {count}")?;
        }
        writeln!(out, "  delete the broker")?;
        return Ok(());
    }
    if settings.purge {
        for offering in &market.offerings {
            writeln!(out, "Purging service {}...", offering.name)?;
            // CAPI v3 "Delete a service offering".
            let url =
                cc.url(&format!("/service_offerings/{}", offering.guid), &[("purge", "true")]);
            let verb = "purge a service offering";
            cc.change(&Ask { verb, method: Method::DELETE, url, body: None }).await?;
            writeln!(out, "OK")?;
        }
    }
    writeln!(out, "Deleting service broker {name} as {}...", cc.user())?;
    // CAPI v3 "Delete a service broker".
    let url = cc.url(&format!("/service_brokers/{}", broker.guid), &[]);
    let verb = "delete the broker";
    for warning in cc.change(&Ask { verb, method: Method::DELETE, url, body: None }).await? {
        writeln!(out, "Warning: {warning}")?;
    }
    writeln!(out, "OK")?;
    if !counts.is_empty() {
        writeln!(out, "Cloud Foundry has forgotten:")?;
        for count in &counts {
            writeln!(out, "  {count}")?;
        }
        writeln!(
            out,
            "Their containers run on, and their data stays on the VM of job docker-broker, until \
             they are deprovisioned there (docs/cloud-foundry.md, \"After a purge\")"
        )?;
    }
    Ok(())
}

/// Instances of the broker: how many of which service in which space. CAPI v3 "List service
/// instances".
async fn instances(cc: &CloudController, market: &Marketplace) -> Result<Vec<String>, CfError> {
    let Marketplace { offerings, plans } = market;
    let guids: Vec<String> = plans.iter().map(|plan| plan.guid.clone()).collect();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for piece in in_pieces(&guids) {
        let query = [
            ("type", "managed"),
            ("service_plan_guids", piece.as_str()),
            ("fields[space]", "guid,name,relationships.organization"),
            ("fields[space.organization]", "guid,name"),
        ];
        let (found, included) =
            cc.list::<Instance>("list the service instances", "/service_instances", &query).await?;
        for instance in found {
            let plan = &instance.relationships.service_plan.data.guid;
            let service = plans
                .iter()
                .find(|known| known.guid == *plan)
                .and_then(|known| {
                    let guid = &known.relationships.service_offering.data.guid;
                    offerings.iter().find(|offering| offering.guid == *guid)
                })
                .map_or_else(|| "?".to_owned(), |offering| offering.name.clone());
            let guid = &instance.relationships.space.data.guid;
            let space = included.spaces.iter().find(|space| space.guid == *guid).map_or_else(
                || format!("space {guid}"),
                |space| {
                    let org = &space.relationships.organization.data.guid;
                    let org = included.organizations.iter().find(|known| known.guid == *org);
                    let org = org.map_or("?", |known| known.name.as_str());
                    format!("space {} of org {org}", space.name)
                },
            );
            *counts.entry((service, space)).or_default() += 1;
        }
    }
    Ok(counts
        .into_iter()
        .map(|((service, space), count)| {
            let instances = if count == 1 { "instance" } else { "instances" };
            format!("{count} {instances} of {service} in {space}")
        })
        .collect())
}
