//! Taking instances back into a store that does not know them, out of the records beside their
//! data: after an older store was put back, or a rebuild that had to leave them out.
//!
//! Invariants: nothing that the store knows changes, and no broker uses it meanwhile.

use std::sync::Arc;

use super::{
    error::InternalError,
    rebuild::{Restored, Unusable, host_of, read, restored},
    record::Record,
};
use crate::{
    credentials::Keyring,
    disk::Disk,
    store::{Rows, Store},
    telemetry::Chain,
};

/// Takes the instances of these directories back. Of each what came of it, or why it cannot be.
///
/// # Errors
/// [`InternalError`], when the store could not be asked or written; those before are taken back.
pub async fn take_back(
    store: &Store,
    disk: &Disk,
    keys: &Arc<Keyring>,
    names: &[String],
) -> Result<Vec<(String, Result<Restored, String>)>, InternalError> {
    let (disk, keys, names) = (disk.clone(), Arc::clone(keys), names.to_owned());
    let reading = tokio::task::spawn_blocking(move || {
        let read = |name: String| (usable(&disk, &keys, &name), name);
        names.into_iter().map(read).collect::<Vec<_>>()
    });
    let mut records = reading.await.map_err(|_| InternalError::Panic)?;
    // Shared containers before those who live in them.
    records
        .sort_by_key(|(record, _)| record.as_ref().is_ok_and(|one| host_of(&one.frame).is_some()));
    let mut done = Vec::new();
    for (record, name) in records {
        let outcome = match record {
            Ok(record) => add(store, &name, record).await?,
            Err(why) => Err(why),
        };
        done.push((name, outcome));
    }
    Ok(done)
}

fn usable(disk: &Disk, keys: &Keyring, name: &str) -> Result<Record, String> {
    let record = match read(disk, keys, name) {
        Ok(Some(record)) => record,
        Ok(None) => return Err("there is no record in it, or no such directory".to_owned()),
        Err(Unusable::Key) => {
            return Err("no key among encryption_keys opens its record".to_owned());
        }
        Err(Unusable::ForNow(why) | Unusable::Damaged(why)) => return Err(why),
    };
    if record.frame.schema != Rows::schema() {
        return Err("its record was written by an older version of the broker; move the store \
                    away and run docker-broker rebuild-store"
            .to_owned());
    }
    Ok(record)
}

async fn add(
    store: &Store,
    name: &str,
    record: Record,
) -> Result<Result<Restored, String>, InternalError> {
    let back = restored(name, &record);
    let added = store.write(move |rows| {
        let frame = &record.frame;
        if rows.find_instance(&frame.id)?.is_some() {
            return Ok(Err("the store knows it".to_owned()));
        }
        if let Some(host) = host_of(frame)
            && rows.find_instance(host)?.is_none()
        {
            return Ok(Err(format!(
                "the store does not know the shared container {host} that it lives in; take that \
                 back as well"
            )));
        }
        let inserted = rows.insert_record(&frame.entries, frame.revision)?;
        Ok(inserted.map_err(|error| format!("its rows do not fit: {}", Chain(&error))))
    });
    Ok(added.await?.map(|()| back))
}
