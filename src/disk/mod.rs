//! Instance directories on the persistent disk.
//!
//! Layout below the root, which belongs to root and has mode 0700:
//!
//! ```text
//! <safe name>/volumes/<path in the container>   mounted; owner and mode of the plan
//! <safe name>/draft                             a volume that is being made
//! <safe name>/maintenance                       made by an operator; see `lifecycle::tend`
//! <safe name>/tls                               the certificate; see `certificate.rs`
//! <safe name>/record                            what the store knows of it; see `record.rs`
//! <safe name>/snapshot, failed, stale           of upgrades; see `snapshot.rs`
//! .trash/<safe name>.<random>                   on its way out
//! ```
//!
//! Invariants: nothing outside the root is ever written or removed (but see `legacy.rs`); a directory
//! with data leaves only through [`Disk::remove`], in one rename, so that a half-removed one is never
//! mistaken for an instance's. What upgrades leave is removed where it lies: nothing uses it any
//! more, and on a full disk there is no room for the trash.

mod certificate;
mod inventory;
mod legacy;
mod read;
mod record;
mod snapshot;
mod usage;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

pub use certificate::{CertificateFiles, Installed};
pub use inventory::{Grave, Used};
pub use legacy::hindrance;
pub use snapshot::{Copying, Draft, Snapshot};
pub use usage::Usage;

use crate::catalog::Volume;

const TRASH: &str = ".trash";
const VOLUMES: &str = "volumes";
const DRAFT: &str = "draft";
const MAINTENANCE: &str = "maintenance";

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// With its path.
    #[error("cannot {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Data that could not be copied.
    #[error("cannot copy {path}: {words}")]
    Copy {
        /// What.
        path: PathBuf,
        /// What was said.
        words: String,
    },
    /// A name that is not the safe name of an instance.
    #[error("{0:?} is not the name of an instance directory")]
    BadName(String),
}

/// The root of all instance directories. Cheap to clone. Its methods block.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
}

fn wrap(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { verb, path, source }
}

impl Disk {
    /// Makes the root if need be, and empties the trash.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(root).map_err(wrap("make", root))?;
        let root = fs::canonicalize(root).map_err(wrap("resolve", root))?;
        // It may have been there before, open to everybody.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&root, private).map_err(wrap("change the mode of", &root))?;
        let disk = Self { root };
        let trash = disk.root.join(TRASH);
        if trash.exists() {
            fs::remove_dir_all(&trash).map_err(wrap("empty", &trash))?;
        }
        Ok(disk)
    }

    /// The root of a broker that may be running; nothing is made or emptied.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        // One that is missing has no directories; whatever reads it says so.
        Self { root: fs::canonicalize(root).unwrap_or_else(|_| root.to_owned()) }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn directory(&self, name: &str) -> Result<PathBuf, DiskError> {
        let safe = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && name.contains('-');
        if safe { Ok(self.root.join(name)) } else { Err(DiskError::BadName(name.to_owned())) }
    }

    /// Where each volume of an instance lies.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn paths(&self, name: &str, volumes: &[Volume]) -> Result<Vec<PathBuf>, DiskError> {
        let base = self.directory(name)?.join(VOLUMES);
        // Volumes are absolute paths without `..` and not nested, so they cannot collide.
        Ok(volumes.iter().map(|volume| base.join(volume.path.trim_start_matches('/'))).collect())
    }

    /// Makes the directories of an instance. One that is there keeps its owner and mode: the
    /// service may have changed them.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn ensure(&self, name: &str, volumes: &[Volume]) -> Result<Vec<PathBuf>, DiskError> {
        let paths = self.paths(name, volumes)?;
        for (path, volume) in paths.iter().zip(volumes) {
            // Made under another name, so that a directory with the right name is a finished one.
            if path.exists() {
                continue;
            }
            let parent = path.parent().unwrap_or(&self.root);
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(parent).map_err(wrap("make", parent))?;
            let draft = self.directory(name)?.join(DRAFT);
            match fs::create_dir(&draft) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(wrap("make", &draft)(error));
                }
                _ => {}
            }
            if let Some((uid, gid)) = volume.owner {
                let meta = fs::metadata(&draft).map_err(wrap("look at", &draft))?;
                if (meta.uid(), meta.gid()) != (uid, gid) {
                    chown(&draft, Some(uid), Some(gid))
                        .map_err(wrap("change the owner of", &draft))?;
                }
            }
            let mode = fs::Permissions::from_mode(volume.mode);
            fs::set_permissions(&draft, mode).map_err(wrap("change the mode of", &draft))?;
            fs::rename(&draft, path).map_err(wrap("make", path))?;
        }
        Ok(paths)
    }

    /// Whether an instance has a directory.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn exists(&self, name: &str) -> Result<bool, DiskError> {
        Ok(self.directory(name)?.exists())
    }

    /// Whether an operator wants the container of an instance to be left alone.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn is_in_maintenance(&self, name: &str) -> Result<bool, DiskError> {
        Ok(self.directory(name)?.join(MAINTENANCE).exists())
    }

    /// Removes the directory of an instance with all its data. One that is gone is fine.
    ///
    /// # Errors
    /// [`DiskError`]. What was renamed into the trash is removed at the next start at the latest.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.bury(name, &self.directory(name)?)
    }

    /// Removes a directory of an instance by way of the trash. One that is gone is fine.
    fn bury(&self, name: &str, directory: &Path) -> Result<(), DiskError> {
        if !directory.exists() {
            return Ok(());
        }
        let trash = self.root.join(TRASH);
        fs::create_dir_all(&trash).map_err(wrap("make", &trash))?;
        let grave = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .tempdir_in(&trash)
            .map_err(wrap("make a directory in", &trash))?;
        match fs::rename(directory, grave.path().join("data")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(wrap("remove", directory)(error)),
            Ok(()) => {
                let path = grave.path().to_owned();
                grave.close().map_err(wrap("remove", &path))
            }
        }
    }

    /// Names of all instance directories.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(wrap("list", &self.root))? {
            let name = entry.map_err(wrap("list", &self.root))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if self.directory(&name).is_ok() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(path: &str, mode: u32) -> Volume {
        Volume { path: path.to_owned(), owner: None, mode, size_bytes: None }
    }

    #[test]
    fn directories_get_their_mode_once_and_keep_what_the_service_made_of_them() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        let volumes = [volume("/data", 0o750), volume("/var/lib/x", 0o700)];
        let paths = disk.ensure("i-1", &volumes).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&paths[0]), mode(&paths[1])), (0o750, 0o700));
        assert_eq!(mode(root.path()), 0o700);
        fs::write(paths[0].join("file"), "data").unwrap();
        fs::set_permissions(&paths[0], fs::Permissions::from_mode(0o711)).unwrap();
        disk.ensure("i-1", &volumes).unwrap();
        assert_eq!(mode(&paths[0]), 0o711);
        assert_eq!(fs::read_to_string(paths[0].join("file")).unwrap(), "data");
    }

    #[test]
    fn removal_takes_one_instance_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        disk.ensure("i-1", &[volume("/data", 0o700)]).unwrap();
        disk.ensure("i-2", &[volume("/data", 0o700)]).unwrap();
        disk.remove("i-1").unwrap();
        disk.remove("i-1").unwrap();
        assert_eq!(disk.list().unwrap(), ["i-2"]);
        for hostile in ["", ".", "..", "../x-1", "i-1/..", ".trash", "/etc"] {
            assert!(disk.remove(hostile).is_err(), "{hostile:?}");
        }
        assert_eq!(fs::read_dir(root.path().join(TRASH)).unwrap().count(), 0);
    }
}
