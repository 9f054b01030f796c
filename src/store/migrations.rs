//! Numbered migrations; `PRAGMA user_version` says how many were run.

use std::{cmp::Ordering, path::Path};

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// Never change one that was released: add another.
const MIGRATIONS: [&str; 1] = [
    // 1: the first schema.
    "
    CREATE TABLE meta (
        key   TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT;

    -- Plans as they were when instances were made of them, each distinct one once. Sealed, because
    -- an environment may hold secrets.
    CREATE TABLE definitions (
        hash   TEXT PRIMARY KEY,
        sealed BLOB NOT NULL
    ) STRICT;

    CREATE TABLE instances (
        id              TEXT PRIMARY KEY,
        name            TEXT NOT NULL UNIQUE,
        service_id      TEXT NOT NULL,
        plan_id         TEXT NOT NULL,
        definition_hash TEXT NOT NULL REFERENCES definitions (hash),
        state           TEXT NOT NULL,
        maintenance     TEXT,
        sealed          BLOB NOT NULL,
        generation      INTEGER NOT NULL,
        -- Paths of the volumes that were seen to hold data, one in a line.
        filled          TEXT,
        -- Counts the changes that its record beside its data has to follow.
        revision        INTEGER NOT NULL DEFAULT 0,
        created_at      INTEGER NOT NULL,
        updated_at      INTEGER NOT NULL,
        -- What is wrong with it at present, for people, and since when; NULL: nothing.
        health          TEXT,
        health_since    INTEGER
    ) STRICT;
    CREATE INDEX instances_by_plan ON instances (plan_id);
    CREATE INDEX instances_unwell ON instances (id) WHERE health IS NOT NULL;
    CREATE INDEX instances_by_definition ON instances (definition_hash);

    -- A port keeps its row when it is released, so that the one longest free is given out next.
    CREATE TABLE host_ports (
        protocol       TEXT NOT NULL,
        port           INTEGER NOT NULL,
        instance_id    TEXT REFERENCES instances (id) ON DELETE SET NULL,
        container_port TEXT,
        released_at    INTEGER,
        PRIMARY KEY (protocol, port)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX host_ports_by_instance ON host_ports (instance_id);
    CREATE INDEX host_ports_free ON host_ports (protocol, released_at) WHERE instance_id IS NULL;

    CREATE TABLE bindings (
        instance_id TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
        id          TEXT NOT NULL,
        state       TEXT NOT NULL,
        sealed      BLOB NOT NULL,
        expires_at  INTEGER,
        created_at  INTEGER NOT NULL,
        PRIMARY KEY (instance_id, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX bindings_expiring ON bindings (expires_at) WHERE expires_at IS NOT NULL;

    -- Outlives its instance, so that late polls learn how it ended.
    CREATE TABLE operations (
        id          TEXT PRIMARY KEY,
        instance_id TEXT NOT NULL,
        binding_id  TEXT,
        kind        TEXT NOT NULL,
        state       TEXT NOT NULL,
        description TEXT,
        refused     INTEGER NOT NULL DEFAULT 0,
        sealed      BLOB,
        started_at  INTEGER NOT NULL,
        finished_at INTEGER
    ) STRICT;
    CREATE INDEX operations_by_resource ON operations (instance_id, binding_id);
    CREATE INDEX operations_finished ON operations (finished_at) WHERE finished_at IS NOT NULL;
    -- One running operation per instance, whatever the code above believes.
    CREATE UNIQUE INDEX operations_running ON operations (instance_id)
        WHERE state = 'in progress' AND binding_id IS NULL;
    CREATE UNIQUE INDEX operations_running_on_bindings ON operations (instance_id, binding_id)
        WHERE state = 'in progress' AND binding_id IS NOT NULL;

    -- Shared containers: instances of which no platform knows, and whoever lives in them.
    CREATE TABLE hosts (
        instance_id TEXT PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tenants (
        instance_id TEXT PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
        host_id     TEXT NOT NULL REFERENCES hosts (instance_id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tenants_by_host ON tenants (host_id);
    ",
];

/// Newest schema that this version knows.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Whether a store has the schema of this version, for those who may not change it.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let known = known();
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
    match found.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(StoreError::TooOld { path: path.to_owned(), found, known }),
        Ordering::Greater => Err(StoreError::TooNew { path: path.to_owned(), found, known }),
    }
}

pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    migrate_to(connection, path, known())
}

/// Brings a store to schema `target`, or leaves it if it is beyond that.
pub(super) fn migrate_to(
    connection: &mut Connection,
    path: &Path,
    target: i64,
) -> Result<(), StoreError> {
    let known = known();
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
    if found > known {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known });
    }
    let wanted = |to: i64| to > found && to <= target;
    for (to, sql) in (1..).zip(MIGRATIONS).filter(|(to, _)| wanted(*to)) {
        let failed = |source| StoreError::Migrate { to, source };
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(sql).map_err(failed)?;
        transaction.pragma_update(None, "user_version", to).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
