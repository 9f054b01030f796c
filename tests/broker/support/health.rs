//! How instances are, as the broker tells and keeps it.

use std::time::{Duration, Instant};

use docker_broker::store::Store;

use super::{Redis, TestBroker, eventually};

/// Longest time until an instance works again that can be put back at once; a loaded machine has
/// to start a container in it. Shorter than the interval between comparisons, so that events have to do it.
const BOUND: Duration = Duration::from_secs(45);

impl TestBroker {
    /// Ids of the instances that do not work, as `/readyz` names them.
    pub(crate) async fn unwell(&self) -> Vec<String> {
        let reply = self.client.raw(http::Method::GET, "/readyz", &[], "").await;
        let body = reply.expect("the broker answers").json();
        let listed = body["unwell"].as_array().expect("a list").iter();
        let ids: Vec<String> = listed.map(|id| id.as_str().expect("an id").to_owned()).collect();
        assert_eq!(body["unwell_instances"], ids.len());
        ids
    }

    /// What the store says of the health of an instance.
    pub(crate) async fn health(&self, instance: &str) -> Option<String> {
        let store = Store::open(self.data.path()).expect("the store can be opened");
        let id = instance.to_owned();
        let row = store.read(move |rows| rows.find_instance(&id)).await.expect("a row");
        let row = row.expect("the instance is there");
        assert_eq!(row.health.is_some(), row.health_since.is_some(), "{row:?}");
        row.health
    }

    /// Waits until the health of an instance has this word in it.
    pub(crate) async fn sickens(&self, instance: &str, word: &str) -> String {
        eventually("an instance not to work", async || match self.health(instance).await {
            Some(text) if text.contains(word) => Ok(text),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Waits until an instance is well, and redis has what was written: within a bounded time.
    pub(crate) async fn heals(&self, instance: &str, redis: &Redis) {
        let started = Instant::now();
        eventually("redis to have its data", async || {
            match redis.ask("GET mine").await?.as_str() {
                "precious" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
        eventually("the instance to be well", async || match self.health(instance).await {
            None => Ok(()),
            Some(reason) => Err(reason),
        })
        .await;
        assert_eq!(self.unwell().await, [""; 0]);
        assert!(started.elapsed() < BOUND, "it took {:?}", started.elapsed());
    }
}
