//! Instances of which the store may know less than there was: they are left alone, but for being
//! deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
};

use super::{
    Broker,
    ledger::Ledger,
    retry::{LONGEST_PAUSE, pause_for},
};
use crate::{store::StoreError, telemetry::Chain};

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

    /// An instance is not left alone any more; `before`: why it was.
    pub(super) fn trust(&self, id: &str, before: Option<Doubt>) {
        self.doubts().remove(id);
        if before.is_some() {
            self.0.trusted.send_modify(|ids| {
                ids.insert(id.to_owned());
            });
        }
    }
}

impl Broker {
    /// Goes on with what was interrupted on instances that were left alone at first, until the
    /// broker stops.
    pub(super) async fn resume_trusted(self: &Arc<Self>) {
        let sender = &self.store.0.trusted;
        let mut trusted = sender.subscribe();
        tokio::select! {
            () = self.stopping.cancelled() => return,
            () = self.recovered() => {}
        }
        loop {
            let mut ids = BTreeSet::new();
            sender.send_if_modified(|known| {
                ids = std::mem::take(known);
                false
            });
            if let Err(error) = self.resume_of(&ids).await {
                tracing::error!(
                    error = %Chain(&error),
                    "the operations that run cannot be read; tried again"
                );
                if pause_for(&self.stopping, LONGEST_PAUSE).await.is_err() {
                    return;
                }
                sender.send_modify(|known| known.append(&mut ids));
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                // The sender is part of this.
                _ = trusted.changed() => {}
            }
        }
    }

    async fn resume_of(self: &Arc<Self>, ids: &BTreeSet<String>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let running = self.store.read(|rows| rows.list_running_operations()).await?;
        for operation in running.into_iter().filter(|one| ids.contains(&one.instance_id)) {
            tracing::info!(
                operation.id,
                instance.id = operation.instance_id,
                operation.kind,
                "an operation goes on, as the record of its instance could be read"
            );
            self.resume(operation);
        }
        Ok(())
    }
}
