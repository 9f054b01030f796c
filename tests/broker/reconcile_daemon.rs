//! dockerd itself goes away and comes back: it starts its containers, and the broker does what
//! is left to do, no more.

use crate::support::{Daemon, Redis, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_dockerd_everything_is_back_and_nothing_was_made_anew() {
    let mut daemon = Daemon::start().await;
    daemon.load_image("redis:7");
    let broker = daemon.broker().setting("reconcile_interval: 1s").start().await;
    let mut instances = Vec::new();
    for name in ["r1", "r2", "r3"] {
        broker.client.provision(name).await.expect(201);
        let redis = Redis::of(&broker.client.bind(name, "b").await.expect(201));
        redis.expect("SET mine precious").await;
        instances.push((name, redis));
    }
    let ids = |daemon: &Daemon| {
        let listed = daemon.docker_ok(&["ps", "-a", "-q", "--no-trunc"]);
        let mut ids: Vec<String> = listed.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    };
    let before = ids(&daemon);
    for kill in [false, true] {
        if kill {
            daemon.kill();
        } else {
            daemon.stop();
        }
        assert_eq!(broker.unwell().await, [""; 0], "nothing is known of them");
        daemon.start_again().await;
        for (name, redis) in &instances {
            broker.heals(name, redis).await;
        }
        assert_eq!(ids(&daemon), before);
    }
    // It is looked after as before.
    daemon.docker_ok(&["rm", "-f", &broker.container("r1")]);
    broker.heals("r1", &instances[0].1).await;
    let said = broker.log().into_iter().filter(|entry| entry["instance.id"] == "r2");
    let said: Vec<_> = said.filter(|entry| entry["level"] == "ERROR").collect();
    assert!(said.is_empty(), "{said:?}");
    eventually("the others to be as they were", async || {
        let now = ids(&daemon);
        let same = now.iter().filter(|id| before.contains(id)).count();
        if now.len() == 3 && same == 2 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}
