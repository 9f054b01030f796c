//! The store itself breaks: its disk turns read-only under a running broker, its file is cut off or
//! overwritten.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    apps::App,
    services::{Kind, write_files},
    support::{TestBroker, eventually},
};

/// A file system on a loop device: it turns read-only as a failing disk does.
struct LoopDisk<'a> {
    path: &'a Path,
    image: tempfile::NamedTempFile,
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

impl<'a> LoopDisk<'a> {
    fn make(path: &'a Path) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.path().to_str().unwrap()]);
        let disk = Self { path, image };
        disk.mount();
        disk
    }

    fn mount(&self) {
        let (image, path) = (self.image.path().to_str().unwrap(), self.path.to_str().unwrap());
        run("mount", &["-o", "loop", image, path]);
    }

    /// What the kernel does by itself with `errors=remount-ro`.
    fn fail(&self) {
        run("mount", &["-o", "remount,abort", self.path.to_str().unwrap()]);
    }

    /// After a check, as at a reboot. A copy, because a namespace made meanwhile may hold the old one.
    fn mount_again(&mut self) {
        run("umount", &["-l", self.path.to_str().unwrap()]);
        let copy = tempfile::NamedTempFile::new().unwrap();
        fs::copy(self.image.path(), copy.path()).unwrap();
        // Exit code 1: what it found is mended.
        let checked = Command::new("e2fsck").arg("-fy").arg(copy.path()).output().unwrap();
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        self.image = copy;
        self.mount();
    }
}

impl Drop for LoopDisk<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path).output());
    }
}

/// A redis with a binding and a few writes.
struct Work {
    document: Value,
}

impl Work {
    async fn begin(broker: &TestBroker) -> Self {
        broker.client.provision("r1").await.expect(201);
        let document = broker.client.bind("r1", "b1").await.expect(201);
        let mut app = App::open(Kind::Redis, &document).await.unwrap();
        for number in 1..=100 {
            app.write(number).await.unwrap();
        }
        Self { document }
    }

    /// Everything is there, at the same endpoint, and the broker says the same of it.
    async fn is_there(&self, broker: &TestBroker) {
        let again = broker.client.bind("r1", "b1").await.expect(200);
        assert_eq!(again["credentials"], self.document["credentials"]);
        let found = eventually("the data", async || {
            let mut app =
                App::open(Kind::Redis, &self.document).await.map_err(|e| e.to_string())?;
            app.read().await.map_err(|error| error.to_string())
        })
        .await;
        assert_eq!(found, (1..=100).collect());
    }

    /// Nothing is left over.
    async fn end(self, broker: &TestBroker) {
        broker.client.deprovision("r1").await.expect(200);
        assert_eq!(broker.containers(), [""; 0]);
        assert_eq!(broker.instance_directories(), [""; 0]);
    }
}

/// The instances' directories are elsewhere, so that only the store is on the disk that fails.
fn broker(elsewhere: &Path) -> TestBroker {
    let instances = elsewhere.join("instances");
    let setting = format!("host_directory: {}", instances.display());
    TestBroker::builder().services(&write_files(elsewhere)[..1]).setting(setting).prepare()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_turns_read_only_refuses_changes_and_loses_nothing() {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut broker = broker(elsewhere.path());
    let data = broker.data.path().to_owned();
    let mut disk = LoopDisk::make(&data);
    broker.launch().await;
    broker.ready().await;
    // The settings are on this disk as well, and the test did not synchronise them.
    run("sync", &["-f", data.to_str().unwrap()]);
    let work = Work::begin(&broker).await;
    disk.fail();
    for path in ["/v2/service_instances/r2", "/v2/service_instances/r1/service_bindings/b2"] {
        let reply = broker.client.put(path, &broker.client.provision_body()).await;
        reply.expect(500);
        assert!(reply.description().contains("internal error"), "{}", reply.description());
    }
    broker.client.deprovision("r1").await.expect(500);
    // What is there can be read, and works.
    broker.client.get("/v2/service_instances/r1").await.expect(200);
    let mut app = App::open(Kind::Redis, &work.document).await.unwrap();
    assert_eq!(app.read().await.unwrap().len(), 100);
    assert!(broker.log_text().contains("cannot write the store"), "its cause is in the log");
    broker.kill();
    assert!(broker.try_launch().await.is_err(), "it does not start on a disk that it cannot use");
    disk.mount_again();
    broker.try_launch().await.unwrap();
    broker.ready().await;
    work.is_there(&broker).await;
    broker.client.get("/v2/service_instances/r2").await.expect(404);
    assert_eq!(broker.containers(), [broker.container("r1")]);
    broker.client.deprovision("r1").await.expect(200);
    assert_eq!(broker.containers(), [""; 0]);
    broker.kill();
    drop(disk);
}

/// Stops the broker, breaks its store by `break_it`, and expects that it does not start; with the
/// file back as it was, everything is there.
async fn refused(break_it: impl FnOnce(&Path)) {
    let mut broker = TestBroker::builder().prepare();
    let elsewhere = tempfile::tempdir().unwrap();
    broker.builder = broker.builder.clone().services(&write_files(elsewhere.path())[..1]);
    (broker.client.service_id, broker.client.plan_id) =
        (Kind::Redis.service().to_owned(), Kind::Redis.plans()[0].to_owned());
    broker.launch().await;
    broker.ready().await;
    let work = Work::begin(&broker).await;
    assert!(broker.terminate().await.1);
    let (file, copy) = (broker.data.path().join("broker.db"), broker.data.path().join("copy"));
    // What the log of the store still holds would mend it.
    let store = rusqlite::Connection::open(&file).unwrap();
    store.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    store.close().unwrap();
    fs::copy(&file, &copy).unwrap();
    break_it(&file);
    let log = broker.try_launch().await.expect_err("a broken store is not served");
    assert!(log.contains("store") && log.contains("broker.db"), "it says what is broken: {log}");
    let filter = broker.containers();
    assert_eq!(filter.len(), 1, "the container is left alone");
    fs::copy(&copy, &file).unwrap();
    broker.try_launch().await.unwrap();
    broker.ready().await;
    work.is_there(&broker).await;
    work.end(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_cut_off_is_refused_and_nothing_is_touched() {
    refused(|file| {
        let half = fs::metadata(file).unwrap().len() / 2;
        fs::File::options().write(true).open(file).unwrap().set_len(half).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_page_of_garbage_is_refused_and_nothing_is_touched() {
    refused(|file| {
        let mut bytes = fs::read(file).unwrap();
        for page in bytes.chunks_mut(4096).skip(1) {
            page[..64].fill(0xa5);
        }
        fs::write(file, bytes).unwrap();
    })
    .await;
}
