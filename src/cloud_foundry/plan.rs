//! From what is to what should be: pure, without I/O.

use std::collections::BTreeSet;

use super::{
    resources::{Broker, Offering, Organization, Plan, Visibility},
    settings::ServiceAccess,
};

/// Ids and names of the services in the broker's own catalog.
pub type OwnCatalog = Vec<(String, String)>;

/// What has to be done about the broker itself.
#[derive(Debug, PartialEq, Eq)]
pub enum BrokerChange {
    /// It is not known yet.
    Create,
    /// It is known. Its URL and login are sent again in any case: the platform tells nobody what
    /// login it has, and reads the catalog only then.
    Update {
        /// Its id.
        guid: String,
        /// Its name, if that changes.
        old_name: Option<String>,
        /// Its URL, if that changes.
        old_url: Option<String>,
    },
}

/// Decides what to do about the broker `name` at `url`. `known` are all brokers of the platform,
/// `offered` the ids in the catalog of the known broker of that name.
///
/// # Errors
/// A sentence why it is not ours to change.
pub fn plan_broker(
    name: &str,
    url: &str,
    own: &OwnCatalog,
    known: &[Broker],
    offered: &[Offering],
) -> Result<BrokerChange, String> {
    let same_url = |broker: &&Broker| broker.url.trim_end_matches('/') == url;
    let Some(found) =
        known.iter().find(|broker| broker.name == name).or_else(|| known.iter().find(same_url))
    else {
        return Ok(BrokerChange::Create);
    };
    if found.relationships.space.is_some() {
        return Err(format!(
            "the broker {} at {} belongs to one space; delete it, or register under another name",
            found.name, found.url
        ));
    }
    // After a failed registration a broker is known and has no offerings.
    let ours = offered.is_empty()
        || offered.iter().any(|known| own.iter().any(|(id, _)| *id == known.broker_catalog.id));
    if !same_url(&found) && !ours {
        return Err(format!(
            "a broker named {name} is registered at {}, and none of its services is in the \
             catalog of {url}: it is another broker; choose another name (property name of job \
             docker-broker, or servicebroker.name), or delete that one",
            found.url
        ));
    }
    Ok(BrokerChange::Update {
        guid: found.guid.clone(),
        old_name: (found.name != name).then(|| found.name.clone()),
        old_url: (!same_url(&found)).then(|| found.url.clone()),
    })
}

/// Who shall have access.
#[derive(Debug)]
pub struct Access {
    /// The property.
    pub service_access: ServiceAccess,
    /// The named organizations; empty: all.
    pub organizations: Vec<Organization>,
    /// Take access from others.
    pub remove_access: bool,
}

/// What has to be done about the access to one plan.
#[derive(Debug, PartialEq, Eq)]
pub enum AccessChange {
    /// It is as it should be.
    Keep,
    /// Others have access as well, and nobody asked to take it from them.
    KeepMore(String),
    /// For all organizations.
    Public,
    /// For these besides those that have it.
    Add(Vec<String>),
    /// For these and nobody else.
    Replace(Vec<String>),
    /// For nobody but administrators.
    Admin,
}

/// Decides about one plan.
#[must_use]
pub fn plan_access(current: &Visibility, wanted: &Access) -> AccessChange {
    let is = |kind: &str| current.kind == kind;
    let wanted_guids: BTreeSet<&str> =
        wanted.organizations.iter().map(|org| org.guid.as_str()).collect();
    let have: BTreeSet<&str> = current.organizations.iter().map(|org| org.guid.as_str()).collect();
    let owned = |guids: &BTreeSet<&str>| guids.iter().map(|guid| (*guid).to_owned()).collect();
    match wanted.service_access {
        ServiceAccess::Manual => AccessChange::Keep,
        ServiceAccess::Disable if is("admin") => AccessChange::Keep,
        ServiceAccess::Disable => AccessChange::Admin,
        ServiceAccess::Enable if wanted.organizations.is_empty() => {
            if is("public") {
                AccessChange::Keep
            } else {
                AccessChange::Public
            }
        }
        ServiceAccess::Enable if is("public") && !wanted.remove_access => {
            AccessChange::KeepMore("all organizations have access".to_owned())
        }
        ServiceAccess::Enable if is("organization") && have == wanted_guids => AccessChange::Keep,
        ServiceAccess::Enable if is("organization") && !wanted.remove_access => {
            let missing: BTreeSet<&str> = wanted_guids.difference(&have).copied().collect();
            if missing.is_empty() {
                let more = have.len() - wanted_guids.len();
                AccessChange::KeepMore(format!("{more} more organizations have access"))
            } else {
                AccessChange::Add(owned(&missing))
            }
        }
        ServiceAccess::Enable => AccessChange::Replace(owned(&wanted_guids)),
    }
}

/// Plans that the broker does not offer any more while the platform still knows them, as
/// `service/plan`.
#[must_use]
pub(super) fn left_the_catalog(offerings: &[Offering], plans: &[Plan]) -> Vec<String> {
    let name = |plan: &Plan| {
        let offering = &plan.relationships.service_offering.data.guid;
        let found = offerings.iter().find(|known| known.guid == *offering);
        format!("{}/{}", found.map_or("?", |known| known.name.as_str()), plan.name)
    };
    let gone = |plan: &&Plan| {
        let offering = &plan.relationships.service_offering.data.guid;
        let offered = offerings.iter().any(|known| known.guid == *offering && known.available);
        !plan.available || !offered
    };
    plans.iter().filter(gone).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud_foundry::resources::{BrokerRelationships, CatalogId, Guid, ToOne};

    fn broker(name: &str, url: &str, space: bool) -> Broker {
        let to_one = || ToOne { data: Guid { guid: "space".to_owned() } };
        Broker {
            guid: format!("guid of {name}"),
            name: name.to_owned(),
            url: url.to_owned(),
            relationships: BrokerRelationships { space: space.then(to_one) },
        }
    }

    fn offering(id: &str) -> Offering {
        Offering {
            guid: String::new(),
            name: String::new(),
            available: true,
            broker_catalog: CatalogId { id: id.to_owned() },
        }
    }

    fn update(of: &str, old_name: Option<&str>, old_url: Option<&str>) -> BrokerChange {
        BrokerChange::Update {
            guid: format!("guid of {of}"),
            old_name: old_name.map(str::to_owned),
            old_url: old_url.map(str::to_owned),
        }
    }

    #[test]
    fn a_broker_is_ours_by_its_url_or_by_a_service_that_it_offers() {
        let own = vec![("redis".to_owned(), "redis7".to_owned())];
        let change = |known: &[Broker], offered: &[Offering]| {
            plan_broker("me", "http://here", &own, known, offered)
        };
        let other = broker("other", "http://there", false);
        let (mine, theirs) = ([offering("redis")], [offering("theirs")]);
        assert_eq!(change(&[], &[]), Ok(BrokerChange::Create));
        assert_eq!(change(std::slice::from_ref(&other), &theirs), Ok(BrokerChange::Create));
        let same = [other.clone(), broker("me", "http://here/", false)];
        assert_eq!(change(&same, &theirs), Ok(update("me", None, None)));
        let moved = [broker("me", "http://there", false)];
        let expected = update("me", None, Some("http://there"));
        assert_eq!(change(&moved, &mine), Ok(expected));
        // Its registration failed, so it offers nothing.
        let expected = update("me", None, Some("http://there"));
        assert_eq!(change(&moved, &[]), Ok(expected));
        assert!(change(&moved, &theirs).is_err_and(|error| error.contains("another broker")));
        let renamed = [broker("old", "http://here", false)];
        assert_eq!(change(&renamed, &mine), Ok(update("old", Some("old"), None)));
        let scoped = [broker("me", "http://here", true)];
        assert!(change(&scoped, &mine).is_err_and(|error| error.contains("one space")));
    }

    #[test]
    fn access_changes_by_what_is_there_and_what_is_asked() {
        let organizations = |names: &str| -> Vec<Organization> {
            let names = names.split_whitespace();
            names.map(|name| Organization { guid: name.into(), name: name.into() }).collect()
        };
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (enable, disable, manual) =
            (ServiceAccess::Enable, ServiceAccess::Disable, ServiceAccess::Manual);
        let more = |text: &str| AccessChange::KeepMore(text.to_owned());
        for (kind, have, service_access, wanted, remove_access, expected) in [
            ("admin", "", enable, "", false, AccessChange::Public),
            ("organization", "a", enable, "", false, AccessChange::Public),
            ("public", "", enable, "", true, AccessChange::Keep),
            ("admin", "", enable, "a b", false, AccessChange::Replace(list(&["a", "b"]))),
            ("organization", "a", enable, "a b", false, AccessChange::Add(list(&["b"]))),
            ("organization", "a b", enable, "b a", true, AccessChange::Keep),
            ("organization", "a b c", enable, "a", false, more("2 more organizations have access")),
            ("organization", "b c", enable, "a", false, AccessChange::Add(list(&["a"]))),
            ("organization", "a b", enable, "a", true, AccessChange::Replace(list(&["a"]))),
            ("public", "", enable, "a", false, more("all organizations have access")),
            ("public", "", enable, "a", true, AccessChange::Replace(list(&["a"]))),
            ("public", "", disable, "", false, AccessChange::Admin),
            ("admin", "", disable, "", false, AccessChange::Keep),
            ("organization", "a", manual, "", true, AccessChange::Keep),
        ] {
            let current = Visibility { kind: kind.to_owned(), organizations: organizations(have) };
            let access =
                Access { service_access, organizations: organizations(wanted), remove_access };
            let found = plan_access(&current, &access);
            assert_eq!(found, expected, "{kind} {have:?} with {access:?}");
        }
    }
}
