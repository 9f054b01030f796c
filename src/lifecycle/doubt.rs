//! Instances of which the store may know less than there was: they are left alone, but for being
//! deleted.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
};

use super::ledger::Ledger;

/// Why the store is not to be trusted with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Its record is newer, or that of another instance that had the id.
    Newer,
    /// No key opens its record.
    WithoutKey,
    /// Its whole directory is gone, as if it had been deleted.
    NoDirectory,
    /// Its record could not be read or compared yet.
    Unread,
}

impl Doubt {
    /// What is wrong with such an instance, for operators.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::Newer => {
                "the store knows an older state of it than its record, and comes from a backup; \
                 stop the broker, move the store away and run docker-broker rebuild-store"
            }
            Self::WithoutKey => {
                "no key among encryption_keys opens its record, which may be newer than the store; \
                 put the key behind the first one and start the broker again"
            }
            Self::NoDirectory => {
                "its directory is gone, as if it had been deleted since the store was copied, so \
                 nothing is made for it; put the directory back (is the disk mounted?), or delete \
                 the service instance"
            }
            Self::Unread => {
                "its record could not be read (the log says why), and may be newer than the store; \
                 that is tried again"
            }
        }
    }
}

impl Ledger {
    pub(super) fn doubts(&self) -> MutexGuard<'_, BTreeMap<String, Doubt>> {
        self.0.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why an instance is left alone, and its record does not follow the store; `None`: it is not.
    pub(super) fn doubt(&self, id: &str) -> Option<Doubt> {
        self.doubts().get(id).copied()
    }

    /// Whether the record of an instance is newer than the store, or may be, and does not follow it.
    pub(super) fn is_left_alone(&self, id: &str) -> bool {
        self.doubt(id).is_some()
    }
}
