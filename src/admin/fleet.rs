//! All instances with what dockerd and the catalog say of them: what an upgrade would change, and
//! whether there can be one.

use std::collections::{BTreeMap, HashMap, btree_map::Entry};

use anyhow::Context;

use super::{
    Site,
    difference::{Change, between},
};
use crate::{
    catalog::{Catalog, ImageReference, Offer},
    docker::ListedContainer,
    lifecycle::{Event, Home, InstanceState, Surveyed, Transition},
};

/// Hexadecimal digits of an image id that people are shown.
const SHORT: usize = 12;
/// How a derived `maintenance_info.version` begins.
const DERIVED: &str = "1.0.0+";
/// Hexadecimal digits behind that.
const DERIVED_DIGITS: usize = 12;

/// One instance.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) instance: Surveyed,
    /// Names for people; of a plan that has left the catalog as it was stored.
    pub(super) service: String,
    pub(super) plan: String,
    /// What dockerd says of its container; `None`: there is none.
    pub(super) container: Option<ListedContainer>,
    /// Image reference of its plan.
    pub(super) image: Option<String>,
    /// The catalog's maintenance version of its plan.
    pub(super) offered: Option<String>,
    /// What an upgrade would change.
    pub(super) changes: Vec<Change>,
    pub(super) standing: Standing,
}

/// How an instance stands to the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    UpToDate,
    /// An upgrade brings it up to date.
    Pending,
    /// It differs, but no upgrade changes that; why.
    Held(String),
    /// There is nothing to upgrade; why.
    Unusable(String),
}

impl Standing {
    /// For scripts.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::UpToDate => "up to date",
            Self::Pending => "pending",
            Self::Held(_) => "held",
            Self::Unusable(_) => "unusable",
        }
    }

    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::UpToDate | Self::Pending => None,
            Self::Held(reason) | Self::Unusable(reason) => Some(reason),
        }
    }
}

impl Member {
    /// `service/plan`, as options say it.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.service, self.plan)
    }

    /// The host of the shared container that it lives in.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.instance.home {
            Home::Shared(host) => Some(host),
            _ => None,
        }
    }
}

impl Site<'_> {
    /// All instances, in the order in which they were made.
    pub(super) async fn fleet(&self) -> anyhow::Result<Vec<Member>> {
        let instances = self.survey().await?;
        let listed = self.engine.list_everything().await;
        let listed = listed.context("the Docker engine cannot be asked for containers")?;
        let by_name: HashMap<String, ListedContainer> =
            listed.into_iter().map(|one| (one.name.clone(), one)).collect();
        let images = self.image_ids(&instances).await?;
        let mut members: Vec<Member> = instances
            .into_iter()
            .map(|instance| {
                let container = instance.container.as_ref().and_then(|name| by_name.get(name));
                member(instance, container.cloned(), self.catalog, &images)
            })
            .collect();
        follow_hosts(&mut members);
        Ok(members)
    }

    /// dockerd's ids of the images that instances should have; those that are not here are missing.
    async fn image_ids(
        &self,
        instances: &[Surveyed],
    ) -> anyhow::Result<BTreeMap<ImageReference, String>> {
        let mut ids = BTreeMap::new();
        for instance in instances {
            let Some(image) = wanted_image(instance, self.catalog.find_plan(&instance.plan_id))
            else {
                continue;
            };
            if let Entry::Vacant(place) = ids.entry(image) {
                let found = self.engine.inspect_image(place.key()).await;
                let found = found.context("the Docker engine cannot be asked for images")?;
                place.insert(found.map(|facts| facts.id).unwrap_or_default());
            }
        }
        ids.retain(|_, id| !id.is_empty());
        Ok(ids)
    }
}

fn wanted_image(instance: &Surveyed, offer: Option<&Offer>) -> Option<ImageReference> {
    let stored = instance.definition.as_ref().map(|definition| &definition.plan);
    let plan = offer.map(|offer| &offer.plan).or(stored)?;
    plan.container.existing.is_none().then(|| plan.container.image.clone())
}

fn member(
    instance: Surveyed,
    container: Option<ListedContainer>,
    catalog: &Catalog,
    images: &BTreeMap<ImageReference, String>,
) -> Member {
    let offer = catalog.find_plan(&instance.plan_id);
    let stored = instance.definition.as_ref();
    let service = offer
        .map(|offer| offer.service.name.clone())
        .or_else(|| stored.map(|stored| stored.service_name.clone()))
        .unwrap_or_else(|| instance.service_id.clone());
    let plan = offer
        .map(|offer| offer.plan.name.clone())
        .or_else(|| stored.map(|stored| stored.plan.name.clone()))
        .unwrap_or_else(|| instance.plan_id.clone());
    let offered = offer.and_then(|offer| offer.plan.maintenance_info.as_ref());
    let offered = offered.map(|info| info.version.clone());
    let mut changes = match (offer, stored) {
        (Some(offer), Some(stored)) => between(&stored.plan, &offer.plan),
        _ => Vec::new(),
    };
    let plan_changes = !changes.is_empty();
    let moved = image_change(&instance, container.as_ref(), offer, images);
    let image_moved = moved.is_some();
    changes.extend(moved);
    let standing =
        standing(&instance, offer.is_some(), offered.as_deref(), plan_changes, image_moved);
    let image = stored.filter(|stored| stored.plan.container.existing.is_none());
    Member {
        image: image.map(|stored| stored.plan.container.image.to_string()),
        instance,
        service,
        plan,
        container,
        offered,
        changes,
        standing,
    }
}

const IMAGE_ID: &str = "image id";

/// A reference that means another image than the container was made of. Containers of guests are
/// looked at with their hosts.
fn image_change(
    instance: &Surveyed,
    container: Option<&ListedContainer>,
    offer: Option<&Offer>,
    images: &BTreeMap<ImageReference, String>,
) -> Option<Change> {
    if !matches!(instance.home, Home::Own | Home::Host) {
        return None;
    }
    let stored = &instance.definition.as_ref()?.plan.container.image;
    let wanted = wanted_image(instance, offer)?;
    let (has, id) = (&container?.image_id, images.get(&wanted)?);
    // Another reference says it all.
    if wanted != *stored || has == id {
        return None;
    }
    let short = |id: &str| Some(id.trim_start_matches("sha256:").chars().take(SHORT).collect());
    Some(Change::shown(IMAGE_ID, short(has), short(id)))
}

fn standing(
    instance: &Surveyed,
    is_offered: bool,
    offered: Option<&str>,
    plan_changes: bool,
    image_moved: bool,
) -> Standing {
    if let Some(damage) = &instance.damage {
        return Standing::Held(damage.clone());
    }
    match instance.state {
        Some(state) if state.on(Event::Update) == Transition::Refused => {
            return Standing::Unusable(state.as_str().to_owned());
        }
        Some(InstanceState::Deprovisioning) => {
            return Standing::Unusable("it is being removed".to_owned());
        }
        _ => {}
    }
    if !is_offered {
        return if image_moved {
            Standing::Held("its plan has left the catalog".to_owned())
        } else {
            Standing::UpToDate
        };
    }
    let Some(offered) = offered else {
        return if plan_changes || image_moved {
            Standing::Held(
                "its plan has no maintenance_info.version by which an upgrade could be asked for"
                    .to_owned(),
            )
        } else {
            Standing::UpToDate
        };
    };
    let has = instance.maintenance.as_deref();
    // Tenants ask for versions alone, and theirs is the present one.
    if instance.home == Home::Host && image_moved && has == Some(offered) {
        return Standing::Held(
            "only the image behind its tag has moved; raise maintenance_info.version in the \
             service file"
                .to_owned(),
        );
    }
    if has != Some(offered) || image_moved || instance.state == Some(InstanceState::UpdateFailed) {
        return Standing::Pending;
    }
    // A derived version says itself whether anything differs that matters.
    if plan_changes && !is_derived(offered) {
        return Standing::Held(format!(
            "its plan has changed, but maintenance_info.version is still {offered}; raise it in \
             the service file"
        ));
    }
    Standing::UpToDate
}

fn is_derived(version: &str) -> bool {
    let digits = version.strip_prefix(DERIVED);
    digits.is_some_and(|digits| {
        digits.len() == DERIVED_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// A tenant whose host is behind is behind as well: its upgrade is what upgrades the host.
fn follow_hosts(members: &mut [Member]) {
    let behind: HashMap<String, Member> = members
        .iter()
        .filter(|one| one.instance.home == Home::Host && one.standing == Standing::Pending)
        .map(|one| (one.instance.id.clone(), one.clone()))
        .collect();
    for member in members.iter_mut() {
        let Some(host) = member.host().and_then(|host| behind.get(host)) else { continue };
        if member.standing == Standing::UpToDate {
            member.standing = Standing::Pending;
        }
        for change in &host.changes {
            if !member.changes.contains(change) {
                member.changes.push(change.clone());
            }
        }
    }
}
