//! The broker is killed in the middle of what it does with an adopted instance.

use docker_broker::lifecycle::fault::Step;
use serde_json::json;

use crate::{
    adopt::{PLANS, SERVICE, adopted, nothing_is_left, prepared, redis, serves_as_before, start},
    kill_at_every_step::{arm, send, survive},
    support::{Legacy, Redis, TestBroker, docker, docker_ok, eventually},
};

/// An adopted instance: id, port, client, and dockerd's id of its container.
struct Instance {
    broker: TestBroker,
    legacy: Legacy,
    id: String,
    port: u16,
    redis: Redis,
    container: String,
}

async fn instance() -> Instance {
    let (mut broker, mut legacy) = prepared();
    let (id, port, redis) = redis(&mut legacy, &["COLOUR=red"]).await;
    adopted(&broker, &legacy, &id);
    start(&mut broker).await;
    let container = docker_ok(&["inspect", "-f", "{{.Id}}", &broker.container(&id)]);
    Instance { broker, legacy, id, port, redis, container }
}

async fn updated(step: Step, plan: &str) -> Instance {
    let mut one = instance().await;
    arm(&mut one.broker, step).await;
    let body = json!({"service_id": SERVICE, "plan_id": plan});
    let path = format!("/v2/service_instances/{}?accepts_incomplete=true", one.id);
    send(&one.broker, http::Method::PATCH, &path, &body).await;
    survive(&mut one.broker).await;
    one
}

async fn gone(mut one: Instance, plan: &str) {
    plan.clone_into(&mut one.broker.client.plan_id);
    let client = one.broker.client.clone();
    serves_as_before(&client, &one.id, one.port, &one.redis).await;
    client.deprovision(&one.id).await.expect(200);
    nothing_is_left(&one.broker, &one.legacy, &one.id);
}

async fn update_goes_on_after(step: Step) {
    let one = updated(step, PLANS[1]).await;
    assert_eq!(one.broker.client.poll(&one.id).await.0, "succeeded");
    let now = docker_ok(&["inspect", "-f", "{{.Id}}", &one.broker.container(&one.id)]);
    assert_ne!(now, one.container);
    gone(one, PLANS[1]).await;
}

async fn failed_update_goes_back_after(step: Step) {
    let one = updated(step, PLANS[4]).await;
    let (state, reason) = one.broker.client.poll(&one.id).await;
    assert_eq!(state, "failed");
    assert!(reason.contains("the service is back with its data as it was before"), "{reason}");
    let facts = ["inspect", "-f", "{{.Id}} {{.HostConfig.RestartPolicy.Name}}"];
    let now = docker_ok(&[&facts[..], &[&one.broker.container(&one.id)]].concat());
    assert_eq!(now, format!("{} always", one.container), "the adopted one is back");
    gone(one, PLANS[0]).await;
}

async fn deprovision_goes_on_after(step: Step) {
    let mut one = instance().await;
    arm(&mut one.broker, step).await;
    let ids = one.broker.client.ids();
    let path = format!("/v2/service_instances/{}?accepts_incomplete=true&{ids}", one.id);
    send(&one.broker, http::Method::DELETE, &path, &json!({})).await;
    survive(&mut one.broker).await;
    assert_eq!(one.broker.client.poll(&one.id).await.0, "succeeded");
    nothing_is_left(&one.broker, &one.legacy, &one.id);
}

macro_rules! killed {
    ($($test:ident: $survives:ident($step:ident),)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                $survives(Step::$step).await;
            }
        )*
    };
}

killed! {
    an_adopted_one_is_updated_when_the_broker_dies_after_accepting_it: update_goes_on_after(UpdateAccepted),
    an_adopted_one_is_updated_when_the_broker_dies_with_it_stopped: update_goes_on_after(UpdateStopped),
    an_adopted_one_is_updated_when_the_broker_dies_with_it_renamed: update_goes_on_after(UpdateRenamed),
    an_adopted_one_is_updated_when_the_broker_dies_with_the_new_one_made: update_goes_on_after(UpdateCreated),
    an_adopted_one_is_updated_when_the_broker_dies_after_the_commit: update_goes_on_after(UpdateCommitted),
    an_adopted_one_comes_back_when_the_broker_dies_before_rolling_back: failed_update_goes_back_after(UpdateRollingBack),
    an_adopted_one_is_back_when_the_broker_dies_after_rolling_back: failed_update_goes_back_after(UpdateRolledBack),
    an_adopted_one_goes_when_the_broker_dies_with_it_stopped: deprovision_goes_on_after(DeprovisionStopped),
    an_adopted_one_goes_when_the_broker_dies_with_it_removed: deprovision_goes_on_after(DeprovisionRemoved),
    an_adopted_one_goes_when_the_broker_dies_with_its_data_removed: deprovision_goes_on_after(DeprovisionDirectories),
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_an_adopted_container_is_undone_while_the_broker_runs() {
    let (broker, mut legacy) = prepared();
    let (id, port, redis) = redis(&mut legacy, &["COLOUR=red"]).await;
    adopted(&broker, &legacy, &id);
    // Without looking by itself: dockerd has to tell.
    let mut broker = broker;
    broker.builder = broker.builder.clone().setting("reconcile_interval: 1h");
    let client = start(&mut broker).await;
    let container = broker.container(&id);
    let before = docker_ok(&["inspect", "-f", "{{.Id}}", &container]);
    docker_ok(&["stop", "-t", "5", &container]);
    broker.heals(&id, &redis).await;
    assert_eq!(docker_ok(&["inspect", "-f", "{{.Id}}", &container]), before);
    docker_ok(&["rename", &container, &format!("{container}-elsewhere")]);
    eventually("its name", async || {
        let found = docker(&["inspect", "-f", "{{.Id}}", &container]);
        if found.status.success() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    docker_ok(&["rm", "-f", "-v", &container]);
    broker.heals(&id, &redis).await;
    assert_ne!(docker_ok(&["inspect", "-f", "{{.Id}}", &container]), before);
    serves_as_before(&client, &id, port, &redis).await;
    client.deprovision(&id).await.expect(200);
    nothing_is_left(&broker, &legacy, &id);
}
