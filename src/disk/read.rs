//! Reading a file of a service, which may have put anything in its place.

use std::{fs, io::Read, path::Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{Disk, DiskError, VOLUMES, wrap};

impl Disk {
    /// The beginning of a regular file below an instance's volumes, whose path is the container's;
    /// `None` if it is not there. No link is followed, and nothing is waited for.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read_in_volumes(
        &self,
        name: &str,
        file: &str,
        most: u64,
    ) -> Result<Option<String>, DiskError> {
        let base = self.directory(name)?.join(VOLUMES);
        let relative = Path::new(file.trim_start_matches('/'));
        let path = base.join(relative);
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(CWD, &base, flags, Mode::empty())?;
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            rustix::fs::openat2(root, relative, flags, Mode::empty(), within)
        };
        let opened = match open() {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            other => other.map_err(|error| wrap("open", &path)(error.into()))?,
        };
        let opened = fs::File::from(opened);
        if !opened.metadata().map_err(wrap("look at", &path))?.is_file() {
            return Err(wrap("read", &path)(std::io::Error::other("it is no regular file")));
        }
        let mut bytes = Vec::new();
        opened.take(most).read_to_end(&mut bytes).map_err(wrap("read", &path))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether there is anything in the volume that holds this file.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn is_empty(&self, directory: &Path) -> Result<bool, DiskError> {
        match fs::read_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(wrap("list", directory)(error)),
            Ok(mut entries) => Ok(entries.next().is_none()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_or_a_pipe_in_its_place_is_neither_followed_nor_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        let data = root.path().join("i-1/volumes/data");
        fs::create_dir_all(data.join("sub")).unwrap();
        fs::write(data.join("sub/version"), "17\n").unwrap();
        let read = |file: &str| disk.read_in_volumes("i-1", file, 100);
        assert_eq!(read("/data/sub/version").unwrap().as_deref(), Some("17\n"));
        assert_eq!(read("/data/none").unwrap(), None);
        assert_eq!(disk.read_in_volumes("i-2", "/data/none", 100).unwrap(), None);
        std::os::unix::fs::symlink("/etc/hostname", data.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", data.join("dir")).unwrap();
        rustix::fs::mknodat(CWD, data.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        for hostile in ["/data/link", "/data/dir/hostname", "/data/pipe", "/data/sub", "/../x"] {
            assert!(read(hostile).is_err(), "{hostile}");
        }
    }
}
