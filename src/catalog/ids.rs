//! Ids that the platform chooses: opaque, up to 255 bytes, never used raw as a name.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hex;

/// Longest id that is accepted, in bytes. OSB sets no limit; 255 is what stores and platforms use.
pub const MAX_ID_BYTES: usize = 255;

/// An id that cannot be accepted.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidId {
    /// OSB: ids are non-empty strings.
    #[error("the {0} id must not be empty")]
    Empty(&'static str),
    /// Longer than [`MAX_ID_BYTES`].
    #[error("the {0} id is {1} bytes long; at most {MAX_ID_BYTES} bytes are accepted")]
    TooLong(&'static str, usize),
    /// Begins like the ids that the broker gives to shared containers.
    #[error("the {0} id must not begin with {HOST_PREFIX}, as the broker's own do")]
    Reserved(&'static str),
    /// A control character, which no log line or header could carry.
    #[error("the {0} id contains a control character")]
    Control(&'static str),
}

/// How ids begin that no platform gives: those of shared containers.
pub const HOST_PREFIX: &str = "docker-broker-host-";

fn check(kind: &'static str, id: &str) -> Result<(), InvalidId> {
    match id {
        "" => Err(InvalidId::Empty(kind)),
        id if id.len() > MAX_ID_BYTES => Err(InvalidId::TooLong(kind, id.len())),
        id if id.starts_with(HOST_PREFIX) => Err(InvalidId::Reserved(kind)),
        id if id.chars().any(char::is_control) => Err(InvalidId::Control(kind)),
        _ => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(String);

        impl $name {
            /// Accepts an id as the platform sent it, already percent-decoded.
            ///
            /// # Errors
            /// [`InvalidId`] when it is empty, too long or holds control characters.
            pub fn parse(id: impl Into<String>) -> Result<Self, InvalidId> {
                let id = id.into();
                check($kind, &id)?;
                Ok(Self(id))
            }

            /// The id as the platform knows it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Id of a service instance.
    InstanceId,
    "instance"
);
id!(
    /// Id of a service binding.
    BindingId,
    "binding"
);

impl InstanceId {
    /// The name under which this instance appears on disk and in Docker: one to one, 1 to 66
    /// characters out of `[A-Za-z0-9-]`.
    ///
    /// An id that is such a name itself (a GUID, `T-0123`) is kept readable, anything else is
    /// named by its SHA-256. The prefixes keep the two kinds apart.
    #[must_use]
    pub fn safe_name(&self) -> String {
        let plain = self.0.len() <= 64
            && self.0.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && self.0.starts_with(|c: char| c.is_ascii_alphanumeric());
        if plain {
            format!("i-{}", self.0)
        } else {
            format!("x-{}", hex(&Sha256::digest(self.0.as_bytes())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_stay_readable_in_names() {
        let id = InstanceId::parse("4fe5dc0d-ebe5-4dee-bb27-91e0228bd9e8").unwrap();
        assert_eq!(id.safe_name(), "i-4fe5dc0d-ebe5-4dee-bb27-91e0228bd9e8");
        assert_eq!(InstanceId::parse("T-0123456789").unwrap().safe_name(), "i-T-0123456789");
    }

    #[test]
    fn hostile_ids_get_harmless_and_distinct_names() {
        let ids = ["..", "../../etc", "a/b", "a b", "a+b", "a_b", "ä", "-a", ".", "x", "X", "%41"];
        let names: std::collections::BTreeSet<_> =
            ids.iter().map(|id| InstanceId::parse(*id).unwrap().safe_name()).collect();
        assert_eq!(names.len(), ids.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name}");
            assert!(name.len() <= 66);
        }
    }

    #[test]
    fn an_id_of_255_bytes_is_accepted_and_one_of_256_is_not() {
        assert!(InstanceId::parse("a".repeat(255)).is_ok());
        assert_eq!(InstanceId::parse("a".repeat(256)), Err(InvalidId::TooLong("instance", 256)));
        assert_eq!(BindingId::parse(""), Err(InvalidId::Empty("binding")));
        assert_eq!(BindingId::parse("a\0b"), Err(InvalidId::Control("binding")));
    }
}
