//! The credentials that cf-containers-broker derived from an instance's id.
//!
//! Compatibility only: bindings that it issued go on working. MD5 protects nothing here, and whoever
//! knows the id of such an instance can compute its password, as before. New instances get random
//! secrets (`instance.rs`).

use base64::{Engine, prelude::BASE64_STANDARD};
use md5::{Digest, Md5};

use super::InstanceSecrets;
use crate::catalog::{KeyValue, Plan};

const CHARACTERS: usize = 16;

/// What cf-containers-broker gave to the instance with this id: fixed values of the plan as they
/// are, the others derived. Only credentials that have a variable; it knew no others.
#[must_use]
pub fn legacy_secrets(plan: &Plan, instance_id: &str) -> InstanceSecrets {
    let value = |key: &Option<KeyValue>, kind| {
        let key = key.as_ref()?;
        Some(key.value.clone().unwrap_or_else(|| derive(kind, instance_id)))
    };
    InstanceSecrets {
        username: value(&plan.credentials.username, "USER"),
        password: value(&plan.credentials.password, "PWD"),
        dbname: value(&plan.credentials.dbname, "DB"),
        ..InstanceSecrets::default()
    }
}

fn derive(kind: &str, instance_id: &str) -> String {
    let digest = Md5::digest(format!("{kind}-{instance_id}"));
    let text = BASE64_STANDARD.encode(digest);
    let letters = text.chars().filter(char::is_ascii_alphanumeric);
    letters.take(CHARACTERS).map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_that_cf_containers_broker_derived() {
        // Printed by its own classes.
        for (id, user, password, database) in [
            ("guid", "myeprrpl3pzblhzo", "nncqioaoibtt654u", "ypjkcoxs76jlocca"),
            (
                "4fe5dc0d-ebe5-4dee-bb27-91e0228bd9e8",
                "gzitkmvxr2o7b2h4",
                "e7jjswfyihsjqcq9",
                "vqed0igodnwqyq6p",
            ),
            (
                "00000000-0000-0000-0000-000000000000",
                "oe4vcddmdv3ixw9h",
                "oejunbky8pwiku0j",
                "nrmsqlxi07bapaqq",
            ),
        ] {
            let derived = ["USER", "PWD", "DB"].map(|kind| derive(kind, id));
            assert_eq!(derived, [user, password, database], "{id}");
        }
    }
}
