//! The record of an instance beside its data: a file that frames are appended to, and that is
//! replaced as a whole now and then. What the frames say is `lifecycle`'s.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

use super::{Disk, DiskError, wrap};

const RECORD: &str = "record";
const DRAFT: &str = "record.new";

impl Disk {
    /// Where the record of an instance is.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn record_path(&self, name: &str) -> Result<PathBuf, DiskError> {
        Ok(self.directory(name)?.join(RECORD))
    }

    /// Whether an instance has a record.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn has_record(&self, name: &str) -> Result<bool, DiskError> {
        let path = self.record_path(name)?;
        path.try_exists().map_err(wrap("look at", &path))
    }

    /// The record of an instance; `None` when there is none.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read_record(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.record_path(name)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrap("read", &path)(error)),
        }
    }

    /// Replaces the record of an instance, and returns when that is on disk: killed before, the
    /// old one is there. Without its directory, that is made, unless `only_if_there`; false when
    /// nothing was written because of that.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn replace_record(
        &self,
        name: &str,
        bytes: &[u8],
        only_if_there: bool,
    ) -> Result<bool, DiskError> {
        let directory = self.directory(name)?;
        if !directory.exists() {
            if only_if_there {
                return Ok(false);
            }
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&directory)
                .map_err(wrap("make", &directory))?;
            self.sync(&self.root.clone())?;
        }
        let (path, draft) = (directory.join(RECORD), directory.join(DRAFT));
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&draft);
        let written = opened.and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        match written {
            // Its directory went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound && only_if_there => {
                return Ok(false);
            }
            written => written.map_err(wrap("write", &draft))?,
        }
        fs::rename(&draft, &path).map_err(wrap("replace", &path))?;
        self.sync(&directory)?;
        Ok(true)
    }

    /// Appends to the record of an instance, and returns when that is on disk. False, and nothing
    /// is done, when it is not `length` bytes long.
    ///
    /// # Errors
    /// [`DiskError`]; part of it may have been written then.
    pub fn append_record(&self, name: &str, length: u64, bytes: &[u8]) -> Result<bool, DiskError> {
        let path = self.record_path(name)?;
        let mut file = match fs::OpenOptions::new().append(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(wrap("open", &path)(error)),
        };
        if file.metadata().map_err(wrap("look at", &path))?.len() != length {
            return Ok(false);
        }
        file.write_all(bytes).and_then(|()| file.sync_data()).map_err(wrap("write", &path))?;
        Ok(true)
    }

    fn sync(&self, directory: &std::path::Path) -> Result<(), DiskError> {
        debug_assert!(directory.starts_with(&self.root), "outside of the root");
        let synced = fs::File::open(directory).and_then(|file| file.sync_all());
        synced.map_err(wrap("write", directory))
    }
}
