//! The secrets of one instance.

use std::collections::BTreeMap;

use rand::{Rng, distr::Alphanumeric};
use serde::{Deserialize, Serialize};

use crate::catalog::Plan;

const NAME_CHARACTERS: usize = 15;
const PASSWORD_CHARACTERS: usize = 31;

/// Values that were made or taken for one instance when it was accepted. Its `Debug` hides them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSecrets {
    /// User name, if the plan has one.
    pub username: Option<String>,
    /// Password, if the plan has one.
    pub password: Option<String>,
    /// Database name, if the plan has one.
    pub dbname: Option<String>,
    /// Values of `secret_environment`, by variable.
    #[serde(default)]
    pub hidden: BTreeMap<String, String>,
}

impl InstanceSecrets {
    /// Fresh random values for `plan`. Fixed values of the plan are taken as they are.
    #[must_use]
    pub fn generate(plan: &Plan) -> Self {
        let credentials = &plan.credentials;
        let value = |key: &Option<crate::catalog::KeyValue>, prefix, length| {
            key.as_ref().map(|key| key.value.clone().unwrap_or_else(|| random(prefix, length)))
        };
        Self {
            username: value(&credentials.username, 'u', NAME_CHARACTERS),
            password: value(&credentials.password, 'p', PASSWORD_CHARACTERS),
            dbname: value(&credentials.dbname, 'd', NAME_CHARACTERS),
            hidden: plan
                .container
                .secret_environment
                .iter()
                .map(|name| (name.clone(), random('s', PASSWORD_CHARACTERS)))
                .collect(),
        }
    }

    /// Keeps what there is and makes what `plan` needs in addition.
    #[must_use]
    pub fn extended_for(&self, plan: &Plan) -> Self {
        let fresh = Self::generate(plan);
        let mut hidden = fresh.hidden;
        hidden.extend(self.hidden.clone());
        Self {
            username: self.username.clone().or(fresh.username),
            password: self.password.clone().or(fresh.password),
            dbname: self.dbname.clone().or(fresh.dbname),
            hidden,
        }
    }

    /// The environment variables through which the container learns its secrets.
    #[must_use]
    pub fn environment(&self, plan: &Plan) -> Vec<(String, String)> {
        let credentials = &plan.credentials;
        let pairs = [
            (&credentials.username, &self.username),
            (&credentials.password, &self.password),
            (&credentials.dbname, &self.dbname),
        ];
        let hidden = plan.container.secret_environment.iter();
        pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key.as_ref()?.key.clone()?, value.clone()?)))
            .chain(hidden.filter_map(|name| Some((name.clone(), self.hidden.get(name)?.clone()))))
            .collect()
    }

    /// Everything that must not appear in a log.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.password.iter().chain(self.hidden.values()).map(String::as_str)
    }
}

/// User name and password of one binding, made before anything else is. Its `Debug` hides them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingSecrets {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl BindingSecrets {
    /// Fresh random values.
    #[must_use]
    pub fn generate() -> Self {
        Self { username: random('u', NAME_CHARACTERS), password: random('p', PASSWORD_CHARACTERS) }
    }
}

impl std::fmt::Debug for BindingSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BindingSecrets([redacted])")
    }
}

impl std::fmt::Debug for InstanceSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InstanceSecrets([redacted])")
    }
}

/// Random letters and digits after a letter: nothing that a URL, a shell, SQL or a configuration
/// file would read as anything but a word. 31 of them hold 160 bits.
fn random(first: char, length: usize) -> String {
    let alphabet = rand::rng().sample_iter(Alphanumeric).map(char::from);
    // Names are folded to lower case by several servers; passwords lose 0.8 bits a character.
    let letters = alphabet.filter(|c| !c.is_ascii_uppercase());
    std::iter::once(first).chain(letters.take(length)).collect()
}
