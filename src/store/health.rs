//! What is wrong with instances: the columns `health` and `health_since` of `instances`.

use rusqlite::params;

use super::{RowError, Rows, now};

/// An instance with what its container has to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedRow {
    /// Id.
    pub id: String,
    /// Safe name on disk and in Docker.
    pub name: String,
    /// State, in the words of `lifecycle::InstanceState`.
    pub state: String,
    /// Which container of the instance it is.
    pub generation: i64,
    /// Something is wrong with it, as far as is known.
    pub unwell: bool,
    /// Host ports that it has.
    pub ports: Vec<u16>,
}

impl Rows<'_> {
    /// Instances in one of these states, without those that live in the container of another.
    pub fn list_watched(&self, states: [&str; 2]) -> Result<Vec<WatchedRow>, RowError> {
        // Ports come in the order of the instances, so that one pass over both is enough.
        let sql = "SELECT id, name, state, generation, health IS NOT NULL, port \
                   FROM instances LEFT JOIN host_ports ON instance_id = id \
                   WHERE state IN (?1, ?2) AND id NOT IN (SELECT instance_id FROM tenants) \
                   ORDER BY id";
        let mut statement = self.0.prepare_cached(sql)?;
        let mut rows = statement.query(states)?;
        let mut watched: Vec<WatchedRow> = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, port): (String, Option<u16>) = (row.get(0)?, row.get(5)?);
            match watched.last_mut().filter(|last| last.id == id) {
                Some(last) => last.ports.extend(port),
                None => watched.push(WatchedRow {
                    id,
                    name: row.get(1)?,
                    state: row.get(2)?,
                    generation: row.get(3)?,
                    unwell: row.get(4)?,
                    ports: Vec::from_iter(port),
                }),
            }
        }
        Ok(watched)
    }

    /// Says what is wrong with an instance; `None`: nothing. Whether that is news.
    pub fn set_health(&self, id: &str, health: Option<&str>) -> Result<bool, RowError> {
        let sql = "UPDATE instances SET health = ?2, health_since = \
                   CASE WHEN ?2 IS NULL THEN NULL ELSE coalesce(health_since, ?3) END \
                   WHERE id = ?1 AND health IS NOT ?2";
        Ok(self.0.prepare_cached(sql)?.execute(params![id, health, now()])? > 0)
    }

    /// What is wrong with an instance; `None`: nothing, or there is no such instance.
    pub fn find_health(&self, id: &str) -> Result<Option<String>, RowError> {
        Ok(self.find_instance(id)?.and_then(|row| row.health))
    }

    /// Ids of the instances in one of these states that are not well.
    pub fn list_unwell(&self, states: [&str; 2]) -> Result<Vec<String>, RowError> {
        let sql = "SELECT id FROM instances WHERE health IS NOT NULL AND state IN (?1, ?2) \
                   ORDER BY id";
        let mut statement = self.0.prepare_cached(sql)?;
        Ok(statement.query_map(states, |row| row.get(0))?.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InstanceRow, RowError, Store};

    fn instance(id: &str, state: &str) -> InstanceRow {
        InstanceRow {
            id: id.into(),
            name: format!("i-{id}"),
            service_id: "s".into(),
            plan_id: "p".into(),
            definition_hash: "d".into(),
            state: state.into(),
            maintenance: None,
            sealed: vec![],
            generation: 1,
            health: None,
            health_since: None,
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_news_once_and_keeps_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let written = store.write(|rows| {
            rows.insert_definition("d", b"")?;
            for (id, state) in [("a", "ready"), ("b", "ready"), ("c", "updating")] {
                rows.insert_instance(&instance(id, state))?;
            }
            rows.reserve_port("c", "tcp", "1/tcp", (7, 9))?;
            rows.reserve_port("c", "udp", "1/udp", (7, 9))?;
            rows.insert_host("b")?;
            rows.insert_tenant("a", "b")?;
            assert!(rows.set_health("b", Some("it is away"))?);
            assert!(!rows.set_health("b", Some("it is away"))?);
            let since = rows.find_instance("b")?.unwrap().health_since;
            assert!(since.is_some());
            // Whoever replaces the row knows nothing of it.
            rows.update_instance(&instance("b", "ready"))?;
            assert!(rows.set_health("b", Some("it is still away"))?);
            assert_eq!(rows.find_instance("b")?.unwrap().health_since, since);
            assert_eq!(rows.list_unwell(["ready", "failed"])?, ["b"]);
            let watched = rows.list_watched(["ready", "updating"])?;
            let seen: Vec<_> = watched.iter().map(|row| (row.id.as_str(), row.unwell)).collect();
            assert_eq!(seen, [("b", true), ("c", false)]);
            assert_eq!((&watched[0].ports[..], &watched[1].ports[..]), (&[][..], &[7, 7][..]));
            assert!(rows.set_health("b", None)?);
            let row = rows.find_instance("b")?.unwrap();
            assert_eq!((row.health, row.health_since), (None, None));
            assert!(!rows.set_health("nobody", Some("it is away"))?);
            Ok::<_, RowError>(Ok::<(), ()>(()))
        });
        written.await.unwrap().unwrap();
    }
}
