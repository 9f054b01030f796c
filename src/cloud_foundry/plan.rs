//! From what is to what should be: pure, without I/O.

use std::collections::BTreeSet;

use super::{
    resources::{Broker, Offering, Organization, Plan, Visibility},
    settings::ServiceAccess,
};

/// A service in the broker's own catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnService {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Ids and names of its plans.
    pub plans: Vec<(String, String)>,
}

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

/// The broker of this name, else that at this URL. Brokers of one space are nobody's business but
/// that space's; only the name of one is in the way.
#[must_use]
pub fn find_ours<'a>(name: &str, url: &str, known: &'a [Broker]) -> Option<&'a Broker> {
    known.iter().find(|broker| broker.name == name).or_else(|| {
        known.iter().find(|broker| broker.relationships.space.is_none() && is_at(broker, url))
    })
}

fn is_at(broker: &Broker, url: &str) -> bool {
    broker.url.trim_end_matches('/') == url
}

/// Decides what to do about the broker `name` at `url`. `known` are all brokers of the platform.
///
/// A broker of that name at another URL may be one of another deployment, whose instances this one
/// does not know; whether it is the same one, only the operator can say (`take_over`).
///
/// # Errors
/// A sentence why it is not ours to change.
pub fn plan_broker(
    name: &str,
    url: &str,
    take_over: bool,
    known: &[Broker],
) -> Result<BrokerChange, String> {
    let Some(found) = find_ours(name, url, known) else { return Ok(BrokerChange::Create) };
    if found.relationships.space.is_some() {
        return Err(format!(
            "the broker {name} at {} belongs to one space; delete it, or register under another \
             name",
            found.url
        ));
    }
    let same_url = is_at(found, url);
    if !same_url && !take_over {
        return Err(format!(
            "a broker named {name} is registered at {}, not at {url}: if it is this one and has \
             moved, set servicebroker.take_over: true; if it is another one, choose another name \
             (property name of job docker-broker, or servicebroker.name)",
            found.url
        ));
    }
    Ok(BrokerChange::Update {
        guid: found.guid.clone(),
        old_name: (found.name != name).then(|| found.name.clone()),
        old_url: (!same_url).then(|| found.url.clone()),
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
    use crate::cloud_foundry::resources::{BrokerRelationships, Guid, ToOne};

    fn broker(name: &str, url: &str, space: bool) -> Broker {
        let to_one = || ToOne { data: Guid { guid: "space".to_owned() } };
        Broker {
            guid: format!("guid of {name}"),
            name: name.to_owned(),
            url: url.to_owned(),
            relationships: BrokerRelationships { space: space.then(to_one) },
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
    fn a_broker_is_ours_by_its_url_or_when_the_operator_says_that_it_has_moved() {
        let change =
            |known: &[Broker], take_over: bool| plan_broker("me", "http://here", take_over, known);
        assert_eq!(change(&[], false), Ok(BrokerChange::Create));
        let other = broker("other", "http://there", false);
        assert_eq!(change(std::slice::from_ref(&other), true), Ok(BrokerChange::Create));
        let same = [other, broker("me", "http://here/", false)];
        assert_eq!(change(&same, false), Ok(update("me", None, None)));
        let moved = [broker("me", "http://there", false)];
        assert!(change(&moved, false).is_err_and(|error| error.contains("take_over: true")));
        assert_eq!(change(&moved, true), Ok(update("me", None, Some("http://there"))));
        let renamed = [broker("old", "http://here", false)];
        assert_eq!(change(&renamed, false), Ok(update("old", Some("old"), None)));
        // A space may have a broker at any URL, but the name is taken.
        let elsewhere = [broker("theirs", "http://here", true)];
        assert_eq!(change(&elsewhere, false), Ok(BrokerChange::Create));
        let in_the_way = [broker("me", "http://here", true)];
        assert!(change(&in_the_way, true).is_err_and(|error| error.contains("one space")));
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
