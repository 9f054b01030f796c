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
        let free = self
            .0
            .prepare_cached(sql)?
            .query_row(params![protocol, first, last], |row| row.get(0))
            .optional()?;
        if free.is_some() {
            return Ok(free);
        }
        // An instance that was adopted may have one further up than any that was given out.
        let sql = "WITH taken (port) AS (SELECT ?2 - 1 UNION ALL SELECT port FROM host_ports \
                   WHERE protocol = ?1 AND port BETWEEN ?2 AND ?3) \
                   SELECT min(port) + 1 FROM taken WHERE port < ?3 AND NOT EXISTS \
                   (SELECT 1 FROM host_ports AS next WHERE next.protocol = ?1 \
                   AND next.port = taken.port + 1)";
        let mut gap = self.0.prepare_cached(sql)?;
        Ok(gap.query_row(params![protocol, first, last], |row| row.get(0))?)
    }

    /// Reserves this very port for an instance; `false` when another one has it.
    pub fn take_port(
        &self,
        instance: &str,
        protocol: &str,
        container_port: &str,
        port: u16,
    ) -> Result<bool, RowError> {
        let sql = "INSERT INTO host_ports (protocol, port, instance_id, container_port) \
                   VALUES (?1, ?2, ?3, ?4) ON CONFLICT (protocol, port) DO UPDATE SET \
                   instance_id = ?3, container_port = ?4, released_at = NULL \
                   WHERE instance_id IS NULL";
        let mut statement = self.0.prepare_cached(sql)?;
        Ok(statement.execute(params![protocol, port, instance, container_port])? == 1)
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
    use super::super::{InstanceRow, RowError, Rows, Store};

    fn insert(rows: &Rows<'_>, ids: &[&str]) -> Result<(), RowError> {
        rows.insert_definition("h", b"sealed")?;
        for id in ids {
            rows.insert_instance(&InstanceRow {
                id: (*id).into(),
                name: (*id).into(),
                service_id: "s".into(),
                plan_id: "p".into(),
                definition_hash: "h".into(),
                state: "ready".into(),
                maintenance: None,
                sealed: vec![],
                generation: 1,
                health: None,
                health_since: None,
            })?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn ports_are_unique_and_the_one_longest_free_comes_next() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store
            .write(|rows| {
                insert(rows, &["a", "b", "c"])?;
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
                assert!(rows.take_port("a", "tcp", "5/tcp", 32_768)?, "outside of the range");
                assert!(!rows.take_port("b", "tcp", "5/tcp", 32_768)?);
                Ok(Ok::<(), ()>(()))
            })
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_port_taken_at_the_end_of_the_range_leaves_those_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store
            .write(|rows| {
                insert(rows, &["a", "b"])?;
                assert!(rows.take_port("a", "tcp", "1/tcp", 20_002)?);
                let mut given = Vec::new();
                while let Some(port) = rows.reserve_port("b", "tcp", "1/tcp", (20_000, 20_002))? {
                    given.push(port);
                }
                assert_eq!(given, [20_000, 20_001]);
                Ok(Ok::<(), ()>(()))
            })
            .await
            .unwrap()
            .unwrap();
    }
}
