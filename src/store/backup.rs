//! Copies of the store beside itself, taken while it is in use.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rusqlite::{Connection, OpenFlags};

use super::{FILE_NAME, StoreError, quick_check, worker::BUSY_TIMEOUT};

/// Directory of the copies, in the data directory.
const BACKUP_DIRECTORY: &str = "backup";
const PREFIX: &str = "broker-";
const SUFFIX: &str = ".db";
/// A copy in the making, which is no copy yet.
const DRAFT: &str = "draft";

/// A copy that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files.
    #[error("cannot {verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn file(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { verb, path, source }
}

/// The copies in `data`, oldest first. What is dated in the future was made before the clock was set
/// back, so it comes before all others.
///
/// # Errors
/// [`BackupError::File`].
pub fn list_backups(data: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let directory = data.join(BACKUP_DIRECTORY);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(file("list", &directory))?,
    };
    let now = SystemTime::now();
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(file("list", &directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            let made = fs::metadata(&path).and_then(|meta| meta.modified());
            let is_ahead = made.map_err(file("look at", &path))? > now;
            found.push((!is_ahead, path));
        }
    }
    // Their names are their times.
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The newest copy in `data` that is whole.
///
/// # Errors
/// [`BackupError::File`].
pub fn newest_good_backup(data: &Path) -> Result<Option<PathBuf>, BackupError> {
    Ok(list_backups(data)?.into_iter().rev().find(|path| check(path).is_ok()))
}

fn check(path: &Path) -> Result<(), rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    quick_check(&connection)?;
    connection.query_row("SELECT count(*) FROM instances", [], |_| Ok(()))
}

/// Copies the store in `data` under the name of a `moment`, checks the copy, and removes the
/// oldest ones beyond `keep`. Readers and writers of the store go on meanwhile. Blocks.
///
/// # Errors
/// [`BackupError`]; no copy was removed then.
pub fn back_up(data: &Path, moment: &str, keep: usize) -> Result<PathBuf, BackupError> {
    let directory = data.join(BACKUP_DIRECTORY);
    fs::create_dir_all(&directory).map_err(file("make", &directory))?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&directory, private).map_err(file("change the mode of", &directory))?;
    let draft = directory.join(DRAFT);
    if draft.exists() {
        fs::remove_file(&draft).map_err(file("remove", &draft))?;
    }
    let copy = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(data.join(FILE_NAME), flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // A reader of the write-ahead log, so nobody waits for it.
        connection.execute("VACUUM INTO ?1", [draft.to_string_lossy()])?;
        check(&draft)
    };
    copy().map_err(|source| StoreError::Statement { verb: "copy", source })?;
    let sync = |path: &Path| fs::File::open(path).and_then(|file| file.sync_all());
    sync(&draft).map_err(file("write", &draft))?;
    let path = directory.join(format!("{PREFIX}{moment}{SUFFIX}"));
    fs::rename(&draft, &path).map_err(file("make", &path))?;
    sync(&directory).map_err(file("write", &directory))?;
    let all = list_backups(data)?;
    let surplus = all.len().saturating_sub(keep.max(1));
    for old in all.iter().take(surplus).filter(|old| **old != path) {
        fs::remove_file(old).map_err(file("remove", old))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn copies_are_whole_private_and_as_many_as_wanted() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        assert_eq!(newest_good_backup(data.path()).unwrap(), None);
        for number in 1..5_u8 {
            let written = store.write(move |rows| {
                rows.set_meta("k", &[number])?;
                Ok(Ok::<(), ()>(()))
            });
            written.await.unwrap().unwrap();
            back_up(data.path(), &format!("{number}"), 3).unwrap();
        }
        let all = list_backups(data.path()).unwrap();
        let names: Vec<_> = all.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["broker-2.db", "broker-3.db", "broker-4.db"]);
        assert_eq!(newest_good_backup(data.path()).unwrap().as_ref(), all.last());
        // Of a copy that rots, the one before it is the newest.
        fs::write(&all[2], b"rotten").unwrap();
        assert_eq!(newest_good_backup(data.path()).unwrap().as_ref(), Some(&all[1]));
        let copied = Connection::open(&all[1]).unwrap();
        let value: Vec<u8> =
            copied.query_row("SELECT value FROM meta", [], |row| row.get(0)).unwrap();
        assert_eq!(value, [3]);
    }
    #[test]
    fn copies_that_were_made_before_the_clock_was_set_back_are_the_oldest() {
        let data = tempfile::tempdir().unwrap();
        Store::open(data.path()).unwrap();
        let ahead = back_up(data.path(), "2", 2).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_hours(1);
        fs::File::open(&ahead).unwrap().set_modified(later).unwrap();
        let fresh = back_up(data.path(), "1", 2).unwrap();
        assert_eq!(list_backups(data.path()).unwrap(), [ahead.clone(), fresh.clone()]);
        assert_eq!(newest_good_backup(data.path()).unwrap().as_ref(), Some(&fresh));
        back_up(data.path(), "1a", 2).unwrap();
        assert!(!ahead.exists() && fresh.exists());
    }
}
