//! Where the store holds sealed values, so that all of them can be sealed again with another key.

use std::collections::BTreeMap;

use rusqlite::{ToSql, params_from_iter};

use super::{RowError, Rows};

/// A column with sealed values.
#[derive(Debug, Clone, Copy)]
pub struct SealedColumn {
    /// The table.
    pub table: &'static str,
    /// The column; `NULL` where a row has nothing sealed.
    pub column: &'static str,
    /// Primary key of the table; its columns are TEXT.
    key: &'static [&'static str],
    /// SQL for the place that the values are sealed for (`credentials::Keyring::seal`).
    place: &'static str,
}

/// Every column of the schema that holds sealed values. A test finds those that are forgotten.
pub const SEALED: [SealedColumn; 5] = [
    SealedColumn {
        table: "definitions",
        column: "sealed",
        key: &["hash"],
        place: "'definition:' || hash",
    },
    SealedColumn { table: "instances", column: "sealed", key: &["id"], place: "'instance:' || id" },
    SealedColumn {
        table: "bindings",
        column: "sealed",
        key: &["instance_id", "id"],
        place: "'binding:' || octet_length(instance_id) || ':' || instance_id || ':' || id",
    },
    SealedColumn {
        table: "operations",
        column: "sealed",
        key: &["id"],
        place: "'operation:' || id",
    },
    // The proof of the key, sealed for its own name.
    SealedColumn { table: "meta", column: "value", key: &["key"], place: "key" },
];

/// One sealed value.
#[derive(Debug, Clone)]
pub struct SealedValue {
    /// What it is sealed for.
    pub place: String,
    /// The ciphertext.
    pub sealed: Vec<u8>,
    key: Vec<String>,
}

impl Rows<'_> {
    /// The first `bytes` of all sealed values, and how many values begin with them.
    pub fn count_sealed(&self, bytes: usize) -> Result<BTreeMap<Vec<u8>, u64>, RowError> {
        let mut counts = BTreeMap::new();
        for SealedColumn { table, column, .. } in SEALED {
            let sql = format!(
                "SELECT substr({column}, 1, {bytes}), count(*) FROM {table} \
                 WHERE {column} IS NOT NULL GROUP BY 1"
            );
            let mut statement = self.0.prepare_cached(&sql)?;
            let mut found = statement.query([])?;
            while let Some(row) = found.next()? {
                let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
                *counts.entry(row.get(0)?).or_default() += count;
            }
        }
        Ok(counts)
    }

    /// At most `limit` values of a column that do not begin with `prefix`, without the first
    /// `skip` of them.
    pub fn list_sealed_unlike(
        &self,
        place: &SealedColumn,
        prefix: &[u8],
        skip: usize,
        limit: usize,
    ) -> Result<Vec<SealedValue>, RowError> {
        let SealedColumn { table, column, key, place } = place;
        let key_columns = key.join(", ");
        let sql = format!(
            "SELECT {place}, {column}, {key_columns} FROM {table} \
             WHERE substr({column}, 1, length(?1)) <> ?1 ORDER BY {key_columns} \
             LIMIT {limit} OFFSET {skip}"
        );
        let mut statement = self.0.prepare(&sql)?;
        let found = statement.query_map([prefix], |row| {
            let key = (2..2 + key.len()).map(|index| row.get(index)).collect::<Result<_, _>>()?;
            Ok(SealedValue { place: row.get(0)?, sealed: row.get(1)?, key })
        })?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Replaces a value that [`Rows::list_sealed_unlike`] gave.
    pub fn replace_sealed(
        &self,
        place: &SealedColumn,
        value: &SealedValue,
        sealed: &[u8],
    ) -> Result<(), RowError> {
        let SealedColumn { table, column, key, .. } = place;
        let wanted: Vec<String> = key.iter().map(|name| format!("{name} = ?")).collect();
        let sql = format!("UPDATE {table} SET {column} = ? WHERE {}", wanted.join(" AND "));
        let key = value.key.iter().map(|part| part as &dyn ToSql);
        let values = std::iter::once(&sealed as &dyn ToSql).chain(key);
        self.0.prepare_cached(&sql)?.execute(params_from_iter(values))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rusqlite::Connection;

    use super::*;
    use crate::store::Store;

    /// Every column of type BLOB with its table, and the primary key of each table.
    fn blobs(directory: &std::path::Path) -> BTreeSet<(String, String, Vec<String>)> {
        let connection = Connection::open(directory.join(crate::store::FILE_NAME)).unwrap();
        let strings = |sql: &str, of: &[&str]| -> Vec<String> {
            let mut statement = connection.prepare(sql).unwrap();
            let rows = statement.query_map(params_from_iter(of), |row| row.get(0)).unwrap();
            rows.collect::<Result<_, _>>().unwrap()
        };
        let tables = strings("SELECT name FROM sqlite_schema WHERE type = 'table'", &[]);
        let columns = "SELECT name FROM pragma_table_info(?1) WHERE type = 'BLOB'";
        let key = "SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk";
        let of_table = |table: &String| {
            let key = strings(key, &[table]);
            let named = |column| (table.clone(), column, key.clone());
            strings(columns, &[table]).into_iter().map(named).collect::<Vec<_>>()
        };
        tables.iter().flat_map(of_table).collect()
    }

    #[tokio::test]
    async fn every_blob_of_the_schema_is_known_as_sealed() {
        let directory = tempfile::tempdir().unwrap();
        Store::open(directory.path()).unwrap();
        let known = SEALED.map(|one| {
            let key = one.key.iter().map(|name| (*name).to_owned()).collect();
            (one.table.to_owned(), one.column.to_owned(), key)
        });
        assert_eq!(blobs(directory.path()), BTreeSet::from(known));
    }

    #[tokio::test]
    async fn values_of_another_key_are_found_and_replaced_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let meta = SEALED[4];
        let done = store.write(move |rows| {
            for (key, value) in [("a", "old-a"), ("b", "new-b"), ("c", "old-c"), ("d", "old-d")] {
                rows.set_meta(key, value.as_bytes())?;
            }
            let counts = rows.count_sealed(3)?;
            assert_eq!(counts, BTreeMap::from([(b"new".to_vec(), 1), (b"old".to_vec(), 3)]));
            let found = rows.list_sealed_unlike(&meta, b"new", 1, 1)?;
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].place.as_str(), &found[0].sealed[..]), ("c", &b"old-c"[..]));
            rows.replace_sealed(&meta, &found[0], b"new-c")?;
            let left = rows.list_sealed_unlike(&meta, b"new", 0, 9)?;
            assert_eq!(left.iter().map(|one| &one.place[..]).collect::<Vec<_>>(), ["a", "d"]);
            assert_eq!(rows.find_meta("c")?.as_deref(), Some(&b"new-c"[..]));
            Ok(Ok::<(), ()>(()))
        });
        assert!(done.await.unwrap().is_ok());
    }
}
