//! A copy of an instance's volumes while it is upgraded, and the way back to it.
//!
//! ```text
//! <safe name>/snapshot/draft.<random>    a copy that is being made
//! <safe name>/snapshot/<key>/volumes     the copy for the operation <key>: there is a way back
//! <safe name>/snapshot/<key>/spent       the copy when it was given up, until it is removed
//! <safe name>/snapshot/<key>/without     a copy was needed, and the operator wants none
//! <safe name>/snapshot/<key>/<mark>      something of that operation has happened
//! <safe name>/failed/<key>               what a container wrote that never became ready
//! <safe name>/stale/<key>                a copy that was found and belongs to no way back
//! ```
//!
//! Every change is one rename, so each state can be told after a crash:
//!
//! | `snapshot/<key>` | its `volumes` | its `without` or `spent` | `volumes` | |
//! |---|---|---|---|---|
//! | no | | | yes | no copy was made (yet) |
//! | yes | yes | no | yes | a copy is kept |
//! | yes | yes | no | no | the way back has begun |
//! | yes | no | no | yes | the way back was gone, or there is to be no copy, which is not noted yet |
//! | yes | no | yes | yes | no way back any more: the copy was given up, or there is none |

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{Disk, DiskError, VOLUMES, wrap};

const SNAPSHOT: &str = "snapshot";
const FAILED: &str = "failed";
const SPENT: &str = "spent";
const WITHOUT: &str = "without";
const STALE: &str = "stale";
const DRAFT: &str = "draft.";
/// GNU coreutils, which every stemcell and every distribution has.
const CP: &str = "/bin/cp";
/// Most that is kept of what it says.
const WORDS: usize = 300;

/// How files are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// The copies share their blocks with the originals until one of them is written.
    Reflink,
    /// Byte by byte, but for holes.
    Bytes,
}

/// What there is of an operation's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// None was made, or it was gone back to.
    Absent,
    /// It can be gone back to.
    Kept,
    /// It was given up, or the operation goes without.
    Spent,
}

/// A copy that is complete and not yet kept.
#[derive(Debug)]
pub struct Draft(PathBuf);

fn make(directory: &Path) -> Result<(), DiskError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory).map_err(wrap("make", directory))
}

/// What a rename or a new file in a directory needs to survive a crash of the machine.
fn settle(directory: &Path) -> Result<(), DiskError> {
    let opened = fs::File::open(directory).map_err(wrap("open", directory))?;
    opened.sync_all().map_err(wrap("write", directory))
}

/// What is gone already need not be removed.
fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn names(directory: &Path) -> Result<Vec<String>, DiskError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(wrap("list", directory))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(wrap("list", directory))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

impl Disk {
    fn volumes(&self, name: &str) -> Result<PathBuf, DiskError> {
        Ok(self.directory(name)?.join(VOLUMES))
    }

    fn snapshots(&self, name: &str) -> Result<PathBuf, DiskError> {
        Ok(self.directory(name)?.join(SNAPSHOT))
    }

    /// The directory of an operation's copy. Keys are names that the broker itself makes.
    fn snapshot(&self, name: &str, key: &str) -> Result<PathBuf, DiskError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if key.is_empty() || !key.bytes().all(plain) {
            return Err(DiskError::BadName(key.to_owned()));
        }
        Ok(self.snapshots(name)?.join(key))
    }

    /// All volumes of an instance, in one directory; `None` if it has none.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn find_volumes(&self, name: &str) -> Result<Option<PathBuf>, DiskError> {
        let volumes = self.volumes(name)?;
        Ok(volumes.exists().then_some(volumes))
    }

    /// Whether the file system can share blocks between files of this instance: tried out.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn can_reflink(&self, name: &str) -> Result<bool, DiskError> {
        let directory = self.snapshots(name)?;
        make(&directory)?;
        let wrapped = |error| wrap("make a file in", &directory)(error);
        let one = tempfile::tempfile_in(&directory).map_err(wrapped)?;
        let wrapped = |error| wrap("make a file in", &directory)(error);
        let other = tempfile::tempfile_in(&directory).map_err(wrapped)?;
        io::Write::write_all(&mut &one, &[1; 4096]).map_err(wrap("write in", &directory))?;
        Ok(rustix::fs::ioctl_ficlone(&other, &one).is_ok())
    }

    /// Bytes that are free for the broker.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn free_bytes(&self) -> Result<u64, DiskError> {
        let found = rustix::fs::statvfs(&self.root)
            .map_err(|error| wrap("look at", &self.root)(error.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// What there is of an operation's copy.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn snapshot_of(&self, name: &str, key: &str) -> Result<Snapshot, DiskError> {
        let directory = self.snapshot(name, key)?;
        let holds = |name| directory.join(name).exists();
        Ok(if holds(VOLUMES) {
            Snapshot::Kept
        } else if holds(SPENT) || holds(WITHOUT) {
            Snapshot::Spent
        } else {
            Snapshot::Absent
        })
    }

    /// The operation whose copy can be gone back to.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn kept_snapshot(&self, name: &str) -> Result<Option<String>, DiskError> {
        let directory = self.snapshots(name)?;
        let names = names(&directory)?;
        let is_kept =
            |key: &String| !key.starts_with(DRAFT) && directory.join(key).join(VOLUMES).exists();
        Ok(names.into_iter().find(is_kept))
    }

    /// Copies the volumes of an instance, with owners, modes, times, attributes, links and holes,
    /// and sees to it that the copy is on the disk. No server may be at work on them.
    ///
    /// It is `cp` that does it, as a process with nothing in its environment. One that outlives
    /// the broker writes to a draft that nobody uses any more.
    ///
    /// # Errors
    /// [`DiskError::Copy`], also when `cancel` came first; any other [`DiskError`].
    pub async fn copy_volumes(
        &self,
        name: &str,
        copying: Copying,
        cancel: &CancellationToken,
    ) -> Result<Draft, DiskError> {
        let volumes = self.volumes(name)?;
        let directory = self.snapshots(name)?;
        make(&directory)?;
        for left in names(&directory)?.into_iter().filter(|name| name.starts_with(DRAFT)) {
            self.bury(name, &directory.join(left))?;
        }
        // The way back needs it, and there may be no room for it then.
        make(&self.directory(name)?.join(FAILED))?;
        // Unless it is kept, it is removed on every way out, and not by way of the trash: it may
        // have filled the disk. What cannot be removed goes with the next attempt or sweep.
        let draft = tempfile::Builder::new()
            .prefix(DRAFT)
            .tempdir_in(&directory)
            .map_err(wrap("make a directory in", &directory))?;
        let how: &[&str] = match copying {
            Copying::Reflink => &["--reflink=always"],
            Copying::Bytes => &["--reflink=never", "--sparse=always"],
        };
        let child = Command::new(CP)
            .arg("--archive")
            .args(how)
            .arg("--")
            .arg(&volumes)
            .arg(draft.path().join(VOLUMES))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(wrap("run", Path::new(CP)))?;
        let output = tokio::select! {
            () = cancel.cancelled() => None,
            output = child.wait_with_output() => Some(output.map_err(wrap("run", Path::new(CP)))?),
        };
        let failed = |words: String| DiskError::Copy { path: volumes.clone(), words };
        let Some(output) = output else { return Err(failed("it was halted".to_owned())) };
        if !output.status.success() {
            let words: String =
                String::from_utf8_lossy(&output.stderr).chars().take(WORDS).collect();
            return Err(failed(words.trim().to_owned()));
        }
        let path = draft.path().to_owned();
        let synced = tokio::task::spawn_blocking(move || {
            let opened = fs::File::open(&path).map_err(wrap("open", &path))?;
            rustix::fs::syncfs(&opened).map_err(|error| wrap("write", &path)(error.into()))
        });
        synced.await.map_err(|_| failed("it could not be written".to_owned()))??;
        Ok(Draft(draft.keep()))
    }

    /// Keeps a copy for an operation: from now on there is a way back.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn keep_snapshot(&self, name: &str, key: &str, draft: &Draft) -> Result<(), DiskError> {
        let kept = self.snapshot(name, key)?;
        fs::rename(&draft.0, &kept).map_err(wrap("make", &kept))?;
        settle(&self.snapshots(name)?)
    }

    /// Gives a copy up: from now on there is no way back. That needs no room on the disk, which
    /// the copy may have filled, and its bytes go later.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn spend_snapshot(&self, name: &str, key: &str) -> Result<(), DiskError> {
        let directory = self.snapshot(name, key)?;
        for kept in [VOLUMES, WITHOUT].map(|name| directory.join(name)) {
            match fs::rename(&kept, directory.join(SPENT)) {
                // It is of the other kind, or an earlier attempt came this far.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(wrap("give up", &kept))?,
            }
        }
        settle(&directory)
    }

    /// Notes that an operation goes without the copy that it needed. It can be given up like one.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn go_without(&self, name: &str, key: &str) -> Result<(), DiskError> {
        make(&self.snapshot(name, key)?)?;
        self.mark(name, key, WITHOUT)?;
        settle(&self.snapshots(name)?)
    }

    /// Removes the bytes of a copy that was given up. That it was stays known.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn empty_given_up(&self, name: &str, key: &str) -> Result<(), DiskError> {
        let spent = self.snapshot(name, key)?.join(SPENT);
        if !spent.is_dir() {
            return Ok(());
        }
        for volume in names(&spent)? {
            let volume = spent.join(volume);
            fs::remove_dir_all(&volume).map_err(wrap("remove", &volume))?;
        }
        Ok(())
    }

    /// Whether an operation's copy was given up, not gone back to.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn is_given_up(&self, name: &str, key: &str) -> Result<bool, DiskError> {
        self.is_marked(name, key, SPENT)
    }

    /// Moves the volumes as they are now aside, where they are kept, and puts the copy in their
    /// place; half of that may have happened already. `between` is called in the middle.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn restore_snapshot(
        &self,
        name: &str,
        key: &str,
        between: impl FnOnce(),
    ) -> Result<(), DiskError> {
        let (kept, volumes) = (self.snapshot(name, key)?, self.volumes(name)?);
        let failed = self.directory(name)?.join(FAILED);
        if volumes.exists() {
            make(&failed)?;
            // One is enough, and the newest is the one that somebody may ask for.
            // Not by way of the trash: that needs room, and this makes some.
            for earlier in names(&failed)? {
                let earlier = failed.join(earlier);
                let is_directory = earlier.is_dir();
                let remove = if is_directory { fs::remove_dir_all } else { fs::remove_file };
                remove(&earlier).map_err(wrap("remove", &earlier))?;
            }
            let aside = failed.join(key);
            fs::rename(&volumes, &aside).map_err(wrap("set aside", &volumes))?;
            settle(&self.directory(name)?)?;
        }
        between();
        fs::rename(kept.join(VOLUMES), &volumes).map_err(wrap("put back", &volumes))?;
        settle(&self.directory(name)?)
    }

    /// Moves kept copies of all operations but this one to where nothing uses them; where that is.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn set_stale_copies_aside(&self, name: &str, key: &str) -> Result<Vec<PathBuf>, DiskError> {
        let snapshots = self.snapshots(name)?;
        let mut moved = Vec::new();
        for other in names(&snapshots)? {
            let kept = snapshots.join(&other).join(VOLUMES);
            if other == key || other.starts_with(DRAFT) || !kept.exists() {
                continue;
            }
            let aside = self.directory(name)?.join(STALE);
            make(&aside)?;
            let aside = aside.join(&other);
            fs::rename(&kept, &aside).map_err(wrap("set aside", &kept))?;
            settle(&snapshots.join(&other))?;
            moved.push(aside);
        }
        Ok(moved)
    }

    /// The operations whose data was set aside.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn list_set_aside(&self, name: &str) -> Result<Vec<String>, DiskError> {
        names(&self.directory(name)?.join(FAILED))
    }

    /// Removes what operations that ended have left: spent copies, drafts, marks, and the place for
    /// data that is set aside if there is none; never a copy that can be gone back to.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn clear_snapshots(&self, name: &str) -> Result<(), DiskError> {
        let directory = self.snapshots(name)?;
        if self.kept_snapshot(name)?.is_some() {
            return Ok(());
        }
        // Not by way of the trash, for which there may be no room: nothing of it is used any more,
        // so half of it does no harm.
        unless_missing(fs::remove_dir_all(&directory)).map_err(wrap("remove", &directory))?;
        let failed = self.directory(name)?.join(FAILED);
        if names(&failed)?.is_empty() {
            unless_missing(fs::remove_dir(&failed)).map_err(wrap("remove", &failed))?;
        }
        Ok(())
    }

    /// Removes what was set aside.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn clear_failed(&self, name: &str) -> Result<(), DiskError> {
        let failed = self.directory(name)?.join(FAILED);
        unless_missing(fs::remove_dir_all(&failed)).map_err(wrap("remove", &failed))
    }

    /// Notes beside a kept copy that something has happened.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn mark(&self, name: &str, key: &str, mark: &str) -> Result<(), DiskError> {
        let directory = self.snapshot(name, key)?;
        let path = directory.join(mark);
        fs::File::create(&path).map_err(wrap("make", &path))?;
        settle(&directory)
    }

    /// Whether that was noted.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn is_marked(&self, name: &str, key: &str, mark: &str) -> Result<bool, DiskError> {
        Ok(self.snapshot(name, key)?.join(mark).exists())
    }
}

#[cfg(test)]
mod tests;
