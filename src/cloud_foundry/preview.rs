//! `--dry-run`: what a run would do.

use std::{collections::BTreeMap, io::Write};

use super::{
    access::access_line,
    client::CloudController,
    error::CfError,
    marketplace::{Marketplace, visibility},
    plan::{Access, AccessChange, BrokerChange, OwnService, plan_access},
};

/// What a run would do.
pub(super) async fn preview(
    cc: &CloudController,
    change: &BrokerChange,
    market: &Marketplace,
    own: Option<&[OwnService]>,
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
    let orderable = market.orderable();
    match own {
        Some(own) => catalog(own, &orderable, access, cc.user(), out)?,
        None => writeln!(out, "  add and remove what its catalog says, which cannot be read here")?,
    }
    let stays = |service: &str, plan: &str| {
        own.is_none_or(|own| {
            own.iter().any(|one| one.id == service && one.plans.iter().any(|(id, _)| id == plan))
        })
    };
    for offering in market.offered() {
        for plan in market.plans_of(offering) {
            let name = format!("{}/{}", offering.name, plan.name);
            if !stays(&offering.broker_catalog.id, &plan.broker_catalog.id) {
                writeln!(out, "  take {name} out of the marketplace")?;
                continue;
            }
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

/// What the catalog has and the marketplace has not, and what changes its name.
fn catalog(
    own: &[OwnService],
    orderable: &BTreeMap<(&str, &str), String>,
    access: &Access,
    user: &str,
    out: &mut impl Write,
) -> Result<(), CfError> {
    for service in own {
        let mut is_new = false;
        for (id, plan) in &service.plans {
            let name = format!("{}/{plan}", service.name);
            match orderable.get(&(service.id.as_str(), id.as_str())) {
                None => {
                    is_new = true;
                    writeln!(out, "  add {name}")?;
                }
                Some(known) if *known != name => writeln!(out, "  rename {known} to {name}")?,
                Some(_) => {}
            }
        }
        if is_new && let Some(line) = access_line(&service.name, access, user) {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}
