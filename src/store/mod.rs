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

mod bindings;
mod hosts;
mod instances;
mod migrations;
mod operations;
mod ports;
mod sealed;
mod worker;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

pub use bindings::BindingRow;
pub use instances::InstanceRow;
pub use operations::{OperationRow, TOMBSTONE_DAYS};
pub use ports::PortRow;
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

/// Handle to the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Worker,
    reader: Worker,
}

impl Store {
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
        let reader = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(failed)?;
        reader.busy_timeout(worker::BUSY_TIMEOUT).map_err(failed)?;
        Ok(Self {
            writer: Worker::start("store-writer", "write", writer),
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

/// Pages in the WAL after which a write also has to bring them into the store. Whoever meets that
/// waits longer, so it comes seldom; the WAL grows to 16 MiB in return.
const CHECKPOINT_PAGES: u32 = 4000;

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
