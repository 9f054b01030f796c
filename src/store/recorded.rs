//! What the record beside an instance's data holds of the rows, and which records a transaction
//! makes stale.
//!
//! A record is divided into *entries*: one for the instance itself (its row, definition, ports,
//! place in a shared container and operations), and one for each of its bindings. The writing
//! connection notes by triggers which entries a transaction changes, so that no function of this
//! room can forget to. Rows are taken as they are, column by column: a column that is added later
//! comes along without a change here.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rusqlite::{
    Connection, OptionalExtension, Row, params_from_iter,
    types::{Value as SqlValue, ValueRef},
};
use serde_json::{Map, Value, json};

use super::{RowError, Rows, migrations, now, rebuild::is_of_the_rows};

/// Key of the entry for the instance itself; bindings have their id.
pub const INSTANCE_ENTRY: &str = "";

/// Rows of an entry, by table.
pub type RecordedRows = BTreeMap<String, Vec<Map<String, Value>>>;

/// An instance with a record that a transaction made stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// Its id.
    pub instance_id: String,
    /// Keys of the entries that changed.
    pub entries: BTreeSet<String>,
}

/// What says where a record is, and how new it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHead {
    /// Safe name of the instance.
    pub name: String,
    /// State, in the words of `lifecycle::InstanceState`.
    pub state: String,
    /// Counts the changes.
    pub revision: i64,
    /// There was data in a volume.
    pub has_data: bool,
}

/// Columns of `instances` that say how it is just now, which a record does not follow.
const OF_THE_MOMENT: [&str; 4] = ["updated_at", "revision", "health", "health_since"];

/// Tables of a record in the order in which their rows can be inserted.
const TABLES: [&str; 7] =
    ["definitions", "instances", "hosts", "tenants", "host_ports", "bindings", "operations"];

/// A table, what happens to a row of it, and which instance and entry that touches.
type Note = (&'static str, &'static str, &'static str, &'static str);

const NOTES: [Note; 16] = [
    ("instances", "INSERT", "NEW.id", "''"),
    ("instances", "DELETE", "OLD.id", "''"),
    ("host_ports", "INSERT", "NEW.instance_id", "''"),
    ("host_ports", "UPDATE", "NEW.instance_id", "''"),
    ("host_ports", "UPDATE", "OLD.instance_id", "''"),
    ("host_ports", "DELETE", "OLD.instance_id", "''"),
    ("bindings", "INSERT", "NEW.instance_id", "NEW.id"),
    ("bindings", "UPDATE", "NEW.instance_id", "NEW.id"),
    ("bindings", "DELETE", "OLD.instance_id", "OLD.id"),
    ("hosts", "INSERT", "NEW.instance_id", "''"),
    ("hosts", "DELETE", "OLD.instance_id", "''"),
    ("tenants", "INSERT", "NEW.instance_id", "''"),
    ("tenants", "UPDATE", "NEW.instance_id", "''"),
    ("tenants", "DELETE", "OLD.instance_id", "''"),
    // Ended ones are of interest only as the newest of their instance.
    ("operations", "INSERT", "NEW.instance_id", "coalesce(NEW.binding_id, '')"),
    ("operations", "UPDATE", "NEW.instance_id", "coalesce(NEW.binding_id, '')"),
];

/// Makes the writing connection note what it changes.
pub(super) fn take_notes(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.execute_batch(
        "CREATE TEMP TABLE touched (
             instance_id TEXT NOT NULL, entry TEXT NOT NULL, PRIMARY KEY (instance_id, entry)
         ) WITHOUT ROWID;",
    )?;
    let trigger = |number: usize, table: &str, event: &str, when: &str, id: &str, entry: &str| {
        // Not OR IGNORE, which the conflict clause of the outer statement would override.
        connection.execute_batch(&format!(
            "CREATE TEMP TRIGGER note_{number} AFTER {event} ON main.{table} WHEN {when} BEGIN
                 INSERT INTO touched SELECT {id}, {entry} WHERE {id} IS NOT NULL AND NOT EXISTS
                     (SELECT 1 FROM touched WHERE instance_id = {id} AND entry = {entry});
             END;"
        ))
    };
    for (number, (table, event, id, entry)) in NOTES.iter().enumerate() {
        trigger(number, table, event, "1", id, entry)?;
    }
    let columns = columns_of(connection, "instances")?;
    let differs: Vec<String> = columns
        .iter()
        .filter(|name| !OF_THE_MOMENT.contains(&name.as_str()))
        .map(|name| format!("OLD.{name} IS NOT NEW.{name}"))
        .collect();
    trigger(NOTES.len(), "instances", "UPDATE", &differs.join(" OR "), "NEW.id", "''")
}

fn columns_of(connection: &Connection, table: &str) -> Result<Vec<String>, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT name FROM pragma_table_info(?1)")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

fn json_of(value: ValueRef<'_>) -> Result<Value, rusqlite::Error> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) => json!(std::str::from_utf8(text)?),
        ValueRef::Blob(bytes) => json!({ "blob": BASE64.encode(bytes) }),
    })
}

/// The reverse of [`json_of`].
fn sql_of(value: &Value) -> Result<SqlValue, rusqlite::Error> {
    let odd = || rusqlite::Error::ToSqlConversionFailure("a record holds an odd value".into());
    Ok(match value {
        Value::Null => SqlValue::Null,
        Value::Bool(flag) => SqlValue::Integer(i64::from(*flag)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => SqlValue::Integer(number),
            None => SqlValue::Real(number.as_f64().ok_or_else(odd)?),
        },
        Value::String(text) => SqlValue::Text(text.clone()),
        Value::Object(object) => {
            let text = object.get("blob").and_then(Value::as_str).ok_or_else(odd)?;
            SqlValue::Blob(BASE64.decode(text).map_err(|_| odd())?)
        }
        Value::Array(_) => return Err(odd()),
    })
}

/// A row as it is, but for what is only of the moment.
fn whole_row(row: &Row<'_>) -> Result<Map<String, Value>, rusqlite::Error> {
    let names: Vec<String> = row.as_ref().column_names().map(str::to_owned).collect();
    let kept = names.into_iter().enumerate().filter(|(_, n)| !OF_THE_MOMENT.contains(&&**n));
    kept.map(|(index, name)| Ok((name, json_of(row.get_ref(index)?)?))).collect()
}

impl Rows<'_> {
    /// The records that have become stale since this was last asked, each with a revision of its
    /// own, but for instances of which `is_left_alone` says that their records do not follow. To be
    /// asked at the end of each transaction.
    pub fn take_touched(
        &self,
        is_left_alone: impl Fn(&str) -> bool,
    ) -> Result<Vec<Touched>, RowError> {
        let mut touched: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut statement = self.0.prepare_cached("SELECT instance_id, entry FROM touched")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            touched.entry(row.get(0)?).or_default().insert(row.get(1)?);
        }
        drop(found);
        if touched.is_empty() {
            return Ok(Vec::new());
        }
        self.forget_touched()?;
        let sql = "UPDATE instances SET revision = revision + 1 WHERE id = ?1";
        let mut statement = self.0.prepare_cached(sql)?;
        for id in touched.keys().filter(|id| !is_left_alone(id)) {
            statement.execute([id])?;
        }
        let touched = touched.into_iter();
        Ok(touched.map(|(instance_id, entries)| Touched { instance_id, entries }).collect())
    }

    /// Forgets what has become stale: all records are about to be compared. They get no revision,
    /// which could overtake that of a record that is newer.
    pub fn forget_touched(&self) -> Result<(), RowError> {
        self.0.prepare_cached("DELETE FROM touched")?.execute([])?;
        Ok(())
    }

    /// Where the record of an instance is, and how new it has to be.
    pub fn find_record_head(&self, id: &str) -> Result<Option<RecordHead>, RowError> {
        let sql = "SELECT name, state, revision, filled IS NOT NULL FROM instances WHERE id = ?1";
        let head = self.0.prepare_cached(sql)?.query_row([id], |row| {
            Ok(RecordHead {
                name: row.get(0)?,
                state: row.get(1)?,
                revision: row.get(2)?,
                has_data: row.get(3)?,
            })
        });
        Ok(head.optional()?)
    }

    /// Keys of all entries of an instance's record.
    pub fn list_record_entries(&self, id: &str) -> Result<Vec<String>, RowError> {
        let sql = "SELECT id FROM bindings WHERE instance_id = ?1 ORDER BY id";
        let mut statement = self.0.prepare_cached(sql)?;
        let bindings = statement.query_map([id], |row| row.get(0))?;
        let mut entries = vec![INSTANCE_ENTRY.to_owned()];
        for binding in bindings {
            entries.push(binding?);
        }
        Ok(entries)
    }

    /// The rows of an entry; none when there is no such binding.
    pub fn read_record_entry(&self, id: &str, entry: &str) -> Result<RecordedRows, RowError> {
        let of_instance: [(&str, &str); 6] = [
            ("definitions", "hash = (SELECT definition_hash FROM instances WHERE id = ?1)"),
            ("instances", "id = ?1"),
            ("hosts", "instance_id = ?1"),
            ("tenants", "instance_id = ?1"),
            ("host_ports", "instance_id = ?1"),
            // Those that run, and the newest, for which the platform may still ask.
            (
                "operations",
                "instance_id = ?1 AND binding_id IS NULL AND (state = 'in progress' OR rowid = \
                 (SELECT max(rowid) FROM operations WHERE instance_id = ?1 AND binding_id IS NULL))",
            ),
        ];
        let of_binding: [(&str, &str); 2] = [
            ("bindings", "instance_id = ?1 AND id = ?2"),
            (
                "operations",
                "instance_id = ?1 AND binding_id = ?2 AND state = 'in progress' AND EXISTS \
                 (SELECT 1 FROM bindings WHERE instance_id = ?1 AND id = ?2)",
            ),
        ];
        let is_instance = entry == INSTANCE_ENTRY;
        let wanted = if is_instance { &of_instance[..] } else { &of_binding[..] };
        let mut rows = RecordedRows::new();
        for (table, condition) in wanted {
            let sql = format!("SELECT * FROM {table} WHERE {condition}");
            let mut statement = self.0.prepare_cached(&sql)?;
            let keys = if is_instance { vec![id] } else { vec![id, entry] };
            let found: Vec<_> = statement
                .query_map(params_from_iter(keys), whole_row)?
                .collect::<Result<_, _>>()?;
            if !found.is_empty() {
                rows.insert((*table).to_owned(), found);
            }
        }
        Ok(rows)
    }

    /// Adds what the entries of one instance's record hold. The inner error: they do not fit, as
    /// with a port that another instance has.
    pub fn insert_record(
        &self,
        entries: &BTreeMap<String, RecordedRows>,
        revision: i64,
    ) -> Result<Result<(), RowError>, RowError> {
        for rows in entries.values() {
            match insert_rows(self.0, rows, revision) {
                Ok(()) => {}
                Err(error) if is_of_the_rows(&error) => return Ok(Err(error.into())),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Ok(()))
    }

    /// Schema of this store.
    #[must_use]
    pub fn schema() -> i64 {
        migrations::known()
    }
}

/// Inserts the rows of a record's entry, as they are.
pub(super) fn insert_rows(
    connection: &Connection,
    rows: &RecordedRows,
    revision: i64,
) -> Result<(), rusqlite::Error> {
    for table in TABLES {
        let known = columns_of(connection, table)?;
        for row in rows.get(table).into_iter().flatten() {
            let mut row = row.clone();
            if table == "instances" {
                row.insert("revision".to_owned(), json!(revision));
                row.insert("updated_at".to_owned(), json!(now()));
            }
            if let Some(column) = row.keys().find(|column| !known.contains(column)) {
                return Err(rusqlite::Error::InvalidColumnName(format!("{table}.{column}")));
            }
            let columns: Vec<&str> = row.keys().map(String::as_str).collect();
            let marks = vec!["?"; columns.len()].join(", ");
            // One that several instances have in common.
            let or = if table == "definitions" { " OR IGNORE" } else { "" };
            let sql = format!("INSERT{or} INTO {table} ({}) VALUES ({marks})", columns.join(", "));
            let values = row.values().map(sql_of).collect::<Result<Vec<_>, _>>()?;
            connection.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        }
    }
    Ok(())
}
