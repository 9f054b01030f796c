//! The disk under the data directory is full.

use std::{fs, path::Path, process::Command};

use crate::support::{Redis, TestBroker, eventually};

/// A small file system of its own, unmounted when dropped.
pub(crate) struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    pub(crate) fn mount(path: &'a Path) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(path);
        assert!(mount.status().unwrap().success(), "a tmpfs can be mounted");
        Self(path)
    }

    /// One of so many MiB on which, unlike on a tmpfs, also a directory needs room.
    pub(crate) fn ext4(path: &'a Path, size: u64) -> Self {
        fs::create_dir_all(path).unwrap();
        // Its blocks go with the mount.
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size << 20).unwrap();
        let mut make = Command::new("mkfs.ext4");
        assert!(make.args(["-q", "-m", "0"]).arg(file.path()).status().unwrap().success());
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).args([file.path(), path]);
        assert!(mount.status().unwrap().success(), "a file can be mounted");
        Self(path)
    }

    /// Writes until nothing more fits.
    pub(crate) fn fill(&self) {
        let block = vec![0_u8; 4096];
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "it can be unmounted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_requests_fail_without_effect_and_work_again_when_there_is_room() {
    let mut broker = TestBroker::builder().prepare();
    let path = broker.data.path().to_owned();
    let disk = SmallDisk::mount(&path);
    broker.launch().await;
    broker.ready().await;
    broker.client.provision("r1").await.expect(201);
    let redis = Redis::of(&broker.client.bind("r1", "b1").await.expect(201));
    disk.fill();
    // What is in the write-ahead log's own file may still fit, so ask until it does not.
    let mut refused = None;
    for number in 0..500 {
        let reply = broker.client.bind("r1", &format!("x{number}")).await;
        if reply.status != 201 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("the disk is full at some time");
    refused.expect(500);
    assert!(refused.description().contains("internal error"), "{}", refused.description());
    let log = broker.log_text();
    let causes = ["cannot write the store", "cannot write the record of an instance"];
    assert!(causes.iter().any(|cause| log.contains(cause)), "its cause is in the log: {log}");
    broker.client.provision("r2").await.expect(500);
    assert_eq!(broker.containers(), [broker.container("r1")], "nothing was made");
    // Reading works all the time.
    broker.client.get("/v2/service_instances/r1").await.expect(200);
    assert_eq!(
        Redis::of(&broker.client.bind("r1", "b1").await.expect(200)).expect("PING").await,
        "+PONG"
    );
    disk.free();
    broker.client.provision("r2").await.expect(201);
    assert_eq!(redis.expect("PING").await, "+PONG");
    broker.client.deprovision("r2").await.expect(200);
    broker.client.deprovision("r1").await.expect(200);
    broker.kill();
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_operation_is_recorded_as_soon_as_the_disk_has_room_again() {
    let mut broker = TestBroker::builder().switch("4s").prepare();
    let path = broker.data.path().to_owned();
    let disk = SmallDisk::mount(&path);
    broker.launch().await;
    broker.ready().await;
    let client = &broker.client;
    let body = client.body_with(&serde_json::json!({ "mode": "silent" }));
    client.put("/v2/service_instances/i?accepts_incomplete=true", &body).await.expect(202);
    disk.fill();
    // What still fits into the write-ahead log's own file is used up.
    let unbind = "/v2/service_instances/i/service_bindings/b";
    eventually("the operation to end in vain", async || {
        client.put(unbind, &client.ids_body()).await;
        let log = broker.log_text();
        if log.contains("the end of an operation cannot be recorded") {
            return Ok(());
        }
        let reply = client.get("/v2/service_instances/i/last_operation").await;
        assert_eq!(reply.json()["state"], "in progress", "the disk was not full");
        Err(reply.description())
    })
    .await;
    disk.free();
    assert_eq!(client.poll("i").await.0, "failed");
    client.deprovision("i").await.expect(200);
    broker.kill();
    drop(disk);
}
