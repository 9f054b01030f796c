//! Rows of `instances`, `definitions` and `meta`.

use rusqlite::{OptionalExtension, Row, named_params, params};

use super::{RowError, Rows, now};

/// One service instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow {
    /// Id as the platform knows it.
    pub id: String,
    /// Safe name on disk and in Docker.
    pub name: String,
    /// Id of the service.
    pub service_id: String,
    /// Id of the plan.
    pub plan_id: String,
    /// Hash of the stored definition.
    pub definition_hash: String,
    /// State, in the words of `lifecycle::InstanceState`.
    pub state: String,
    /// Version of the plan's maintenance info that the instance has.
    pub maintenance: Option<String>,
    /// Secrets, parameters and OSB context, encrypted.
    pub sealed: Vec<u8>,
    /// Counts the containers that were made for the instance.
    pub generation: i64,
    /// What is wrong with it at present, for people; `None`: nothing. Written by
    /// [`Rows::set_health`] only.
    pub health: Option<String>,
    /// Since when, in Unix seconds.
    pub health_since: Option<i64>,
}

const COLUMNS: &str = "id, name, service_id, plan_id, definition_hash, state, \
                       maintenance, sealed, generation, health, health_since";

fn instance(row: &Row<'_>) -> Result<InstanceRow, rusqlite::Error> {
    Ok(InstanceRow {
        id: row.get(0)?,
        name: row.get(1)?,
        service_id: row.get(2)?,
        plan_id: row.get(3)?,
        definition_hash: row.get(4)?,
        state: row.get(5)?,
        maintenance: row.get(6)?,
        sealed: row.get(7)?,
        generation: row.get(8)?,
        health: row.get(9)?,
        health_since: row.get(10)?,
    })
}

impl Rows<'_> {
    /// The instance with this id.
    pub fn find_instance(&self, id: &str) -> Result<Option<InstanceRow>, RowError> {
        let sql = format!("SELECT {COLUMNS} FROM instances WHERE id = ?1");
        Ok(self.0.prepare_cached(&sql)?.query_row([id], instance).optional()?)
    }

    /// Ids of all instances.
    pub fn list_instance_ids(&self) -> Result<Vec<String>, RowError> {
        let mut statement =
            self.0.prepare_cached("SELECT id FROM instances ORDER BY created_at")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// Safe names of all instances.
    pub fn list_instance_names(&self) -> Result<Vec<String>, RowError> {
        let mut statement = self.0.prepare_cached("SELECT name FROM instances")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// Adds an instance. It is well.
    pub fn insert_instance(&self, row: &InstanceRow) -> Result<(), RowError> {
        let sql = "INSERT INTO instances (id, name, service_id, plan_id, definition_hash, state, \
                   maintenance, sealed, generation, created_at, updated_at) VALUES \
                   (:id, :name, :service_id, :plan_id, :definition_hash, :state, :maintenance, \
                   :sealed, :generation, :now, :now)";
        self.0.prepare_cached(sql)?.execute(named_params! {
            ":id": row.id, ":name": row.name, ":service_id": row.service_id,
            ":plan_id": row.plan_id, ":definition_hash": row.definition_hash, ":state": row.state,
            ":maintenance": row.maintenance, ":sealed": row.sealed,
            ":generation": row.generation, ":now": now(),
        })?;
        Ok(())
    }

    /// Replaces everything of an instance but its id, its name and its health.
    pub fn update_instance(&self, row: &InstanceRow) -> Result<(), RowError> {
        let sql = "UPDATE instances SET service_id = :service_id, plan_id = :plan_id, \
                   definition_hash = :definition_hash, state = :state, \
                   maintenance = :maintenance, sealed = :sealed, generation = :generation, \
                   updated_at = :now WHERE id = :id";
        self.0.prepare_cached(sql)?.execute(named_params! {
            ":id": row.id, ":service_id": row.service_id, ":plan_id": row.plan_id,
            ":definition_hash": row.definition_hash, ":state": row.state,
            ":maintenance": row.maintenance, ":sealed": row.sealed,
            ":generation": row.generation, ":now": now(),
        })?;
        self.delete_unused_definitions()
    }

    /// Removes an instance with its bindings; its ports become free.
    pub fn delete_instance(&self, id: &str) -> Result<(), RowError> {
        self.release_ports(id)?;
        self.0.prepare_cached("DELETE FROM instances WHERE id = ?1")?.execute([id])?;
        self.delete_unused_definitions()
    }

    /// Volumes of an instance that were seen to hold data, by their paths in the container.
    pub fn list_filled_volumes(&self, id: &str) -> Result<Vec<String>, RowError> {
        let sql = "SELECT coalesce(filled, '') FROM instances WHERE id = ?1";
        let text: Option<String> =
            self.0.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
        Ok(text.iter().flat_map(|text| text.lines()).map(str::to_owned).collect())
    }

    /// Remembers that volumes of an instance hold data.
    pub fn add_filled_volumes(&self, id: &str, paths: &[String]) -> Result<(), RowError> {
        let mut all = self.list_filled_volumes(id)?;
        all.extend(paths.iter().cloned());
        all.sort();
        all.dedup();
        let sql = "UPDATE instances SET filled = ?2 WHERE id = ?1";
        let text = (!all.is_empty()).then(|| all.join("\n"));
        self.0.prepare_cached(sql)?.execute(params![id, text])?;
        Ok(())
    }

    /// Names and states of instances with volumes that were seen to hold data.
    pub fn list_with_data(&self) -> Result<Vec<(String, String)>, RowError> {
        let sql = "SELECT name, state FROM instances WHERE filled <> ''";
        let mut statement = self.0.prepare_cached(sql)?;
        let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Forgets it: its directories are made anew.
    pub fn clear_filled_volumes(&self, id: &str) -> Result<(), RowError> {
        self.0.prepare_cached("UPDATE instances SET filled = NULL WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// How many instances there are, of one plan or of all, without hosts.
    pub fn count_instances(&self, plan_id: Option<&str>) -> Result<u64, RowError> {
        let count: i64 = match plan_id {
            Some(plan) => self
                .0
                .prepare_cached(
                    "SELECT count(*) FROM instances WHERE plan_id = ?1 \
                     AND id NOT IN (SELECT instance_id FROM hosts)",
                )?
                .query_row([plan], |row| row.get(0))?,
            None => self
                .0
                .prepare_cached(
                    "SELECT (SELECT count(*) FROM instances) - (SELECT count(*) FROM hosts)",
                )?
                .query_row([], |row| row.get(0))?,
        };
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Plan ids in use, with how many instances each has.
    pub fn count_instances_by_plan(&self) -> Result<Vec<(String, u64)>, RowError> {
        let sql = "SELECT plan_id, count(*) FROM instances \
                   WHERE id NOT IN (SELECT instance_id FROM hosts) \
                   GROUP BY plan_id ORDER BY plan_id";
        let mut statement = self.0.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Stores a definition under its hash; the same one twice is stored once.
    pub fn insert_definition(&self, hash: &str, sealed: &[u8]) -> Result<(), RowError> {
        self.0
            .prepare_cached("INSERT OR IGNORE INTO definitions (hash, sealed) VALUES (?1, ?2)")?
            .execute(params![hash, sealed])?;
        Ok(())
    }

    /// The definition with this hash, sealed.
    pub fn find_definition(&self, hash: &str) -> Result<Option<Vec<u8>>, RowError> {
        Ok(self
            .0
            .prepare_cached("SELECT sealed FROM definitions WHERE hash = ?1")?
            .query_row([hash], |row| row.get(0))
            .optional()?)
    }

    fn delete_unused_definitions(&self) -> Result<(), RowError> {
        self.0
            .prepare_cached(
                "DELETE FROM definitions WHERE NOT EXISTS \
                 (SELECT 1 FROM instances WHERE definition_hash = hash)",
            )?
            .execute([])?;
        Ok(())
    }

    /// A value that belongs to the store as a whole.
    pub fn find_meta(&self, key: &str) -> Result<Option<Vec<u8>>, RowError> {
        Ok(self
            .0
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?)
    }

    /// Sets a value that belongs to the store as a whole.
    pub fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), RowError> {
        self.0
            .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?
            .execute(params![key, value])?;
        Ok(())
    }
}
