//! What lies below the root, for operators' commands: sizes, what belongs to nobody, and its removal
//! in two steps.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Disk, DiskError, TRASH, wrap};

/// Bytes in one of `st_blocks`, whatever the file system.
const BLOCK: u64 = 512;
/// Hexadecimal digits of the SHA-256 of an id that could not be a name.
const HASH_DIGITS: usize = 64;

/// Space that a directory takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Bytes on the disk, as `du` counts them.
    pub bytes: u64,
    /// Something in it may not be read by this user, so it is more.
    pub incomplete: bool,
}

/// A directory on its way out: renamed into the trash, but still whole.
#[derive(Debug)]
pub struct Grave {
    home: PathBuf,
    around: PathBuf,
    data: PathBuf,
}

impl Disk {
    /// What an instance takes on the disk; `None`: it has no directory. Walks all of it.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn used(&self, name: &str) -> Result<Option<Used>, DiskError> {
        used(&self.directory(name)?)
    }

    /// Names of directories that look like an instance's: others are nobody's business here.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn list_like_instances(&self) -> Result<Vec<String>, DiskError> {
        if !self.root.exists() {
            return Ok(Vec::new());
        }
        let mut names = self.list()?;
        names.retain(|name| is_like_an_instance(name) && self.root.join(name).is_dir());
        Ok(names)
    }

    /// Names of what lies in the trash.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn list_trash(&self) -> Result<Vec<String>, DiskError> {
        let trash = self.root.join(TRASH);
        let entries = match fs::read_dir(&trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(wrap("list", &trash))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(wrap("list", &trash))?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// What something in the trash takes; `None`: it is gone.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn used_in_trash(&self, name: &str) -> Result<Option<Used>, DiskError> {
        used(&self.in_trash(name)?)
    }

    /// Removes something from the trash. What is gone is fine.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn remove_from_trash(&self, name: &str) -> Result<(), DiskError> {
        let path = self.in_trash(name)?;
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(wrap("remove", &path)),
        }
    }

    fn in_trash(&self, name: &str) -> Result<PathBuf, DiskError> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(DiskError::BadName(name.to_owned()));
        }
        Ok(self.root.join(TRASH).join(name))
    }

    /// Renames the directory of an instance into the trash; `None`: there is none. The next start of
    /// the broker removes what is left there.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn move_to_trash(&self, name: &str) -> Result<Option<Grave>, DiskError> {
        let home = self.directory(name)?;
        if !home.exists() {
            return Ok(None);
        }
        let trash = self.root.join(TRASH);
        fs::create_dir_all(&trash).map_err(wrap("make", &trash))?;
        let grave = tempfile::Builder::new()
            .prefix(&format!("{name}."))
            .tempdir_in(&trash)
            .map_err(wrap("make a directory in", &trash))?
            .keep();
        let data = grave.join("data");
        match fs::rename(&home, &data) {
            Err(error) => {
                // Empty, and not worth hiding why the directory cannot be moved.
                drop(fs::remove_dir(&grave));
                Err(wrap("remove", &home)(error))
            }
            Ok(()) => Ok(Some(Grave { home, around: grave, data })),
        }
    }
}

impl Grave {
    /// Removes it for good.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn destroy(self) -> Result<(), DiskError> {
        fs::remove_dir_all(&self.around).map_err(wrap("remove", &self.around))
    }

    /// Puts it back where it was.
    ///
    /// # Errors
    /// [`DiskError`]; it is still in the trash then.
    pub fn restore(self) -> Result<(), DiskError> {
        fs::rename(&self.data, &self.home).map_err(wrap("put back", &self.home))?;
        fs::remove_dir(&self.around).map_err(wrap("remove", &self.around))
    }
}

/// `i-<id>`, `x-<hash of the id>` or `shared-<number>`.
fn is_like_an_instance(name: &str) -> bool {
    let is_hash = |text: &str| {
        text.len() == HASH_DIGITS
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_number =
        |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.strip_prefix("i-").is_some_and(|id| !id.is_empty())
        || name.strip_prefix("x-").is_some_and(is_hash)
        || name.strip_prefix("shared-").is_some_and(is_number)
}

fn used(path: &Path) -> Result<Option<Used>, DiskError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(wrap("look at", path))?,
    };
    let mut used = Used::default();
    walk(path, &mut used, &mut HashSet::new())?;
    Ok(Some(used))
}

/// A server may remove files while they are counted.
fn walk(path: &Path, used: &mut Used, linked: &mut HashSet<(u64, u64)>) -> Result<(), DiskError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            used.incomplete = true;
            return Ok(());
        }
        other => other.map_err(wrap("look at", path))?,
    };
    // A file with several names takes its space once.
    if found.nlink() == 1 || found.is_dir() || linked.insert((found.dev(), found.ino())) {
        used.bytes += found.blocks() * BLOCK;
    }
    if !found.is_dir() {
        return Ok(());
    }
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            used.incomplete = true;
            return Ok(());
        }
        other => other.map_err(wrap("list", path))?,
    };
    for entry in entries {
        walk(&entry.map_err(wrap("list", path))?.path(), used, linked)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_counted_as_du_counts_them() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        let base = root.path().join("i-1");
        fs::create_dir_all(base.join("volumes/data")).unwrap();
        let file = base.join("volumes/data/file");
        fs::write(&file, vec![1_u8; 300_000]).unwrap();
        fs::hard_link(&file, base.join("volumes/data/again")).unwrap();
        std::os::unix::fs::symlink("/usr", base.join("volumes/data/elsewhere")).unwrap();
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(&base).output().unwrap();
        let text = String::from_utf8(du.stdout).unwrap();
        let expected: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(disk.used("i-1").unwrap(), Some(Used { bytes: expected, incomplete: false }));
        assert_eq!(disk.used("i-2").unwrap(), None);
        assert!(expected >= 300_000);
    }

    #[test]
    fn what_was_buried_can_come_back_or_go_for_good() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        let base = root.path().join("i-1");
        fs::create_dir_all(&base).unwrap();
        fs::write(base.join("file"), "data").unwrap();
        let grave = disk.move_to_trash("i-1").unwrap().unwrap();
        assert!(!base.exists());
        let [trash] = <[String; 1]>::try_from(disk.list_trash().unwrap()).unwrap();
        assert!(trash.starts_with("i-1."), "{trash}");
        grave.restore().unwrap();
        assert_eq!(fs::read_to_string(base.join("file")).unwrap(), "data");
        disk.move_to_trash("i-1").unwrap().unwrap().destroy().unwrap();
        assert!(disk.move_to_trash("i-1").unwrap().is_none());
        assert_eq!(disk.list_trash().unwrap(), [""; 0]);
        for hostile in ["", ".", "..", "a/b", "/etc"] {
            assert!(disk.remove_from_trash(hostile).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn only_directories_that_are_named_like_an_instance_count() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        let hash = format!("x-{}", "0a".repeat(32));
        for name in ["i-1", "my-backup", "x-1", "shared-x", "lost+found", "shared-0123456789abcdef"]
        {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::create_dir(root.path().join(&hash)).unwrap();
        fs::write(root.path().join("i-file"), "").unwrap();
        assert_eq!(
            disk.list_like_instances().unwrap(),
            ["i-1", "shared-0123456789abcdef", hash.as_str()]
        );
        assert_eq!(Disk::at(&root.path().join("no")).list_like_instances().unwrap(), [""; 0]);
    }
}
