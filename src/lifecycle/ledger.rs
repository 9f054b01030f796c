//! The store with the records beside the instances' data, which follow it.
//!
//! Invariants:
//!
//! * A record is written after the commit that it follows, so it is never ahead of the store.
//! * [`Ledger::write`] returns when the records have followed, or when one could not be written:
//!   that one is tried again until it is, and until then nothing of its instance is reported as
//!   succeeded (see [`Ledger::is_behind`]).
//! * A record that is newer than the store, or may be, is never written over (`compare.rs`).
//! * A directory that is being removed, that was never handed to a tenant, or that is missing with
//!   data in it is not made again for its record.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    InstanceState,
    compare::Found,
    doubt::Doubt,
    error::InternalError,
    fault::{Step, reach},
    record::{Frame, RecordError},
    retry::{FIRST_PAUSE, LONGEST_PAUSE, pause_for},
};
use crate::{
    credentials::Keyring,
    disk::{Disk, DiskError},
    store::{INSTANCE_ENTRY, RecordHead, RowError, Rows, Store, StoreError, Touched},
    telemetry::Chain,
};

/// How long an answer waits for a record that could not be written at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// A record is made anew when its changes are this many times as long as all of it was.
const GROWTH: u64 = 2;
/// Below this length that is not worth while.
const SHORT: u64 = 64 * 1024;

/// A record that could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum LedgerError {
    #[error("cannot read what the record of an instance is to hold")]
    Store(#[from] StoreError),
    #[error("cannot write the record of an instance")]
    Disk(#[from] DiskError),
    #[error("cannot write the record of an instance")]
    Record(#[from] RecordError),
    #[error("a task of the broker panicked")]
    Panic,
}

/// What is known of the file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum File {
    /// It could not be compared with the store, so it may be newer.
    Uncompared {
        /// There was no data at all, as if the disk was not mounted.
        is_bare: bool,
    },
    /// Nothing: it has to be made anew.
    #[default]
    Unknown,
    /// Its length, and how long its first frame made it.
    Known { length: u64, whole: u64 },
}

/// What is to be written of an instance.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Transactions whose commit is not known yet. What they change cannot be read before it is.
    coming: BTreeSet<u64>,
    pub(super) entries: BTreeSet<String>,
    writing: bool,
}

#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) file: tokio::sync::Mutex<File>,
    due: Mutex<Due>,
    /// Counts transactions that are not coming any more.
    landed: watch::Sender<u64>,
}

impl Page {
    pub(super) fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the commit of every transaction that is coming now is known.
    async fn landed(&self) {
        let mut landed = self.landed.subscribe();
        let Some(last) = self.due().coming.last().copied() else { return };
        let is_known = |_: &u64| self.due().coming.first().is_none_or(|first| *first > last);
        // The sender is part of this.
        drop(landed.wait_for(is_known).await);
    }
}

/// Handle to the store and the records. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Ledger(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) disk: Disk,
    pub(super) keys: Arc<Keyring>,
    pages: Mutex<HashMap<String, Arc<Page>>>,
    /// Number of the next transaction.
    next: AtomicU64,
    /// Instances that are left alone, and why (`doubt.rs`).
    pub(super) doubts: Mutex<BTreeMap<String, Doubt>>,
    /// Instances that were left alone and are not any more, until somebody goes on with them.
    pub(super) trusted: watch::Sender<BTreeSet<String>>,
    /// A record could not be written.
    pub(super) failed: Notify,
    /// Counts rounds of trying again.
    rounds: watch::Sender<u64>,
    /// All records were compared with the store: nothing is written before, so that a newer one
    /// is never written over.
    compared: watch::Sender<bool>,
}

impl Ledger {
    pub(super) fn new(store: Store, disk: Disk, keys: Arc<Keyring>) -> Self {
        let rounds = watch::Sender::new(0);
        let (pages, failed, compared) =
            (Mutex::default(), Notify::new(), watch::Sender::new(false));
        let (next, doubts) = (AtomicU64::default(), Mutex::default());
        let trusted = watch::Sender::default();
        Self(Arc::new(Inner {
            store,
            disk,
            keys,
            pages,
            next,
            doubts,
            trusted,
            failed,
            rounds,
            compared,
        }))
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<String, Arc<Page>>> {
        self.0.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction is about to be committed.
    fn expect(&self, number: u64, touched: &[Touched]) {
        let mut pages = self.pages();
        for one in touched {
            let page = pages.entry(one.instance_id.clone()).or_default();
            page.due().coming.insert(number);
        }
    }

    /// It is committed, or may be: what it changed can be read.
    fn land(&self, number: u64, touched: &[Touched]) {
        for one in touched {
            let page = self.page(&one.instance_id);
            {
                let mut due = page.due();
                due.coming.remove(&number);
                due.entries.extend(one.entries.iter().cloned());
            }
            page.landed.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn page(&self, id: &str) -> Arc<Page> {
        Arc::clone(self.pages().entry(id.to_owned()).or_default())
    }

    /// As [`Store::read`].
    pub(super) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Rows<'_>) -> Result<T, RowError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.0.store.read(job).await
    }

    /// As [`Store::write`], once all records are compared; then the records of the instances that
    /// were changed follow.
    pub(super) async fn write<T, E>(
        &self,
        job: impl FnOnce(&Rows<'_>) -> Result<Result<T, E>, RowError> + Send + 'static,
    ) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        // The sender is part of this.
        drop(self.0.compared.subscribe().wait_for(|compared| *compared).await);
        let ledger = self.clone();
        // A task of its own: whoever asked may go away, and the commit comes all the same.
        let written = tokio::spawn(async move { ledger.write_through(job).await });
        written.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn write_through<T, E>(
        &self,
        job: impl FnOnce(&Rows<'_>) -> Result<Result<T, E>, RowError> + Send + 'static,
    ) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let touched = Arc::new(OnceLock::new());
        let (ledger, found) = (self.clone(), Arc::clone(&touched));
        let written = self.0.store.write(move |rows| {
            let value = match job(rows)? {
                Ok(value) => value,
                Err(error) => return Ok(Err(error)),
            };
            let of_job = rows.take_touched(|id| ledger.is_left_alone(id))?;
            // Before the commit: nobody may see what is committed and take it for recorded.
            ledger.expect(number, found.get_or_init(|| of_job));
            Ok(Ok(value))
        });
        let written = written.await;
        let touched = touched.get().map_or(&[][..], Vec::as_slice);
        self.land(number, touched);
        if written.is_err() {
            // What was not committed has to be read again, which finds nothing new.
            self.0.failed.notify_one();
            return written;
        }
        if touched.is_empty() {
            return written;
        }
        reach(Step::RecordDue);
        let outcomes = join_all(touched.iter().map(|one| self.record(&one.instance_id))).await;
        for (one, outcome) in touched.iter().zip(outcomes) {
            if let Err(error) = outcome {
                report(&one.instance_id, &error);
                self.0.failed.notify_one();
            }
        }
        written
    }

    /// Whether the record of an instance has yet to follow the store.
    pub(super) fn is_behind(&self, id: &str) -> bool {
        let page = self.pages().get(id).map(Arc::clone);
        page.is_some_and(|page| {
            let due = page.due();
            due.writing || !due.coming.is_empty() || !due.entries.is_empty()
        })
    }

    /// Waits until the record of an instance has followed the store, before something of it is
    /// answered as succeeded.
    ///
    /// # Errors
    /// [`InternalError::Unrecorded`] when that takes too long.
    pub(super) async fn settle(&self, id: &str) -> Result<(), InternalError> {
        // Nothing is known of an instance that is gone.
        let Some(page) = self.pages().get(id).map(Arc::clone) else { return Ok(()) };
        let mut rounds = self.0.rounds.subscribe();
        let settled = async {
            page.landed().await;
            // After those of others, so that what was due when this was called is written.
            while self.record(id).await.is_err() {
                self.0.failed.notify_one();
                // The sender is part of this.
                drop(rounds.changed().await);
            }
        };
        timeout(PATIENCE, settled).await.map_err(|_| InternalError::Unrecorded(id.to_owned()))
    }

    /// Writes the record of an instance that was removed with its directory. Of one that cannot be
    /// written the instance is behind.
    pub(super) async fn renew(&self, id: &str) {
        self.page(id).due().entries.insert(INSTANCE_ENTRY.to_owned());
        if let Err(error) = self.record(id).await {
            report(id, &error);
            self.0.failed.notify_one();
        }
    }

    /// Tries again to write what could not be written, until the broker stops.
    pub(super) async fn keep_recording(&self, stopping: &CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.0.failed.notified() => {}
            }
            if pause_for(stopping, pause).await.is_err() {
                return;
            }
            let ids: Vec<String> = self.pages().keys().cloned().collect();
            let mut failed = false;
            for id in ids.into_iter().filter(|id| self.is_behind(id)) {
                match self.record(&id).await {
                    Ok(()) => {}
                    Err(error) => {
                        report(&id, &error);
                        failed = true;
                    }
                }
            }
            self.0.rounds.send_modify(|count| *count += 1);
            pause = if failed { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            if failed {
                self.0.failed.notify_one();
            }
        }
    }

    /// Brings the record of an instance up to date.
    async fn record(&self, id: &str) -> Result<(), LedgerError> {
        let (ledger, id) = (self.clone(), id.to_owned());
        // A task of its own: halfway what is due would be lost, and whoever waits may give up.
        let recorded = tokio::spawn(async move { ledger.record_due(&id).await });
        recorded.await.map_err(|_| LedgerError::Panic)?
    }

    async fn record_due(&self, id: &str) -> Result<(), LedgerError> {
        let Some(page) = self.pages().get(id).map(Arc::clone) else { return Ok(()) };
        let mut file = page.file.lock().await;
        let entries = {
            let mut due = page.due();
            due.writing = !due.entries.is_empty();
            std::mem::take(&mut due.entries)
        };
        if entries.is_empty() {
            return Ok(());
        }
        let outcome = match *file {
            File::Uncompared { is_bare } => {
                let is_bare = is_bare && self.is_bare().await;
                let found = self.compare_file(id, is_bare, &mut file).await;
                found.map(|found| found != Found::Gone)
            }
            File::Unknown | File::Known { .. } => self.follow(id, &entries, false, &mut file).await,
        };
        let mut pages = self.pages();
        let mut due = page.due();
        due.writing = false;
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => {
                // The instance is gone. One of the same id begins anew.
                *file = File::Unknown;
                self.doubts().remove(id);
                if due.entries.is_empty() && due.coming.is_empty() {
                    pages.remove(id);
                }
                Ok(())
            }
            Err(error) => {
                if !matches!(*file, File::Uncompared { .. }) {
                    *file = File::Unknown;
                }
                due.entries.extend(entries);
                Err(error)
            }
        }
    }

    /// Whether there is such an instance (still).
    pub(super) async fn follow(
        &self,
        id: &str,
        entries: &BTreeSet<String>,
        only_if_there: bool,
        file: &mut File,
    ) -> Result<bool, LedgerError> {
        let known = match *file {
            File::Known { length, whole } if length < whole * GROWTH + SHORT => Some(length),
            _ => None,
        };
        let wanted = known.map(|_| entries.clone());
        let Some((head, frame)) = self.frame(id, wanted).await? else { return Ok(false) };
        if self.is_left_alone(id) {
            return Ok(true);
        }
        let state = InstanceState::parse(&head.state);
        let only_if_there = only_if_there
            || head.has_data
            || state.is_some_and(InstanceState::is_without_directory);
        if let (Some(length), File::Known { whole, .. }) = (known, *file) {
            let bytes = frame.encode(&self.0.keys, &head.name)?;
            let longer = length + bytes.len() as u64;
            let (disk, name) = (self.0.disk.clone(), head.name.clone());
            let appended = move || disk.append_record(&name, length, &bytes);
            if blocking(appended).await?? {
                reach(Step::RecordWritten);
                *file = File::Known { length: longer, whole };
                return Ok(true);
            }
        }
        let frame = if frame.whole {
            frame
        } else {
            let Some((_, frame)) = self.frame(id, None).await? else { return Ok(false) };
            frame
        };
        let bytes = frame.encode_whole(&self.0.keys, &head.name)?;
        let length = bytes.len() as u64;
        let (disk, name) = (self.0.disk.clone(), head.name);
        let replaced = move || disk.replace_record(&name, &bytes, only_if_there);
        let there = blocking(replaced).await??;
        reach(Step::RecordWritten);
        *file = if there { File::Known { length, whole: length } } else { File::Unknown };
        Ok(true)
    }

    /// The entries of an instance as they are in the store; all of them without `wanted`.
    pub(super) async fn frame(
        &self,
        id: &str,
        wanted: Option<BTreeSet<String>>,
    ) -> Result<Option<(RecordHead, Frame)>, StoreError> {
        let id = id.to_owned();
        let read = move |rows: &Rows<'_>| {
            let Some(head) = rows.find_record_head(&id)? else { return Ok(None) };
            let whole = wanted.is_none();
            let keys = match wanted {
                Some(wanted) => wanted.into_iter().collect(),
                None => rows.list_record_entries(&id)?,
            };
            let mut entries = BTreeMap::new();
            for key in keys {
                let of_key = rows.read_record_entry(&id, &key)?;
                if whole && of_key.is_empty() {
                    continue;
                }
                entries.insert(key, of_key);
            }
            let (schema, revision) = (Rows::schema(), head.revision);
            Ok(Some((head, Frame { schema, id, revision, whole, entries })))
        };
        // Of one revision, all of it.
        self.0.store.read(move |rows| rows.at_one_moment(read)).await
    }

    /// What was found is taken note of: changes may come.
    pub(super) fn allow_writes(&self) {
        self.0.compared.send_replace(true);
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LedgerError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| LedgerError::Panic)
}

pub(super) fn report(id: &str, error: &LedgerError) {
    tracing::error!(
        instance.id = id,
        error = %Chain(error),
        "the record beside an instance's data could not be written; until it is, nothing of the \
         instance is answered as succeeded"
    );
}
