//! A store that is made anew from records.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

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

/// Whether an error comes from the rows, and not from the disk: those would fail again.
pub(super) fn is_of_the_rows(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig
        ),
        rusqlite::Error::ToSqlConversionFailure(_) | rusqlite::Error::InvalidColumnName(_) => true,
        _ => false,
    }
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

    /// Adds what the entries of one instance's record hold: all of it or nothing. The inner error:
    /// they do not fit, as with a port that another instance has.
    ///
    /// # Errors
    /// [`RebuildError::Store`] when fitting ones could not be written either.
    pub fn add<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a RecordedRows>,
        revision: i64,
    ) -> Result<Result<(), RowError>, RebuildError> {
        let insert = || {
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for rows in entries {
                recorded::insert_rows(&transaction, rows, revision)?;
            }
            transaction.commit()
        };
        match insert() {
            Ok(()) => Ok(Ok(())),
            Err(error) if is_of_the_rows(&error) => Ok(Err(error.into())),
            Err(source) => Err(StoreError::Statement { verb: "write", source }.into()),
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    /// The record of an instance with as many bytes of secrets.
    fn record(id: &str, port: u16, bytes: usize) -> RecordedRows {
        let blob = json!({ "blob": "QUFB".repeat(bytes / 3) });
        let rows = [
            ("definitions", json!({ "hash": "h", "sealed": { "blob": "" } })),
            (
                "instances",
                json!({
                    "id": id, "name": id, "service_id": "s", "plan_id": "p", "definition_hash": "h",
                    "state": "ready", "sealed": blob, "generation": 1, "created_at": 1,
                }),
            ),
            ("host_ports", json!({ "protocol": "tcp", "port": port, "instance_id": id })),
        ];
        let rows = rows.map(|(table, row)| {
            let Value::Object(row) = row else { panic!("a row") };
            (table.to_owned(), vec![row])
        });
        BTreeMap::from(rows)
    }

    #[test]
    fn rows_that_do_not_fit_are_told_from_a_disk_that_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let mut rebuild = Rebuild::begin(directory.path(), migrations::known()).unwrap();
        let add = |rebuild: &mut Rebuild, rows: &RecordedRows| rebuild.add([rows], 1);
        add(&mut rebuild, &record("one", 20_001, 10)).unwrap().unwrap();
        add(&mut rebuild, &record("taken", 20_001, 10)).unwrap().unwrap_err();
        let mut odd = record("odd", 20_002, 10);
        odd.get_mut("instances").unwrap()[0].insert("unknown".to_owned(), json!(1));
        add(&mut rebuild, &odd).unwrap().unwrap_err();
        let pages: i64 =
            rebuild.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        rebuild.connection.pragma_update(None, "max_page_count", pages + 2).unwrap();
        let large = record("large", 20_003, 100_000);
        let full = add(&mut rebuild, &large).unwrap_err();
        assert!(matches!(full, RebuildError::Store(StoreError::Statement { .. })), "{full:?}");
        // There is room again.
        rebuild.connection.pragma_update(None, "max_page_count", pages + 1000).unwrap();
        add(&mut rebuild, &large).unwrap().unwrap();
    }
}
