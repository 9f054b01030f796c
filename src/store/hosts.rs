//! Rows of `hosts` and `tenants`: shared containers, and which instance lives in which.
//!
//! A host is a row of `instances` like any other, of which no platform knows: so its ports, its
//! secrets, its operations and its recovery are those of an instance with a container of its own.

use rusqlite::{OptionalExtension, params};

use super::{RowError, Rows};

impl Rows<'_> {
    /// Makes an instance a host.
    pub fn insert_host(&self, id: &str) -> Result<(), RowError> {
        self.0.prepare_cached("INSERT INTO hosts (instance_id) VALUES (?1)")?.execute([id])?;
        Ok(())
    }

    /// Hosts of this very definition in one of two states with less than `most` tenants, the
    /// fullest first: containers go when their last tenant does.
    pub fn list_hosts_with_room(
        &self,
        definition_hash: &str,
        states: [&str; 2],
        most: u32,
    ) -> Result<Vec<String>, RowError> {
        let sql = "SELECT id FROM instances JOIN hosts ON hosts.instance_id = id \
                   LEFT JOIN tenants ON host_id = id \
                   WHERE definition_hash = ?1 AND state IN (?2, ?3) \
                   GROUP BY id HAVING count(host_id) < ?4 \
                   ORDER BY count(host_id) DESC, created_at, id";
        let mut statement = self.0.prepare_cached(sql)?;
        let [one, other] = states;
        let rows = statement.query_map(params![definition_hash, one, other, most], |r| r.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Gives an instance its place in a host.
    pub fn insert_tenant(&self, id: &str, host: &str) -> Result<(), RowError> {
        let sql = "INSERT INTO tenants (instance_id, host_id) VALUES (?1, ?2)";
        self.0.prepare_cached(sql)?.execute([id, host])?;
        Ok(())
    }

    /// The host in which an instance lives.
    pub fn find_host_of(&self, tenant: &str) -> Result<Option<String>, RowError> {
        let sql = "SELECT host_id FROM tenants WHERE instance_id = ?1";
        Ok(self.0.prepare_cached(sql)?.query_row([tenant], |row| row.get(0)).optional()?)
    }

    /// How many instances live in a host.
    pub fn count_tenants(&self, host: &str) -> Result<u64, RowError> {
        let sql = "SELECT count(*) FROM tenants WHERE host_id = ?1";
        let count: i64 = self.0.prepare_cached(sql)?.query_row([host], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InstanceRow, Store};

    fn instance(id: &str, definition: &str, state: &str) -> InstanceRow {
        InstanceRow {
            id: id.into(),
            name: id.into(),
            service_id: "s".into(),
            plan_id: "p".into(),
            definition_hash: definition.into(),
            state: state.into(),
            maintenance: None,
            sealed: vec![],
            generation: 1,
            health: None,
            health_since: None,
        }
    }

    #[tokio::test]
    async fn the_fullest_host_with_room_comes_first_and_hosts_are_no_instances_of_a_plan() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store
            .write(|rows| {
                rows.insert_definition("h", b"sealed")?;
                rows.insert_definition("other", b"sealed")?;
                for (id, definition, state) in [
                    ("one", "h", "ready"),
                    ("two", "h", "provisioning"),
                    ("failed", "h", "provision failed"),
                    ("changed", "other", "ready"),
                ] {
                    rows.insert_instance(&instance(id, definition, state))?;
                    rows.insert_host(id)?;
                }
                let tenant = |id: &str, host: &str| {
                    rows.insert_instance(&instance(id, "h", "ready"))?;
                    rows.insert_tenant(id, host)
                };
                let room = |most| rows.list_hosts_with_room("h", ["ready", "provisioning"], most);
                assert_eq!(room(1)?, ["one", "two"]);
                tenant("a", "two")?;
                assert_eq!(room(2)?, ["two", "one"]);
                assert_eq!(room(1)?, ["one"]);
                assert_eq!(rows.count_instances(Some("p"))?, 1);
                assert_eq!(rows.count_instances(None)?, 1);
                assert_eq!(rows.count_instances_by_plan()?, [("p".to_owned(), 1)]);

                let range = (20_000, 20_010);
                let port = rows.reserve_port("two", "tcp", "1/tcp", range)?;
                let shown: Vec<_> = rows.list_ports("a")?.into_iter().map(|row| row.port).collect();
                assert_eq!(shown, Vec::from_iter(port), "ports belong to the container");

                tenant("b", "two")?;
                rows.delete_instance("a")?;
                assert_eq!(rows.list_ports("two")?.len(), 1, "a tenant takes no ports along");
                assert_eq!((rows.count_tenants("two")?, rows.find_host_of("a")?), (1, None));
                rows.delete_instance("two")?;
                assert_eq!(rows.find_host_of("b")?, None);
                assert!(rows.find_instance("b")?.is_some());
                Ok(Ok::<(), ()>(()))
            })
            .await
            .unwrap()
            .unwrap();
    }
}
