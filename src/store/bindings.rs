//! Rows of `bindings`.

use rusqlite::{OptionalExtension, params};

use super::{RowError, Rows, now};

/// One binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingRow {
    /// Instance that it belongs to.
    pub instance_id: String,
    /// Id as the platform knows it.
    pub id: String,
    /// Request and document, encrypted.
    pub sealed: Vec<u8>,
}

impl Rows<'_> {
    /// The binding with this id of this instance.
    pub fn find_binding(&self, instance: &str, id: &str) -> Result<Option<BindingRow>, RowError> {
        let sql = "SELECT instance_id, id, sealed FROM bindings WHERE instance_id = ?1 AND id = ?2";
        Ok(self
            .0
            .prepare_cached(sql)?
            .query_row([instance, id], |row| {
                Ok(BindingRow { instance_id: row.get(0)?, id: row.get(1)?, sealed: row.get(2)? })
            })
            .optional()?)
    }

    /// Adds a binding.
    pub fn insert_binding(&self, row: &BindingRow) -> Result<(), RowError> {
        let sql = "INSERT INTO bindings (instance_id, id, sealed, created_at) \
                   VALUES (?1, ?2, ?3, ?4)";
        self.0.prepare_cached(sql)?.execute(params![row.instance_id, row.id, row.sealed, now()])?;
        Ok(())
    }

    /// Removes a binding; whether there was one.
    pub fn delete_binding(&self, instance: &str, id: &str) -> Result<bool, RowError> {
        let sql = "DELETE FROM bindings WHERE instance_id = ?1 AND id = ?2";
        Ok(self.0.prepare_cached(sql)?.execute([instance, id])? > 0)
    }
}
