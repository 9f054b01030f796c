//! The certificate of an instance, in a directory that its container sees.
//!
//! ```text
//! <safe name>/tls/{ca.crt,tls.crt,tls.key}   links to current/…
//! <safe name>/tls/current                    a link to version.<random>
//! <safe name>/tls/version.<random>/          the three files
//! <safe name>/tls-reload                     there while the service does not have the newest
//! ```
//!
//! Invariant: the three files that a container sees belong together, because `current` is replaced
//! in one rename. A mounted directory shows that; a mounted file would not.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown, symlink},
    path::{Path, PathBuf},
};

use super::{Disk, DiskError, wrap};

const DIRECTORY: &str = "tls";
const CURRENT: &str = "current";
const NEXT: &str = "next";
const VERSION: &str = "version.";
const PENDING: &str = "tls-reload";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What is not secret of an installed certificate, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// What clients trust.
    pub ca: String,
    /// The certificate.
    pub certificate: String,
}

/// A certificate to install, all PEM.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "holds a private key")]
pub struct CertificateFiles<'a> {
    /// What clients trust.
    pub ca: &'a str,
    /// The certificate.
    pub certificate: &'a str,
    /// Its private key.
    pub private_key: &'a str,
    /// Who owns them in the container, uid and gid.
    pub owner: (u32, u32),
    /// Their permission bits.
    pub mode: u32,
    /// Whether a service has the one before, and has to be told.
    pub in_use: bool,
}

impl Disk {
    /// The directory that the container of an instance sees.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn certificate_directory(&self, name: &str) -> Result<PathBuf, DiskError> {
        Ok(self.directory(name)?.join(DIRECTORY))
    }

    /// The certificate that an instance has; `None` when there is none, or not all of it.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn installed_certificate(&self, name: &str) -> Result<Option<Installed>, DiskError> {
        let current = self.certificate_directory(name)?.join(CURRENT);
        let read = |file: &str| {
            let path = current.join(file);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(wrap("read", &path)(error)),
            }
        };
        let (ca, certificate) = (read(CA)?, read(CERTIFICATE)?);
        if !current.join(KEY).exists() {
            return Ok(None);
        }
        Ok(ca.zip(certificate).map(|(ca, certificate)| Installed { ca, certificate }))
    }

    /// Installs a certificate in the place of the one before, which a service may have in use.
    ///
    /// # Errors
    /// [`DiskError`]; the one before is still in its place then.
    pub fn install_certificate(
        &self,
        name: &str,
        files: CertificateFiles<'_>,
    ) -> Result<(), DiskError> {
        let directory = self.certificate_directory(name)?;
        make_directory(&directory, files.owner)?;
        let version = tempfile::Builder::new()
            .prefix(VERSION)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&directory)
            .map_err(wrap("make a directory in", &directory))?;
        for (file, text) in
            [(CA, files.ca), (CERTIFICATE, files.certificate), (KEY, files.private_key)]
        {
            let path = version.path().join(file);
            write(&path, text, files).map_err(wrap("write", &path))?;
            let link = directory.join(file);
            match symlink(Path::new(CURRENT).join(file), &link) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(wrap("make", &link)(error));
                }
                _ => {}
            }
        }
        give(version.path(), files.owner)?;
        if files.in_use {
            // The service has yet to take it, also if the broker ends here.
            let pending = self.directory(name)?.join(PENDING);
            fs::write(&pending, "").map_err(wrap("write", &pending))?;
        }
        let (next, current) = (directory.join(NEXT), directory.join(CURRENT));
        remove_link(&next)?;
        let kept = version.keep();
        let target = kept.file_name().unwrap_or_default().to_owned();
        symlink(&target, &next)
            .and_then(|()| fs::rename(&next, &current))
            .and_then(|()| fs::File::open(&directory)?.sync_all())
            .map_err(wrap("replace", &current))?;
        remove_versions(&directory, &target)
    }

    /// Whether the service of an instance has yet to take its certificate.
    ///
    /// # Errors
    /// [`DiskError::BadName`].
    pub fn is_reload_pending(&self, name: &str) -> Result<bool, DiskError> {
        Ok(self.directory(name)?.join(PENDING).exists())
    }

    /// Remembers that the service of an instance has taken its certificate.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn clear_reload(&self, name: &str) -> Result<(), DiskError> {
        remove_link(&self.directory(name)?.join(PENDING))
    }
}

/// The directory is its container's own: only its owner may look into it.
fn make_directory(directory: &Path, owner: (u32, u32)) -> Result<(), DiskError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory).map_err(wrap("make", directory))?;
    give(directory, owner)
}

fn give(directory: &Path, (uid, gid): (u32, u32)) -> Result<(), DiskError> {
    chown(directory, Some(uid), Some(gid)).map_err(wrap("change the owner of", directory))
}

fn write(path: &Path, text: &str, files: CertificateFiles<'_>) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    fchown(&file, Some(files.owner.0), Some(files.owner.1))?;
    file.set_permissions(fs::Permissions::from_mode(files.mode))?;
    file.sync_all()
}

fn remove_link(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(wrap("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes what is not in use any more, also what a broker that was killed has left.
fn remove_versions(directory: &Path, current: &std::ffi::OsStr) -> Result<(), DiskError> {
    for entry in fs::read_dir(directory).map_err(wrap("list", directory))? {
        let entry = entry.map_err(wrap("list", directory))?;
        let name = entry.file_name();
        if name != current && name.to_string_lossy().starts_with(VERSION) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(wrap("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn files<'a>(disk: &Disk, certificate: &'a str) -> CertificateFiles<'a> {
        let meta = fs::metadata(disk.root()).unwrap();
        let owner = (meta.uid(), meta.gid());
        let (ca, private_key) = ("ca", "key");
        CertificateFiles { ca, certificate, private_key, owner, mode: 0o400, in_use: true }
    }

    #[test]
    fn a_certificate_is_replaced_as_a_whole_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        assert_eq!(disk.installed_certificate("i-1").unwrap(), None);
        assert!(!disk.is_reload_pending("i-1").unwrap());
        let directory = disk.certificate_directory("i-1").unwrap();
        let mut seen = Vec::new();
        for text in ["one", "two"] {
            disk.install_certificate("i-1", files(&disk, text)).unwrap();
            let installed = disk.installed_certificate("i-1").unwrap().unwrap();
            assert_eq!((installed.ca.as_str(), installed.certificate.as_str()), ("ca", text));
            assert!(disk.is_reload_pending("i-1").unwrap());
            disk.clear_reload("i-1").unwrap();
            disk.clear_reload("i-1").unwrap();
            assert!(!disk.is_reload_pending("i-1").unwrap());
            let key = directory.join("tls.key");
            assert_eq!(fs::read_to_string(&key).unwrap(), "key");
            assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o400);
            assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o700);
            seen.push(fs::canonicalize(&key).unwrap());
        }
        // Nothing of the first one is left, and no draft.
        assert!(!seen[0].exists() && seen[1].exists());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 5);
        disk.remove("i-1").unwrap();
        assert!(!directory.exists());
    }

    #[test]
    fn a_certificate_without_its_key_counts_as_none() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path()).unwrap();
        disk.install_certificate("i-1", files(&disk, "one")).unwrap();
        let key = disk.certificate_directory("i-1").unwrap().join("tls.key");
        fs::remove_file(fs::canonicalize(key).unwrap()).unwrap();
        assert_eq!(disk.installed_certificate("i-1").unwrap(), None);
    }
}
