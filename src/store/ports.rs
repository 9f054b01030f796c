//! Rows of `host_ports`.

use rusqlite::{OptionalExtension, params};

use super::{RowError, Rows, now};

/// A host port that an instance has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRow {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Port on the host.
    pub port: u16,
    /// Port in the container, for example `6379/tcp`.
    pub container_port: String,
}

impl Rows<'_> {
    /// Reserves a port between `first` and `last` for an instance: one that was never used, else
    /// the one that has been free for longest. `None` when all are taken.
    pub fn reserve_port(
        &self,
        instance: &str,
        protocol: &str,
        container_port: &str,
        (first, last): (u16, u16),
    ) -> Result<Option<u16>, RowError> {
        let Some(port) = self.next_port(protocol, first, last)? else { return Ok(None) };
        let sql = "INSERT INTO host_ports (protocol, port, instance_id, container_port) \
                   VALUES (?1, ?2, ?3, ?4) ON CONFLICT (protocol, port) DO UPDATE SET \
                   instance_id = ?3, container_port = ?4, released_at = NULL";
        self.0.prepare_cached(sql)?.execute(params![protocol, port, instance, container_port])?;
        Ok(Some(port))
    }

    fn next_port(&self, protocol: &str, first: u16, last: u16) -> Result<Option<u16>, RowError> {
        let sql = "SELECT max(port) FROM host_ports WHERE protocol = ?1 AND port BETWEEN ?2 AND ?3";
        let highest: Option<u16> = self
            .0
            .prepare_cached(sql)?
            .query_row(params![protocol, first, last], |row| row.get(0))?;
        match highest {
            None => return Ok(Some(first)),
            Some(highest) if highest < last => return Ok(Some(highest + 1)),
            Some(_) => {}
        }
        let sql = "SELECT port FROM host_ports WHERE protocol = ?1 AND instance_id IS NULL \
                   AND port BETWEEN ?2 AND ?3 ORDER BY released_at, port LIMIT 1";
        Ok(self
            .0
            .prepare_cached(sql)?
            .query_row(params![protocol, first, last], |row| row.get(0))
            .optional()?)
    }

    /// The ports of an instance: those of the container that it is in.
    pub fn list_ports(&self, instance: &str) -> Result<Vec<PortRow>, RowError> {
        let sql = "SELECT protocol, port, container_port FROM host_ports \
                   WHERE instance_id = \
                   coalesce((SELECT host_id FROM tenants WHERE instance_id = ?1), ?1) ORDER BY port";
        let mut statement = self.0.prepare_cached(sql)?;
        let rows = statement.query_map([instance], |row| {
            Ok(PortRow { protocol: row.get(0)?, port: row.get(1)?, container_port: row.get(2)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Gives up all ports of an instance.
    pub fn release_ports(&self, instance: &str) -> Result<(), RowError> {
        let sql = "UPDATE host_ports SET instance_id = NULL, container_port = NULL, \
                   released_at = ?2 WHERE instance_id = ?1";
        self.0.prepare_cached(sql)?.execute(params![instance, now()])?;
        Ok(())
    }

    /// Gives up one port, because somebody else holds it on the host.
    pub fn release_port(&self, protocol: &str, port: u16) -> Result<(), RowError> {
        let sql = "UPDATE host_ports SET instance_id = NULL, container_port = NULL, \
                   released_at = ?3 WHERE protocol = ?1 AND port = ?2";
        self.0.prepare_cached(sql)?.execute(params![protocol, port, now()])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InstanceRow, Store};

    #[tokio::test]
    async fn ports_are_unique_and_the_one_longest_free_comes_next() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store
            .write(|rows| {
                rows.insert_definition("h", b"sealed")?;
                for id in ["a", "b", "c"] {
                    rows.insert_instance(&InstanceRow {
                        id: id.into(),
                        name: id.into(),
                        service_id: "s".into(),
                        plan_id: "p".into(),
                        definition_hash: "h".into(),
                        state: "ready".into(),
                        maintenance: None,
                        sealed: vec![],
                        generation: 1,
                    })?;
                }
                let range = (20_000, 20_002);
                let take = |id: &str| rows.reserve_port(id, "tcp", "1/tcp", range);
                assert_eq!(take("a")?, Some(20_000));
                assert_eq!(take("b")?, Some(20_001));
                assert_eq!(rows.reserve_port("b", "udp", "1/udp", range)?, Some(20_000));
                rows.release_port("tcp", 20_000)?;
                assert_eq!(take("c")?, Some(20_002), "a port never used comes first");
                assert_eq!(take("c")?, Some(20_000));
                assert_eq!(take("c")?, None, "the range is exhausted");
                rows.delete_instance("b")?;
                assert_eq!(take("c")?, Some(20_001));
                Ok(Ok::<(), ()>(()))
            })
            .await
            .unwrap()
            .unwrap();
    }
}
