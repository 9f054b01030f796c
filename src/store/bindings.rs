//! Rows of `bindings`.

use rusqlite::{OptionalExtension, Row, params};

use super::{RowError, Rows, now};

/// One binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingRow {
    /// Instance that it belongs to.
    pub instance_id: String,
    /// Id as the platform knows it.
    pub id: String,
    /// State, in the words of `lifecycle`'s `BindingState`.
    pub state: String,
    /// Request, secrets and document, encrypted.
    pub sealed: Vec<u8>,
    /// When its credentials are to end, in seconds since the epoch.
    pub expires_at: Option<i64>,
}

const COLUMNS: &str = "instance_id, id, state, sealed, expires_at";

fn binding(row: &Row<'_>) -> Result<BindingRow, rusqlite::Error> {
    Ok(BindingRow {
        instance_id: row.get(0)?,
        id: row.get(1)?,
        state: row.get(2)?,
        sealed: row.get(3)?,
        expires_at: row.get(4)?,
    })
}

impl Rows<'_> {
    /// The binding with this id of this instance.
    pub fn find_binding(&self, instance: &str, id: &str) -> Result<Option<BindingRow>, RowError> {
        let sql = format!("SELECT {COLUMNS} FROM bindings WHERE instance_id = ?1 AND id = ?2");
        Ok(self.0.prepare_cached(&sql)?.query_row([instance, id], binding).optional()?)
    }

    /// The bindings of an instance.
    pub fn list_bindings(&self, instance: &str) -> Result<Vec<BindingRow>, RowError> {
        let sql = format!("SELECT {COLUMNS} FROM bindings WHERE instance_id = ?1 ORDER BY id");
        let mut statement = self.0.prepare_cached(&sql)?;
        Ok(statement.query_map([instance], binding)?.collect::<Result<_, _>>()?)
    }

    /// How many bindings an instance has.
    pub fn count_bindings(&self, instance: &str) -> Result<u64, RowError> {
        let sql = "SELECT count(*) FROM bindings WHERE instance_id = ?1";
        let count: i64 = self.0.prepare_cached(sql)?.query_row([instance], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Adds a binding.
    pub fn insert_binding(&self, row: &BindingRow) -> Result<(), RowError> {
        let sql = "INSERT INTO bindings (instance_id, id, state, sealed, expires_at, created_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.0.prepare_cached(sql)?.execute(params![
            row.instance_id,
            row.id,
            row.state,
            row.sealed,
            row.expires_at,
            now()
        ])?;
        Ok(())
    }

    /// Replaces everything of a binding but its ids.
    pub fn update_binding(&self, row: &BindingRow) -> Result<(), RowError> {
        let sql = "UPDATE bindings SET state = ?3, sealed = ?4, expires_at = ?5 \
                   WHERE instance_id = ?1 AND id = ?2";
        self.0.prepare_cached(sql)?.execute(params![
            row.instance_id,
            row.id,
            row.state,
            row.sealed,
            row.expires_at
        ])?;
        Ok(())
    }

    /// Removes a binding; whether there was one.
    pub fn delete_binding(&self, instance: &str, id: &str) -> Result<bool, RowError> {
        let sql = "DELETE FROM bindings WHERE instance_id = ?1 AND id = ?2";
        Ok(self.0.prepare_cached(sql)?.execute([instance, id])? > 0)
    }

    /// Bindings in one of two states whose time is up at `moment`, the oldest first.
    pub fn list_expired_bindings(
        &self,
        states: &[&str; 2],
        moment: i64,
    ) -> Result<Vec<BindingRow>, RowError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM bindings WHERE expires_at <= ?1 AND state IN (?2, ?3) \
             ORDER BY expires_at"
        );
        let mut statement = self.0.prepare_cached(&sql)?;
        let found = statement.query_map(params![moment, states[0], states[1]], binding)?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// When the next binding in one of two states expires.
    pub fn next_expiry(&self, states: &[&str; 2]) -> Result<Option<i64>, RowError> {
        let sql =
            "SELECT min(expires_at) FROM bindings WHERE expires_at > ?1 AND state IN (?2, ?3)";
        let moment = params![now(), states[0], states[1]];
        Ok(self.0.prepare_cached(sql)?.query_row(moment, |row| row.get(0))?)
    }
}
