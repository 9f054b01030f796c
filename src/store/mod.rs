//! The broker's memory: one SQLite file.
//!
//! # Durability
//!
//! WAL with `synchronous=FULL`: what [`Store::write`] has returned survives a killed process and
//! a power cut. Intent is committed before any side effect, so after a crash the rows say what was
//! under way.
//!
//! # Threads
//!
//! SQLite never blocks an async thread: one thread owns the writing connection, another one the
//! reading connection. The writer takes all jobs that wait into one transaction, each in a
//! savepoint of its own, and pays for one `fsync` instead of many. A job's closure runs to its end
//! even if whoever asked for it has gone.
//!
//! # Schema
//!
//! See `migrations.rs`. Ids are text as the platform sent it. Secrets and developers' parameters
//! are stored sealed (`credentials::Keyring`); this room never sees them in clear.

mod backup;
mod bindings;
mod health;
mod hosts;
mod instances;
mod migrations;
mod operations;
mod ports;
mod rebuild;
mod recorded;
mod sealed;
mod worker;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use backup::{BackupError, back_up, list_backups, newest_good_backup};
pub use bindings::BindingRow;
pub use health::WatchedRow;
pub use instances::InstanceRow;
pub use operations::{OperationRow, TOMBSTONE_DAYS};
pub use ports::PortRow;
pub use rebuild::{Rebuild, RebuildError};
pub use recorded::{INSTANCE_ENTRY, RecordHead, RecordedRows, Touched};
pub use sealed::{SEALED, SealedColumn, SealedValue};

use worker::Worker;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "broker.db";

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("cannot open the store {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a newer version of the broker.
    #[error(
        "the store {path} has schema {found}, but this version knows only up to {known}; \
         run the version that wrote it, or a newer one"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Schema of the file.
        found: i64,
        /// Newest schema of this version.
        known: i64,
    },
    /// It is no store, or a broken one.
    #[error("the store {path} is damaged")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Why, or what a check of it said.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by an older version of the broker, by somebody who may not migrate it.
    #[error(
        "the store {path} has schema {found}, and this version needs {known}; a start of the \
         broker of this version migrates it"
    )]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Schema of the file.
        found: i64,
        /// Schema of this version.
        known: i64,
    },
    /// There is none.
    #[error("there is no store {0}; is this the data directory of a broker that was started?")]
    Missing(PathBuf),
    /// A migration failed; nothing was changed.
    #[error("cannot migrate the store to schema {to}")]
    Migrate {
        /// Schema that was to be reached.
        to: i64,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A statement failed.
    #[error("cannot {verb} the store")]
    Statement {
        /// `read` or `write`.
        verb: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The thread has ended.
    #[error("the store is closed")]
    Closed,
}

/// The rows, as seen inside one transaction.
///
/// Its methods are the only SQL of the broker, each a small named function; see `instances.rs`,
/// `hosts.rs`, `bindings.rs`, `operations.rs` and `ports.rs`.
#[derive(Debug)]
pub struct Rows<'a>(&'a Connection);

/// A failed statement, without the type of the database library.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RowError(#[from] rusqlite::Error);

/// What there is of a store before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// No file, or an empty one, such as a crash of the file system leaves.
    Missing,
    /// A store with this many instances.
    Instances(u64),
}

/// Handle to the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Worker,
    reader: Worker,
}

impl Store {
    /// Looks at the store in `directory`, and checks that it is whole. Nothing is changed.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], or [`StoreError::Open`] when it cannot be read.
    pub fn look(directory: &Path) -> Result<Presence, StoreError> {
        let path = directory.join(FILE_NAME);
        if std::fs::metadata(&path).map_or(0, |meta| meta.len()) == 0 {
            return Ok(Presence::Missing);
        }
        let look = || -> Result<Presence, rusqlite::Error> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(worker::BUSY_TIMEOUT)?;
            quick_check(&connection)?;
            let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'instances'";
            let tables: i64 = connection.query_row(sql, [], |row| row.get(0))?;
            if tables == 0 {
                return Ok(Presence::Missing);
            }
            let sql = "SELECT count(*) FROM instances";
            let count: i64 = connection.query_row(sql, [], |row| row.get(0))?;
            Ok(Presence::Instances(u64::try_from(count).unwrap_or(0)))
        };
        look().map_err(|source| match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt { path: path.clone(), source }
            }
            _ => StoreError::Open { path: path.clone(), source },
        })
    }

    /// Opens the store in `directory`, making or migrating it as needed.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::TooNew`] or [`StoreError::Migrate`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let failed = |source| StoreError::Open { path: path.clone(), source };
        let mut writer = Connection::open(&path).map_err(failed)?;
        configure(&writer).map_err(failed)?;
        migrations::migrate(&mut writer, &path)?;
        recorded::take_notes(&writer).map_err(failed)?;
        let reader = read_only(&path).map_err(failed)?;
        Ok(Self {
            writer: Worker::start("store-writer", "write", writer),
            reader: Worker::start("store-reader", "read", reader),
        })
    }

    /// Opens the store in `directory` beside a broker that may be running: nothing is made, migrated
    /// or written, and [`Store::write`] fails.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Open`], [`StoreError::TooNew`] or
    /// [`StoreError::TooOld`].
    pub fn open_read_only(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let failed = |source| StoreError::Open { path: path.clone(), source };
        match path.try_exists() {
            // What else may be wrong with it SQLite says better.
            Ok(true) | Err(_) => {}
            Ok(false) => return Err(StoreError::Missing(path)),
        }
        let reader = read_only(&path).map_err(failed)?;
        migrations::check(&reader, &path)?;
        let refusing = read_only(&path).map_err(failed)?;
        Ok(Self {
            writer: Worker::start("store-writer", "write", refusing),
            reader: Worker::start("store-reader", "read", reader),
        })
    }

    /// Runs `job` in a transaction. It is committed when `job` returns `Ok`, and undone when it
    /// returns `Err` or panics. Returns only after the commit is on disk.
    ///
    /// # Errors
    /// [`StoreError`] when the transaction failed; the inner result is the job's own.
    pub async fn write<T, E>(
        &self,
        job: impl FnOnce(&Rows<'_>) -> Result<Result<T, E>, RowError> + Send + 'static,
    ) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.writer.run(job).await
    }

    /// Runs `job` on the reading connection.
    ///
    /// # Errors
    /// [`StoreError`] when a statement failed.
    pub async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Rows<'_>) -> Result<T, RowError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = self.reader.run(move |rows| job(rows).map(Ok::<T, ()>)).await?;
        result.map_err(|()| StoreError::Closed)
    }
}

impl Rows<'_> {
    /// Runs `job` on the rows as they are at one moment, whoever writes meanwhile. For jobs of
    /// [`Store::read`]; those of [`Store::write`] have that anyway.
    pub fn at_one_moment<T>(
        &self,
        job: impl FnOnce(&Rows<'_>) -> Result<T, RowError>,
    ) -> Result<T, RowError> {
        let transaction = self.0.unchecked_transaction()?;
        let read = job(&Rows(&transaction))?;
        transaction.finish()?;
        Ok(read)
    }
}

fn read_only(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(worker::BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Pages in the WAL after which a write also has to bring them into the store. Whoever meets that
/// waits longer, so it comes seldom; the WAL grows to 16 MiB in return.
const CHECKPOINT_PAGES: u32 = 4000;

/// Fails when the pages of a store do not fit together.
fn quick_check(connection: &Connection) -> Result<(), rusqlite::Error> {
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said == "ok" {
        return Ok(());
    }
    let inner = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(inner, Some(said)))
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(worker::BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    Ok(())
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_reader_sees_what_a_running_broker_writes_and_can_write_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let reader = Store::open_read_only(directory.path()).unwrap();
        store.write(|rows| Ok(Ok::<_, ()>(rows.set_meta("a", b"1")?))).await.unwrap().unwrap();
        let found = reader.read(|rows| rows.at_one_moment(|rows| rows.find_meta("a"))).await;
        assert_eq!(found.unwrap().as_deref(), Some(b"1".as_slice()));
        let written = reader.write(|rows| Ok(Ok::<_, ()>(rows.set_meta("a", b"2")?))).await;
        assert!(written.is_err(), "{written:?}");
        let found = store.read(|rows| rows.find_meta("a")).await;
        assert_eq!(found.unwrap().as_deref(), Some(b"1".as_slice()));
    }

    #[tokio::test]
    async fn a_reader_neither_makes_nor_migrates_a_store() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Store::open_read_only(directory.path()).unwrap_err();
        assert!(matches!(missing, StoreError::Missing(_)), "{missing}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let path = directory.path().join(FILE_NAME);
        for (version, words) in [(0, "a start of the broker"), (99, "run the version that wrote")] {
            let connection = Connection::open(&path).unwrap();
            connection.pragma_update(None, "user_version", version).unwrap();
            drop(connection);
            let before = fs::read(&path).unwrap();
            let refused = Store::open_read_only(directory.path()).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
            assert_eq!(fs::read(&path).unwrap(), before);
        }
        fs::write(&path, "this is no database, and long enough to look like one".repeat(99))
            .unwrap();
        let broken = Store::open_read_only(directory.path()).unwrap_err();
        assert!(matches!(broken, StoreError::Open { .. }), "{broken}");
    }
}
