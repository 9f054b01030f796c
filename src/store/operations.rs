//! Rows of `operations`: the journal.

use rusqlite::{OptionalExtension, Row, params};

use super::{RowError, Rows, now};

/// Days for which the outcome of an operation can still be asked for.
pub const TOMBSTONE_DAYS: i64 = 7;

/// One operation on an instance or a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRow {
    /// The `operation` string of OSB.
    pub id: String,
    /// Instance that it belongs to.
    pub instance_id: String,
    /// Binding that it belongs to, if any.
    pub binding_id: Option<String>,
    /// `provision`, `update`, `deprovision`, `bind`, `unbind` or `expire`.
    pub kind: String,
    /// `in progress`, `succeeded` or `failed`, the words of OSB.
    pub state: String,
    /// For users.
    pub description: Option<String>,
    /// It failed because of what was asked for.
    pub refused: bool,
    /// The request, encrypted, where the operation needs it to be resumed.
    pub sealed: Option<Vec<u8>>,
}

const COLUMNS: &str = "id, instance_id, binding_id, kind, state, description, refused, sealed";

fn operation(row: &Row<'_>) -> Result<OperationRow, rusqlite::Error> {
    Ok(OperationRow {
        id: row.get(0)?,
        instance_id: row.get(1)?,
        binding_id: row.get(2)?,
        kind: row.get(3)?,
        state: row.get(4)?,
        description: row.get(5)?,
        refused: row.get(6)?,
        sealed: row.get(7)?,
    })
}

impl OperationRow {
    /// One that begins.
    #[must_use]
    pub fn new(id: String, kind: &str, instance: &str, binding: Option<&str>) -> Self {
        Self {
            id,
            instance_id: instance.to_owned(),
            binding_id: binding.map(str::to_owned),
            kind: kind.to_owned(),
            state: "in progress".to_owned(),
            description: None,
            refused: false,
            sealed: None,
        }
    }
}

impl Rows<'_> {
    /// Adds an operation. A second running one on the same instance is refused by the schema.
    pub fn insert_operation(&self, row: &OperationRow) -> Result<(), RowError> {
        let sql = "INSERT INTO operations (id, instance_id, binding_id, kind, state, description, \
                   sealed, started_at, finished_at) VALUES \
                   (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, iif(?5 = 'in progress', NULL, ?8))";
        self.0.prepare_cached(sql)?.execute(params![
            row.id,
            row.instance_id,
            row.binding_id,
            row.kind,
            row.state,
            row.description,
            row.sealed,
            now()
        ])?;
        Ok(())
    }

    /// The operation with this id.
    pub fn find_operation(&self, id: &str) -> Result<Option<OperationRow>, RowError> {
        let sql = format!("SELECT {COLUMNS} FROM operations WHERE id = ?1");
        Ok(self.0.prepare_cached(&sql)?.query_row([id], operation).optional()?)
    }

    /// The newest operation on an instance (`binding` is `None`) or on a binding. The order of the rows
    /// counts: a clock may go back.
    pub fn find_last_operation(
        &self,
        instance: &str,
        binding: Option<&str>,
    ) -> Result<Option<OperationRow>, RowError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM operations WHERE instance_id = ?1 AND binding_id IS ?2 \
             ORDER BY rowid DESC LIMIT 1"
        );
        let mut statement = self.0.prepare_cached(&sql)?;
        Ok(statement.query_row(params![instance, binding], operation).optional()?)
    }

    /// The operation that runs on an instance.
    pub fn find_running_operation(&self, instance: &str) -> Result<Option<OperationRow>, RowError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM operations \
             WHERE instance_id = ?1 AND binding_id IS NULL AND state = 'in progress'"
        );
        Ok(self.0.prepare_cached(&sql)?.query_row([instance], operation).optional()?)
    }

    /// The operation that runs on a binding.
    pub fn find_running_operation_on(
        &self,
        instance: &str,
        binding: &str,
    ) -> Result<Option<OperationRow>, RowError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM operations \
             WHERE instance_id = ?1 AND binding_id = ?2 AND state = 'in progress'"
        );
        Ok(self.0.prepare_cached(&sql)?.query_row([instance, binding], operation).optional()?)
    }

    /// Operations that run on the bindings of an instance.
    pub fn list_running_operations_on_bindings(
        &self,
        instance: &str,
    ) -> Result<Vec<OperationRow>, RowError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM operations \
             WHERE instance_id = ?1 AND binding_id IS NOT NULL AND state = 'in progress'"
        );
        let mut statement = self.0.prepare_cached(&sql)?;
        Ok(statement.query_map([instance], operation)?.collect::<Result<_, _>>()?)
    }

    /// Notes that an operation failed because of what was asked for.
    pub fn mark_refused(&self, id: &str) -> Result<(), RowError> {
        let sql = "UPDATE operations SET refused = 1 WHERE id = ?1";
        self.0.prepare_cached(sql)?.execute([id])?;
        Ok(())
    }

    /// Notes why a running operation will fail, before what it did is taken back.
    pub fn note_reason(&self, id: &str, reason: &str) -> Result<(), RowError> {
        let sql = "UPDATE operations SET description = ?2 WHERE id = ?1 AND state = 'in progress'";
        self.0.prepare_cached(sql)?.execute([id, reason])?;
        Ok(())
    }

    /// All operations that run, oldest first.
    pub fn list_running_operations(&self) -> Result<Vec<OperationRow>, RowError> {
        let sql =
            format!("SELECT {COLUMNS} FROM operations WHERE state = 'in progress' ORDER BY rowid");
        let mut statement = self.0.prepare_cached(&sql)?;
        Ok(statement.query_map([], operation)?.collect::<Result<_, _>>()?)
    }

    /// Ends a running operation; whether it was running. What a failed update was to bring is kept: the
    /// way back may have to be tried again.
    pub fn finish_operation(
        &self,
        id: &str,
        state: &str,
        description: Option<&str>,
    ) -> Result<bool, RowError> {
        let sql = "UPDATE operations SET state = ?2, description = ?3, finished_at = ?4, \
                   sealed = iif(?2 = 'failed' AND kind = 'update', sealed, NULL) \
                   WHERE id = ?1 AND state = 'in progress'";
        let changed =
            self.0.prepare_cached(sql)?.execute(params![id, state, description, now()])?;
        Ok(changed > 0)
    }

    /// Forgets outcomes that nobody will ask for any more: of instances and bindings that are gone,
    /// and all but the newest of those that live.
    pub fn delete_old_operations(&self) -> Result<usize, RowError> {
        let sql = "DELETE FROM operations WHERE finished_at < ?1 AND EXISTS (\
                     SELECT 1 FROM operations newer WHERE newer.instance_id = operations.instance_id \
                     AND newer.binding_id IS operations.binding_id \
                     AND newer.rowid > operations.rowid) \
                   OR finished_at < ?1 AND NOT EXISTS (\
                     SELECT 1 FROM instances WHERE instances.id = operations.instance_id) \
                   OR finished_at < ?1 AND binding_id IS NOT NULL AND NOT EXISTS (\
                     SELECT 1 FROM bindings WHERE bindings.instance_id = operations.instance_id \
                     AND bindings.id = operations.binding_id)";
        let before = now() - TOMBSTONE_DAYS * 86_400;
        Ok(self.0.prepare_cached(sql)?.execute([before])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn the_newest_operation_is_the_newest_also_when_the_clock_went_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let written = store.write(|rows| {
            rows.insert_operation(&OperationRow::new("one".into(), "provision", "i", None))?;
            rows.finish_operation("one", "succeeded", None)?;
            rows.0.execute("UPDATE operations SET started_at = started_at + 31536000", [])?;
            rows.insert_operation(&OperationRow::new("two".into(), "update", "i", None))?;
            let last = rows.find_last_operation("i", None)?;
            assert_eq!(last.map(|row| row.id).as_deref(), Some("two"));
            Ok(Ok::<(), ()>(()))
        });
        assert_eq!(written.await.unwrap(), Ok(()));
    }
}
