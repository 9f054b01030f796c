//! Comparing records with the store, and writing those that are older.
//!
//! Invariant: a record is written over only when it was read and is not newer than the store, or
//! when it is damaged. Revisions begin anew with each instance, so one of another instance that had the
//! same id counts as newer. One that is newer, or of which that cannot be known for want of its key, is
//! left alone together with its instance. So is an instance whose whole directory is gone: nothing of
//! it is made again.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{
    InstanceState,
    doubt::Doubt,
    error::InternalError,
    ledger::{File, Ledger, LedgerError, blocking, report},
    record::{Record, RecordError, decode},
};
use crate::{
    credentials::Keyring,
    disk::{Disk, DiskError},
    store::{INSTANCE_ENTRY, RecordHead, Rows, Store, StoreError},
    telemetry::Chain,
};

/// Records that are compared at the same time.
const SIDE_BY_SIDE: usize = 8;

/// What comparing records with the store has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Records that were written.
    pub written: usize,
    /// Instances whose records are newer than the store.
    pub newer: Vec<String>,
    /// Instances whose records no key opens.
    pub without_key: Vec<String>,
    /// Instances whose records could not be read or written.
    pub failed: Vec<String>,
}

impl Compared {
    /// Instances whose records do not follow the store, or not yet: another key than the first may
    /// have sealed them.
    #[must_use]
    pub fn left(&self) -> Vec<&str> {
        let all = [&self.newer, &self.without_key, &self.failed];
        all.into_iter().flatten().map(String::as_str).collect()
    }
}

/// What comparing a record has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Same,
    Written,
    Newer,
    WithoutKey,
    /// Its directory is gone.
    NoDirectory,
    /// There is no such instance any more.
    Gone,
}

impl Ledger {
    /// Compares all records with the store, and writes those that differ: first of all.
    /// [`Ledger::allow_writes`] comes next. With `makes_directories`, those that are missing are made
    /// even if there is none at all.
    ///
    /// # Errors
    /// When the store cannot be read. A record that cannot be written is tried again later.
    pub(super) async fn compare(&self, makes_directories: bool) -> Result<Compared, StoreError> {
        let forget = |rows: &Rows<'_>| rows.forget_touched().map(Ok::<(), ()>);
        // The job itself refuses nothing.
        let _infallible = self.0.store.write(forget).await?;
        let ids = self.0.store.read(|rows| rows.list_instance_ids()).await?;
        let is_bare = !makes_directories && self.is_bare().await;
        let outcomes: Vec<(String, Result<Found, LedgerError>)> = stream::iter(ids)
            .map(|id| async move {
                let found = self.compare_one(&id, is_bare).await;
                (id, found)
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        let mut compared = Compared::default();
        for (id, outcome) in outcomes {
            match outcome {
                Ok(Found::Same | Found::NoDirectory | Found::Gone) => {}
                Ok(Found::Written) => compared.written += 1,
                Ok(Found::Newer) => compared.newer.push(id),
                Ok(Found::WithoutKey) => compared.without_key.push(id),
                Err(error) => {
                    self.try_later(&id, &error);
                    compared.failed.push(id);
                }
            }
        }
        for ids in [&mut compared.newer, &mut compared.without_key, &mut compared.failed] {
            ids.sort();
        }
        Ok(compared)
    }

    /// Whether the disk seems not to be mounted: the store knows of data, and none of it is there.
    pub(super) async fn lacks_disk(&self) -> Result<bool, InternalError> {
        let mut known = self.0.store.read(|rows| rows.list_with_data()).await?;
        // Of what is being deleted the directory leaves first.
        known.retain(|(_, state)| {
            InstanceState::parse(state).is_none_or(|state| !state.is_without_directory())
        });
        let disk = self.0.disk.clone();
        let look = tokio::task::spawn_blocking(move || {
            for (name, _) in &known {
                if disk.exists(name)? {
                    return Ok(false);
                }
            }
            Ok::<_, DiskError>(!known.is_empty())
        });
        Ok(look.await.map_err(|_| InternalError::Panic)??)
    }

    /// Likewise, for records: where nothing can be found out, nothing is to be made.
    pub(super) async fn is_bare(&self) -> bool {
        self.lacks_disk().await.unwrap_or(true)
    }

    fn try_later(&self, id: &str, error: &LedgerError) {
        report(id, error);
        self.page(id).due().entries.insert(INSTANCE_ENTRY.to_owned());
        self.0.failed.notify_one();
    }

    async fn compare_one(&self, id: &str, is_bare: bool) -> Result<Found, LedgerError> {
        let page = self.page(id);
        let mut file = page.file.lock().await;
        self.compare_file(id, is_bare, &mut file).await
    }

    /// Why an instance is left alone, still: a directory that was missing may have come back.
    pub(super) async fn look_again(&self, id: &str) -> Option<Doubt> {
        let doubt = self.doubt(id)?;
        if doubt == Doubt::NoDirectory
            && let Err(error) = self.compare_one(id, false).await
        {
            self.try_later(id, &error);
        }
        self.doubt(id)
    }

    /// Compares the record of an instance, which stays to be compared if it cannot be read.
    pub(super) async fn compare_file(
        &self,
        id: &str,
        is_bare: bool,
        file: &mut File,
    ) -> Result<Found, LedgerError> {
        // Until it is known that its record is not newer: whatever changes it gets no revision.
        *file = File::Uncompared { is_bare };
        let before = self.doubts().insert(id.to_owned(), Doubt::Unread);
        let Some((head, frame)) = self.frame(id, None).await? else {
            self.doubts().remove(id);
            return Ok(Found::Gone);
        };
        let (disk, keys) = (self.0.disk.clone(), Arc::clone(&self.0.keys));
        let read = move || {
            let Some(bytes) = disk.read_record(&head.name)? else {
                return Ok((!had_directory(&head) || disk.exists(&head.name)?, None));
            };
            let record = decode(&keys, &head.name, &bytes);
            Ok::<_, DiskError>((true, Some((bytes.len() as u64, record))))
        };
        let (is_whole, found) = blocking(read).await??;
        if !is_whole {
            // It stays to be compared: the disk may come yet.
            self.doubts().insert(id.to_owned(), Doubt::NoDirectory);
            if before != Some(Doubt::NoDirectory) {
                let reason = Doubt::NoDirectory.sentence();
                tracing::error!(instance.id = id, reason, "an instance is left alone");
            }
            return Ok(Found::NoDirectory);
        }
        *file = File::Unknown;
        match found {
            Some((length, Ok(Record { frame: known, is_stale: false, .. }))) if known == frame => {
                // Its first frame alone was not looked at; it is made anew the sooner.
                *file = File::Known { length, whole: 0 };
                self.trust(id, before);
                return Ok(Found::Same);
            }
            Some((_, Ok(Record { frame: known, .. })))
                if known.revision > frame.revision || known.created_at() != frame.created_at() =>
            {
                tracing::error!(
                    instance.id = id,
                    "the record beside the instance's data is newer than the store, which may \
                     come from an older backup; the instance is left alone: stop the broker, move \
                     the store away and run docker-broker rebuild-store"
                );
                self.doubts().insert(id.to_owned(), Doubt::Newer);
                return Ok(Found::Newer);
            }
            Some((_, Err(RecordError::Key(error)))) => {
                tracing::error!(
                    instance.id = id,
                    error = %Chain(&error),
                    "no key among encryption_keys opens the record beside the instance's data, \
                     which may be newer than the store; the instance is left alone: put the key \
                     behind the first one and start the broker again"
                );
                self.doubts().insert(id.to_owned(), Doubt::WithoutKey);
                return Ok(Found::WithoutKey);
            }
            Some((_, Err(error))) => tracing::warn!(
                instance.id = id,
                error = %Chain(&error),
                "the record of an instance cannot be read; it is made anew from the store"
            ),
            _ => {}
        }
        self.trust(id, before);
        let all = BTreeSet::from([INSTANCE_ENTRY.to_owned()]);
        self.follow(id, &all, is_bare, file).await?;
        if is_bare && !matches!(*file, File::Known { .. }) {
            // Its record may be on the disk that is missing: the next change compares first.
            *file = File::Uncompared { is_bare };
        }
        // Without its directory nothing was written.
        Ok(if matches!(*file, File::Known { .. }) { Found::Written } else { Found::Same })
    }
}

/// Whether an instance without a directory is one that was deleted after the store was copied. One
/// that had data says itself that this is missing (`guard.rs`); of one without a revision (adopted
/// just now) no record was written yet.
fn had_directory(head: &RecordHead) -> bool {
    let is_kept = InstanceState::parse(&head.state)
        .is_some_and(|state| state.is_usable() || state == InstanceState::Updating);
    is_kept && !head.has_data && head.revision > 0
}

/// Brings the records beside the data up to date with a store that no broker uses. With
/// `makes_directories`, directories that are missing are made even if there is none at all, as before
/// the first instances are adopted.
///
/// # Errors
/// When the store cannot be read.
pub async fn bring_records_up_to_date(
    store: &Store,
    disk: &Disk,
    keys: &Arc<Keyring>,
    makes_directories: bool,
) -> Result<Compared, StoreError> {
    let ledger = Ledger::new(store.clone(), disk.clone(), Arc::clone(keys));
    ledger.compare(makes_directories).await
}
