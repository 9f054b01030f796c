//! Making the store anew from the records beside the instances' data.

use std::{collections::BTreeSet, path::Path};

use super::record::{Frame, Record, RecordError, decode};
use crate::{
    credentials::Keyring,
    disk::{Disk, DiskError},
    store::{INSTANCE_ENTRY, Rebuild, RebuildError, Rows},
    telemetry::Chain,
};

/// An instance that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Its id.
    pub id: String,
    /// Safe name of its directory.
    pub name: String,
    /// State, in the words of [`super::InstanceState`].
    pub state: String,
    /// How many bindings came with it.
    pub bindings: usize,
    /// Its record is damaged behind what came back: later changes are lost.
    pub is_partial: bool,
}

/// What came of the records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Instances that the new store has.
    pub restored: Vec<Restored>,
    /// Directories without an instance in the new store, and why.
    pub skipped: Vec<(String, String)>,
    /// Ids of those among them whose records could be read.
    pub unfit: BTreeSet<String>,
    /// Directories with a record for which the key is missing. With any, nothing was changed.
    pub without_key: Vec<String>,
    /// Directories with a record that another attempt may read, and why. With any, nothing was
    /// changed.
    pub unread: Vec<(String, String)>,
}

/// Why no store could be made.
#[derive(Debug, thiserror::Error)]
pub enum RebuildFailure {
    /// The directories.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The new store.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
}

/// Makes a store in `data` out of all records. It takes the place of what is there, unless a key
/// is missing, a record cannot be read for now, none can be used, or the disk does not take all that fits:
/// then nothing is changed. Blocks.
///
/// # Errors
/// [`RebuildFailure`]; nothing was changed.
pub fn rebuild_store(data: &Path, disk: &Disk, keys: &Keyring) -> Result<Rebuilt, RebuildFailure> {
    let mut done = Rebuilt::default();
    let mut records = Vec::new();
    for name in disk.list()? {
        match read(disk, keys, &name) {
            Ok(Some(record)) => records.push((name, record)),
            Ok(None) => done.skipped.push((name, "it has no record".to_owned())),
            Err(Unusable::ForNow(why)) => done.unread.push((name, why)),
            Err(Unusable::Key) => done.without_key.push(name),
            Err(Unusable::Damaged(why)) => done.skipped.push((name, why)),
        }
    }
    if records.is_empty() || !done.without_key.is_empty() || !done.unread.is_empty() {
        return Ok(done);
    }
    // Oldest schema first, as the store moves on from one to the next; containers before those
    // who live in them.
    records.sort_by_key(|(name, Record { frame, .. })| {
        (frame.schema, host_of(frame).is_some(), name.clone())
    });
    let oldest = records.first().map_or(Rows::schema(), |(_, record)| record.frame.schema);
    let mut rebuild = Rebuild::begin(data, oldest.min(Rows::schema()))?;
    let mut ids: BTreeSet<String> = BTreeSet::new();
    for (name, record) in records {
        let back = restored(&name, &record);
        let frame = record.frame;
        if let Some(host) = host_of(&frame)
            && !ids.contains(host)
        {
            let why = "the shared container that it lives in could not be restored".to_owned();
            done.skipped.push((name, why));
            done.unfit.insert(frame.id);
            continue;
        }
        rebuild.migrate_to(frame.schema)?;
        if let Err(error) = rebuild.add(frame.entries.values(), frame.revision)? {
            done.skipped.push((name, format!("its rows do not fit: {}", Chain(&error))));
            done.unfit.insert(frame.id);
            continue;
        }
        ids.insert(frame.id);
        done.restored.push(back);
    }
    if !done.restored.is_empty() {
        rebuild.finish()?;
    }
    Ok(done)
}

/// What a record brings back.
pub(super) fn restored(name: &str, Record { frame, is_damaged, .. }: &Record) -> Restored {
    Restored {
        id: frame.id.clone(),
        name: name.to_owned(),
        state: frame.text("state").unwrap_or_default().to_owned(),
        bindings: frame.entries.keys().filter(|key| *key != INSTANCE_ENTRY).count(),
        is_partial: *is_damaged,
    }
}

/// Why a record gives no instance.
pub(super) enum Unusable {
    Key,
    /// The disk, or another version of the broker, may give it yet.
    ForNow(String),
    Damaged(String),
}

/// The host of a tenant.
pub(super) fn host_of(frame: &Frame) -> Option<&str> {
    frame.of_instance()?.get("tenants")?.first()?.get("host_id")?.as_str()
}

/// What the record in a directory says; `None`: it has none.
pub(super) fn read(disk: &Disk, keys: &Keyring, name: &str) -> Result<Option<Record>, Unusable> {
    let bytes =
        disk.read_record(name).map_err(|error| Unusable::ForNow(Chain(&error).to_string()))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let record = decode(keys, name, &bytes).map_err(|error| match error {
        RecordError::Key(_) => Unusable::Key,
        error => Unusable::Damaged(format!("its record cannot be used: {}", Chain(&error))),
    })?;
    let frame = &record.frame;
    if frame.schema > Rows::schema() {
        return Err(Unusable::ForNow(
            "its record was written by a newer version of the broker; use that".to_owned(),
        ));
    }
    if frame.text("name") != Some(name) || frame.text("id") != Some(&frame.id) {
        return Err(Unusable::Damaged("its record is that of another directory".to_owned()));
    }
    Ok(Some(record))
}
