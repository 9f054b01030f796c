//! What tests share that kill the broker at a step.

use docker_broker::lifecycle::fault::{Step, VARIABLE};

use crate::support::{REDIS, Redis, TestBroker, redis_yaml};

/// A plan whose process ends at once, in the service of the quick redis.
pub(crate) const BROKEN: &str = "redis-broken";

pub(crate) fn yaml() -> String {
    format!(
        "{}\n  - id: {BROKEN}
    name: broken
    description: ends at once
    container:
      image: busybox:1
      command: [sh, -c, 'exit 3']
      expose_ports: [6379/tcp]
      volumes: [{{path: /data, owner: '999:999'}}]
      restart: 'no'
    credentials:
      password: {{key: REDIS_PASSWORD}}
",
        redis_yaml("")
    )
}

/// A broker that has an instance `other` with data in it.
pub(crate) async fn broker_with_another_instance() -> (TestBroker, Redis) {
    let broker = TestBroker::builder().yaml(yaml(), REDIS.0, REDIS.1).start().await;
    broker.client.provision("other").await.expect(201);
    let other = Redis::of(&broker.client.bind("other", "b").await.expect(201));
    other.expect("SET mine precious").await;
    (broker, other)
}

/// Starts the broker again so that it dies at `step`.
pub(crate) async fn arm(broker: &mut TestBroker, step: Step) {
    broker.kill();
    broker.set_environment(VARIABLE, Some(&step.name()));
    broker.launch().await;
    broker.ready().await;
}

/// Waits until the broker has died, and starts it again without a fault.
pub(crate) async fn survive(broker: &mut TestBroker) {
    assert!(!broker.ended().await, "it dies by a signal");
    broker.set_environment(VARIABLE, None);
    broker.launch().await;
    broker.ready().await;
}
