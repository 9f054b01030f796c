//! A store that is made anew from records.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, TransactionBehavior};

use super::{FILE_NAME, RecordedRows, RowError, StoreError, configure, migrations, recorded};

/// Where it is made, in the data directory.
const DRAFT: &str = "rebuilt.db";

/// Why a rebuilt store could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
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

/// A store in the making. It takes its place, whole, in [`Rebuild::finish`]; whatever happens
/// before leaves the data directory as it was. Its methods block.
#[derive(Debug)]
pub struct Rebuild {
    directory: PathBuf,
    draft: PathBuf,
    connection: Connection,
}

fn remove(path: &Path) -> Result<(), RebuildError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(RebuildError::File { verb: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl Rebuild {
    /// Begins an empty store of schema `schema` in `directory`.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub fn begin(directory: &Path, schema: i64) -> Result<Self, RebuildError> {
        let draft = directory.join(DRAFT);
        // Of one that was killed.
        for ending in ["", "-wal", "-shm", "-journal"] {
            remove(&beside(&draft, ending))?;
        }
        let failed = |source| StoreError::Open { path: draft.clone(), source };
        let mut connection = Connection::open(&draft).map_err(failed)?;
        configure(&connection).map_err(failed)?;
        migrations::migrate_to(&mut connection, &draft, schema)?;
        Ok(Self { directory: directory.to_owned(), draft, connection })
    }

    /// Brings it to a later schema.
    ///
    /// # Errors
    /// [`RebuildError::Store`].
    pub fn migrate_to(&mut self, schema: i64) -> Result<(), RebuildError> {
        Ok(migrations::migrate_to(&mut self.connection, &self.draft, schema)?)
    }

    /// Adds what the entries of one instance's record hold: all of it or nothing.
    ///
    /// # Errors
    /// When it contradicts what is there already: a port that another instance has, for example.
    pub fn add<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a RecordedRows>,
        revision: i64,
    ) -> Result<(), RowError> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for rows in entries {
            recorded::insert_rows(&transaction, rows, revision)?;
        }
        Ok(transaction.commit()?)
    }

    /// Puts it where [`super::Store::open`] looks.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub fn finish(mut self) -> Result<(), RebuildError> {
        migrations::migrate(&mut self.connection, &self.draft)?;
        // The file alone is renamed: nothing may be left in a journal beside it.
        let failed = |source| StoreError::Statement { verb: "write", source };
        self.connection.pragma_update(None, "journal_mode", "DELETE").map_err(failed)?;
        self.connection.close().map_err(|(_, source)| failed(source))?;
        let file = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| RebuildError::File { verb, path, source }
        };
        let sync = |path: &Path| fs::File::open(path).and_then(|file| file.sync_all());
        sync(&self.draft).map_err(file("write", &self.draft))?;
        let place = self.directory.join(FILE_NAME);
        // Journals of the one that was there before belong to that.
        for ending in ["-wal", "-shm", "-journal"] {
            remove(&beside(&place, ending))?;
        }
        fs::rename(&self.draft, &place).map_err(file("replace", &place))?;
        sync(&self.directory).map_err(file("write", &self.directory))
    }
}
