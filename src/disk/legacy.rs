//! Taking over the directories of cf-containers-broker while a container uses them.
//!
//! Its layout, `cf-<id>/<path in the container>`, is that of `<safe name>/volumes`. One system call
//! exchanges its directory with a link that we put in our place before: a container that runs has
//! its data mounted, which a rename does not change, and one that starts finds it by the old path,
//! at every moment. This link is the one thing outside of the root that this room ever touches.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Disk, DiskError, VOLUMES, wrap};

impl Disk {
    /// Makes `legacy` the volumes of an instance, and leaves a link there. Done already: nothing, but
    /// a link that has gone since, or that leads to a former root, is made again, or the container
    /// would start on an empty directory. Nobody starts on one any more (`is_leaving`): whatever is
    /// there beside our volumes may stay, or be gone with them.
    ///
    /// # Errors
    /// [`DiskError`]; then nothing has moved.
    pub fn take_over(&self, name: &str, legacy: &Path, is_leaving: bool) -> Result<(), DiskError> {
        let directory = self.directory(name)?;
        let volumes = directory.join(VOLUMES);
        // A link to itself is none of ours yet, and leads nowhere.
        let is_ours = fs::symlink_metadata(&volumes).is_ok_and(|meta| meta.is_dir());
        match fs::symlink_metadata(legacy) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_leaving => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_ours => {
                return link(&volumes, legacy);
            }
            // The disk that both are on may be missing.
            Err(error) => return Err(wrap("look at", legacy)(error)),
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(legacy).map_err(wrap("read", legacy))?;
                if target == volumes || is_leaving {
                    return Ok(());
                }
                if !is_ours || !is_link_of(name, &target) {
                    return Err(occupied(legacy));
                }
                fs::remove_file(legacy).map_err(wrap("remove", legacy))?;
                return link(&volumes, legacy);
            }
            Ok(_) if is_ours && is_leaving => return Ok(()),
            Ok(_) if is_ours => return Err(occupied(legacy)),
            Ok(_) => {}
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&directory).map_err(wrap("make", &directory))?;
        // It means itself until it is where it belongs.
        match symlink(&volumes, &volumes) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_link(&volumes).ok().as_deref() != Some(&volumes) {
                    return Err(occupied(&volumes));
                }
            }
            other => other.map_err(wrap("make", &volumes))?,
        }
        renameat_with(CWD, legacy, CWD, &volumes, RenameFlags::EXCHANGE)
            .map_err(io::Error::from)
            .map_err(wrap("take over", legacy))
    }

    /// Removes the link that [`Disk::take_over`] has left, and nothing else.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn remove_link(&self, name: &str, legacy: &Path) -> Result<(), DiskError> {
        // Anything but our link: somebody else's.
        if !fs::read_link(legacy).is_ok_and(|target| is_link_of(name, &target)) {
            return Ok(());
        }
        fs::remove_file(legacy).map_err(wrap("remove", legacy))
    }
}

/// Whether a link to `target` is the one to the volumes of an instance, below whatever root.
fn is_link_of(name: &str, target: &Path) -> bool {
    target.ends_with(Path::new(name).join(VOLUMES))
}

fn link(volumes: &Path, legacy: &Path) -> Result<(), DiskError> {
    if let Some(parent) = legacy.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(parent).map_err(wrap("make", parent))?;
    }
    symlink(volumes, legacy).map_err(wrap("make", legacy))
}

/// Why [`Disk::take_over`] could not take a directory over; `None`: it can. Changes nothing, and
/// needs no root of ours to be there.
///
/// # Errors
/// [`DiskError`] when it cannot be found out.
pub fn hindrance(root: &Path, name: &str, legacy: &Path) -> Result<Option<String>, DiskError> {
    let meta = match fs::symlink_metadata(legacy) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some(format!("its directory {} is missing", legacy.display())));
        }
        Err(error) => return Err(wrap("look at", legacy)(error)),
    };
    if !meta.is_dir() {
        return Ok(Some(format!("{} is no directory", legacy.display())));
    }
    let volumes = root.join(name).join(VOLUMES);
    let is_free = match fs::read_link(&volumes) {
        Ok(target) => target.file_name() == volumes.file_name(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !is_free {
        return Ok(Some(format!("{} holds data already", volumes.display())));
    }
    let mut there: PathBuf = root.to_owned();
    while !there.exists() {
        if !there.pop() {
            there = PathBuf::from(".");
        }
    }
    let ours = fs::metadata(&there).map_err(wrap("look at", &there))?;
    if ours.dev() == meta.dev() {
        return Ok(None);
    }
    Ok(Some(format!(
        "{} and the host_directory {} are on different file systems; set host_directory to one \
         beside it",
        legacy.display(),
        root.display()
    )))
}

fn occupied(path: &Path) -> DiskError {
    let why = "something else is there; if the instance's data is not in it, move it away";
    let source = io::Error::new(io::ErrorKind::AlreadyExists, why);
    DiskError::Io { verb: "take over", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> (tempfile::TempDir, Disk, PathBuf) {
        let base = tempfile::tempdir().unwrap();
        let disk = Disk::open(&base.path().join("instances")).unwrap();
        let legacy = base.path().join("cf-1");
        fs::create_dir_all(legacy.join("data")).unwrap();
        fs::write(legacy.join("data/file"), "precious").unwrap();
        (base, disk, legacy)
    }

    #[test]
    fn a_directory_is_taken_over_once_and_is_found_by_its_old_path() {
        let (_base, disk, legacy) = setting();
        assert_eq!(hindrance(disk.root(), "i-1", &legacy).unwrap(), None);
        for _ in 0..2 {
            disk.take_over("i-1", &legacy, false).unwrap();
            let ours = disk.root().join("i-1/volumes/data/file");
            assert_eq!(fs::read_to_string(ours).unwrap(), "precious");
            assert_eq!(fs::read_to_string(legacy.join("data/file")).unwrap(), "precious");
            assert!(legacy.is_symlink());
        }
        disk.remove("i-1").unwrap();
        disk.remove_link("i-1", &legacy).unwrap();
        assert!(fs::symlink_metadata(&legacy).is_err());
        disk.take_over("i-1", &legacy, false).unwrap_err();
        disk.take_over("i-1", &legacy, true).unwrap();
        assert_eq!(disk.list().unwrap(), [""; 0], "nothing is made of nothing");
    }

    #[test]
    fn a_link_that_has_gone_or_leads_to_a_former_root_is_made_again() {
        let (base, disk, legacy) = setting();
        disk.take_over("i-1", &legacy, false).unwrap();
        let volumes = disk.root().join("i-1/volumes");
        fs::remove_file(&legacy).unwrap();
        disk.take_over("i-1", &legacy, false).unwrap();
        assert_eq!(fs::read_link(&legacy).unwrap(), volumes);
        fs::remove_file(&legacy).unwrap();
        symlink(base.path().join("former/i-1/volumes"), &legacy).unwrap();
        disk.take_over("i-1", &legacy, false).unwrap();
        assert_eq!(fs::read_link(&legacy).unwrap(), volumes);
        // Whatever a server has begun there meanwhile is for people to look at.
        fs::remove_file(&legacy).unwrap();
        fs::create_dir_all(legacy.join("data")).unwrap();
        disk.take_over("i-1", &legacy, false).unwrap_err();
        disk.take_over("i-1", &legacy, true).unwrap();
        assert!(legacy.join("data").is_dir() && volumes.join("data/file").is_file());
    }

    #[test]
    fn it_goes_on_where_it_was_killed() {
        let (_base, disk, legacy) = setting();
        let volumes = disk.root().join("i-1/volumes");
        fs::create_dir(disk.root().join("i-1")).unwrap();
        symlink(&volumes, &volumes).unwrap();
        assert_eq!(hindrance(disk.root(), "i-1", &legacy).unwrap(), None);
        disk.take_over("i-1", &legacy, false).unwrap();
        assert_eq!(fs::read_to_string(volumes.join("data/file")).unwrap(), "precious");
    }

    #[test]
    fn what_belongs_to_somebody_else_stays() {
        let (base, disk, legacy) = setting();
        fs::create_dir_all(disk.root().join("i-1/volumes/data")).unwrap();
        let why = hindrance(disk.root(), "i-1", &legacy).unwrap().unwrap();
        assert!(why.contains("holds data already"), "{why}");
        disk.take_over("i-1", &legacy, false).unwrap_err();
        assert_eq!(fs::read_to_string(legacy.join("data/file")).unwrap(), "precious");
        let other = base.path().join("cf-2");
        symlink(base.path(), &other).unwrap();
        disk.take_over("i-2", &other, false).unwrap_err();
        disk.remove_link("i-2", &other).unwrap();
        disk.remove_link("i-1", &legacy).unwrap();
        assert!(other.is_symlink() && legacy.is_dir());
        let why = hindrance(Path::new("/proc/self"), "i-3", &legacy).unwrap().unwrap();
        assert!(why.contains("different file systems"), "{why}");
    }
}
