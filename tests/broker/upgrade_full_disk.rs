//! Upgrades on a disk that has no room for a copy of the data, or none left after it.

use std::{fs, path::Path};

use crate::{
    disk_full::SmallDisk,
    support::{
        REDIS, Redis, TestBroker, container_id, eventually, redis_yaml, restart_on, upgrade,
        upgrade_body,
    },
};

/// A broker with an instance `r1` that holds a value, whose data is on a disk of its own.
async fn on_small_disk(
    yaml: String,
    place: &Path,
    size: u64,
) -> (TestBroker, SmallDisk<'_>, Redis) {
    let setting = format!("host_directory: {}", place.display());
    let disk = SmallDisk::ext4(place, size);
    let builder = TestBroker::builder().yaml(yaml, REDIS.0, REDIS.1).setting(setting);
    let broker = builder.start().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    redis.expect("SET mine precious").await;
    (broker, disk, redis)
}

/// The quick redis that does this before it serves.
fn with_first(shell: &str) -> String {
    redis_yaml("").replace("exec redis-server -", &format!("{shell}\n        exec redis-server -"))
}

/// What is beside the data of `r1`.
fn beside(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place.join("i-r1")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // One that is half-written is left on a full disk.
    names.retain(|name| !name.starts_with("record"));
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_fills_the_disk_leaves_the_data_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let (mut broker, disk, redis) = on_small_disk(redis_yaml(""), place.path(), 112).await;
    let fill =
        "dd if=/dev/zero of=/data/filler bs=64k; dd if=/dev/zero of=/data/rest bs=1k; exit 7";
    restart_on(&mut broker, with_first(fill)).await;
    let failed = upgrade(&broker, "r1").await;
    failed.expect(500);
    let text = failed.description();
    assert!(text.contains("as it was before"), "{text}");
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(beside(place.path()), ["failed", "volumes"]);
    // What it wrote still fills the disk, until the operator takes it away.
    let refused = upgrade(&broker, "r1").await;
    refused.expect(500);
    assert!(refused.description().contains("nothing was changed"), "{}", refused.description());
    fs::remove_dir_all(place.path().join("i-r1/failed")).unwrap();
    restart_on(&mut broker, with_first(":")).await;
    upgrade(&broker, "r1").await.expect(200);
    assert_eq!(redis.expect("GET mine").await, "precious");
    assert_eq!(beside(place.path()), ["volumes"]);
    broker.client.deprovision("r1").await.expect(200);
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_side_by_side_do_not_count_on_the_same_room() {
    let place = tempfile::tempdir().unwrap();
    // It does not end before it is killed, so that the first upgrade takes its time.
    let yaml = redis_yaml("")
        .replace("exec redis-server", "redis-server")
        .replace("        CONFIG\n", "        CONFIG\n        true\n")
        .replace("      expose_ports", "      stop_timeout: 4s\n      expose_ports");
    let (mut broker, disk, redis) = on_small_disk(yaml, place.path(), 256).await;
    broker.client.provision("r2").await.expect(201);
    for instance in ["i-r1", "i-r2"] {
        let filler = place.path().join(instance).join("volumes/data/filler");
        fs::write(filler, vec![1; 40 << 20]).unwrap();
    }
    // Room for one copy and what has to be left, and for half of another one.
    let free = rustix::fs::statvfs(place.path()).unwrap();
    let free = free.f_bavail * free.f_frsize;
    let rest = usize::try_from(free - ((64 + 60) << 20)).unwrap();
    fs::write(place.path().join("rest"), vec![1; rest]).unwrap();
    restart_on(&mut broker, with_first(":")).await;

    let path = "/v2/service_instances/r1?accepts_incomplete=true";
    broker.client.patch(path, &upgrade_body(&broker).await).await.expect(202);
    eventually("the first one to stop its container", async || {
        let reply = broker.client.get("/v2/service_instances/r1/last_operation").await;
        let text = reply.description();
        if text.contains("stopping") { Ok(()) } else { Err(text) }
    })
    .await;
    let container = container_id(&broker, "r2");
    let refused = upgrade(&broker, "r2").await;
    refused.expect(500);
    let text = refused.description();
    assert!(text.contains("no room") && text.contains("nothing was changed"), "{text}");
    assert_eq!(container_id(&broker, "r2"), container);
    assert_eq!(broker.client.poll("r1").await.0, "succeeded");
    assert_eq!(redis.expect("GET mine").await, "precious");
    // Its room is free again.
    upgrade(&broker, "r2").await.expect(200);
    for instance in ["r1", "r2"] {
        broker.client.deprovision(instance).await.expect(200);
    }
    drop(disk);
}
