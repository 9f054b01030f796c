//! How much a directory takes.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Disk, DiskError, wrap};

/// Most entries that are counted.
const MAX_ENTRIES: u64 = 5_000_000;
/// Longest time that counting takes.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Unit of `st_blocks`.
const BLOCK: u64 = 512;

/// What a directory takes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// So many bytes; files with several names count once, holes not at all.
    Bytes(u64),
    /// It has too many entries to count them in time; at least so many bytes.
    AtLeast(u64),
}

impl Disk {
    /// What a directory and everything in it take. Files that go meanwhile are no error: a server
    /// may be at work.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn usage(&self, directory: &Path) -> Result<Usage, DiskError> {
        let end = Instant::now() + MAX_TIME;
        let (mut bytes, mut entries) = (0, 0_u64);
        let mut seen = HashSet::new();
        let mut left: Vec<PathBuf> = vec![directory.to_owned()];
        while let Some(path) = left.pop() {
            let Some(found) = there(fs::read_dir(&path)).map_err(wrap("list", &path))? else {
                continue;
            };
            for entry in found {
                let Some(entry) = there(entry).map_err(wrap("list", &path))? else { continue };
                let path = entry.path();
                let Some(meta) = there(entry.metadata()).map_err(wrap("look at", &path))? else {
                    continue;
                };
                if meta.nlink() == 1 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
                    bytes += meta.blocks() * BLOCK;
                }
                if meta.is_dir() {
                    left.push(path);
                }
                entries += 1;
                if entries >= MAX_ENTRIES || Instant::now() >= end {
                    return Ok(Usage::AtLeast(bytes));
                }
            }
        }
        Ok(Usage::Bytes(bytes))
    }
}

/// `None` for what is not there (any more).
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_second_names_take_no_room() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        let directory = root.path().join("i-1");
        fs::create_dir(&directory).unwrap();
        assert_eq!(disk.usage(&directory).unwrap(), Usage::Bytes(0));
        fs::write(directory.join("one"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(directory.join("one"), directory.join("two")).unwrap();
        let sparse = fs::File::create(directory.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let Usage::Bytes(bytes) = disk.usage(&directory).unwrap() else { panic!("it is small") };
        assert!(((1 << 20)..(1 << 21)).contains(&bytes), "{bytes}");
        assert_eq!(disk.usage(&root.path().join("none")).unwrap(), Usage::Bytes(0));
    }
}
