//! Copies, and what becomes of them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::catalog::Volume;

const NAME: &str = "i-1";
const KEY: &str = "update-1";

fn disk_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Disk, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::open(root.path()).unwrap();
    let volume = Volume { path: "/data".to_owned(), owner: None, mode: 0o750, size_bytes: None };
    let data = disk.ensure(NAME, &[volume]).unwrap().remove(0);
    for (name, text) in files {
        fs::write(data.join(name), text).unwrap();
    }
    (root, disk, data)
}

async fn keep(disk: &Disk) {
    let none = CancellationToken::new();
    let draft = disk.copy_volumes(NAME, Copying::Bytes, &none).await.unwrap();
    assert_eq!(disk.snapshot_of(NAME, KEY).unwrap(), Snapshot::Absent);
    disk.keep_snapshot(NAME, KEY, &draft).unwrap();
    assert_eq!(disk.snapshot_of(NAME, KEY).unwrap(), Snapshot::Kept);
}

#[tokio::test]
async fn the_way_back_brings_the_data_as_it_was_and_keeps_what_came_after() {
    let (root, disk, data) = disk_with(&[("file", "before")]);
    fs::hard_link(data.join("file"), data.join("second")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", data.join("link")).unwrap();
    fs::set_permissions(data.join("file"), fs::Permissions::from_mode(0o4640)).unwrap();
    let sparse = fs::File::create(data.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    let modified = fs::metadata(data.join("file")).unwrap().mtime_nsec();
    keep(&disk).await;
    fs::write(data.join("file"), "after").unwrap();
    fs::write(data.join("new"), "confirmed").unwrap();
    disk.restore_snapshot(NAME, KEY, || assert!(!data.exists())).unwrap();

    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "before");
    assert!(!data.join("new").exists());
    let meta = fs::metadata(data.join("file")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime_nsec()), (0o4640, modified));
    assert_eq!(meta.ino(), fs::metadata(data.join("second")).unwrap().ino());
    assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o750);
    assert!(fs::metadata(data.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
    let aside = root.path().join(NAME).join(FAILED).join(KEY).join("data/new");
    assert_eq!(fs::read_to_string(aside).unwrap(), "confirmed");
    assert_eq!(disk.snapshot_of(NAME, KEY).unwrap(), Snapshot::Absent);
    assert_eq!(disk.list_set_aside(NAME).unwrap(), [KEY]);
    disk.clear_snapshots(NAME).unwrap();
    disk.clear_failed(NAME).unwrap();
    disk.clear_failed(NAME).unwrap();
    assert_eq!(names(&root.path().join(NAME)).unwrap(), [VOLUMES]);
}

#[tokio::test]
async fn a_way_back_that_was_interrupted_in_the_middle_goes_on() {
    let (root, disk, data) = disk_with(&[("file", "before")]);
    keep(&disk).await;
    fs::rename(root.path().join(NAME).join(VOLUMES), root.path().join("aside")).unwrap();
    assert_eq!(disk.kept_snapshot(NAME).unwrap().as_deref(), Some(KEY));
    disk.restore_snapshot(NAME, KEY, || ()).unwrap();
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "before");
    assert_eq!(disk.kept_snapshot(NAME).unwrap(), None);
}

#[tokio::test]
async fn a_copy_that_can_be_gone_back_to_is_never_cleared() {
    let (_root, disk, _) = disk_with(&[("file", "before")]);
    keep(&disk).await;
    disk.clear_snapshots(NAME).unwrap();
    assert_eq!(disk.snapshot_of(NAME, KEY).unwrap(), Snapshot::Kept);
    disk.mark(NAME, KEY, "mark").unwrap();
    assert!(disk.is_marked(NAME, KEY, "mark").unwrap());
    assert!(!disk.is_given_up(NAME, KEY).unwrap());
    disk.spend_snapshot(NAME, KEY).unwrap();
    disk.spend_snapshot(NAME, KEY).unwrap();
    disk.empty_given_up(NAME, KEY).unwrap();
    assert!(disk.is_given_up(NAME, KEY).unwrap());
    assert_eq!(disk.snapshot_of(NAME, KEY).unwrap(), Snapshot::Spent);
    assert!(disk.snapshot_of(NAME, "../..").is_err());
}

#[tokio::test]
async fn a_copy_is_given_up_and_removed_also_where_nothing_can_be_made() {
    let (root, disk, data) = disk_with(&[("file", "before")]);
    keep(&disk).await;
    // Like a full disk: no directory can be made below it.
    fs::write(root.path().join(super::super::TRASH), "").unwrap();
    disk.spend_snapshot(NAME, KEY).unwrap();
    disk.empty_given_up(NAME, KEY).unwrap();
    assert!(disk.is_given_up(NAME, KEY).unwrap());
    disk.clear_snapshots(NAME).unwrap();
    assert_eq!(names(&root.path().join(NAME)).unwrap(), [VOLUMES]);
    assert!(data.exists());
}

#[tokio::test]
async fn the_way_back_goes_on_where_nothing_can_be_made() {
    let (root, disk, data) = disk_with(&[("file", "before")]);
    let failed = root.path().join(NAME).join(FAILED);
    fs::create_dir_all(failed.join("update-0/data")).unwrap();
    fs::write(failed.join("note"), "of the operator").unwrap();
    keep(&disk).await;
    fs::write(root.path().join(super::super::TRASH), "").unwrap();
    disk.restore_snapshot(NAME, KEY, || ()).unwrap();
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "before");
    assert_eq!(names(&failed).unwrap(), [KEY]);
    disk.clear_failed(NAME).unwrap();
    assert!(!failed.exists());
}

#[tokio::test]
async fn an_operation_without_the_copy_that_it_needed_can_come_past_it_too() {
    let (root, disk, _) = disk_with(&[("file", "before")]);
    // An earlier attempt died before it could note it.
    fs::create_dir_all(root.path().join(NAME).join(SNAPSHOT).join(KEY)).unwrap();
    assert_eq!(disk.snapshot_of(NAME, KEY).unwrap(), Snapshot::Absent);
    disk.go_without(NAME, KEY).unwrap();
    assert_eq!(disk.snapshot_of(NAME, KEY).unwrap(), Snapshot::Spent);
    assert_eq!(disk.kept_snapshot(NAME).unwrap(), None);
    assert!(!disk.is_given_up(NAME, KEY).unwrap());
    disk.spend_snapshot(NAME, KEY).unwrap();
    disk.empty_given_up(NAME, KEY).unwrap();
    assert!(disk.is_given_up(NAME, KEY).unwrap());
}

#[tokio::test]
async fn what_cannot_be_copied_is_said_and_leaves_nothing_although_nothing_can_be_made() {
    let (root, disk, data) = disk_with(&[]);
    fs::remove_dir_all(data.parent().unwrap()).unwrap();
    // Like a full disk, as above.
    fs::write(root.path().join(super::super::TRASH), "").unwrap();
    let none = CancellationToken::new();
    let failed = disk.copy_volumes(NAME, Copying::Bytes, &none).await.unwrap_err();
    assert!(failed.to_string().contains("No such file"), "{failed}");
    assert_eq!(names(&root.path().join(NAME).join(SNAPSHOT)).unwrap(), [""; 0]);
    none.cancel();
    disk.copy_volumes(NAME, Copying::Bytes, &none).await.unwrap_err();
    assert_eq!(names(&root.path().join(NAME).join(SNAPSHOT)).unwrap(), [""; 0]);
}
