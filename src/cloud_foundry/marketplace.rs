//! What the platform knows of brokers, their offerings and plans.

use std::collections::BTreeMap;

use super::{
    client::{CloudController, GUIDS_PER_REQUEST},
    error::CfError,
    resources::{Broker, Offering, Plan, Visibility},
};

/// What the platform knows of one broker.
#[derive(Default)]
pub(super) struct Marketplace {
    pub(super) offerings: Vec<Offering>,
    pub(super) plans: Vec<Plan>,
}

impl Marketplace {
    pub(super) async fn of(cc: &CloudController, broker: &str) -> Result<Self, CfError> {
        Ok(Self { offerings: offerings(cc, broker).await?, plans: plans(cc, broker).await? })
    }

    /// What can be ordered, as `service/plan` by the ids of the broker's catalog.
    pub(super) fn orderable(&self) -> BTreeMap<(&str, &str), String> {
        let offered = self.offerings.iter().filter(|offering| offering.available);
        let plans = offered.flat_map(|offering| {
            self.plans_of(offering).map(|plan| {
                let ids = (offering.broker_catalog.id.as_str(), plan.broker_catalog.id.as_str());
                (ids, format!("{}/{}", offering.name, plan.name))
            })
        });
        plans.collect()
    }

    pub(super) fn plans_of<'a>(&'a self, offering: &'a Offering) -> impl Iterator<Item = &'a Plan> {
        self.plans.iter().filter(|plan| {
            plan.available && plan.relationships.service_offering.data.guid == offering.guid
        })
    }

    pub(super) fn offered(&self) -> Vec<&Offering> {
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
async fn offerings(cc: &CloudController, broker: &str) -> Result<Vec<Offering>, CfError> {
    let query = [("service_broker_guids", broker)];
    Ok(cc.list("list the service offerings", "/service_offerings", &query).await?.0)
}

/// CAPI v3 "List service plans".
async fn plans(cc: &CloudController, broker: &str) -> Result<Vec<Plan>, CfError> {
    let query = [("service_broker_guids", broker)];
    Ok(cc.list("list the service plans", "/service_plans", &query).await?.0)
}

/// Names of these services that other brokers offer as well, with the guids of those brokers.
pub(super) async fn offered_by_others(
    cc: &CloudController,
    broker: &str,
    names: &[String],
) -> Result<Vec<String>, CfError> {
    let mut found = Vec::new();
    for piece in in_pieces(names) {
        let query = [("names", piece.as_str())];
        let (offerings, _) =
            cc.list::<Offering>("list the service offerings", "/service_offerings", &query).await?;
        let others = offerings
            .into_iter()
            .filter(|one| one.available && one.relationships.service_broker.data.guid != broker);
        found.extend(others.map(|one| one.name));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// CAPI v3 "Get a service plan visibility". What the list of plans says is enough, unless it
/// is about organizations.
pub(super) async fn visibility(cc: &CloudController, plan: &Plan) -> Result<Visibility, CfError> {
    if plan.visibility_type == "organization" {
        let path = format!("/service_plans/{}/visibility", plan.guid);
        return cc.get("read the access to a plan", &path).await;
    }
    Ok(Visibility { kind: plan.visibility_type.clone(), organizations: Vec::new() })
}

/// Lists of guids as the API takes them, in pieces.
pub(super) fn in_pieces(guids: &[String]) -> impl Iterator<Item = String> {
    guids.chunks(GUIDS_PER_REQUEST).map(|piece| piece.join(","))
}
