//! The services under fault: the shipped ones, without the limits that make them slow to start.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::service_file;

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Redis,
    Postgres,
    Mariadb,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Redis, Self::Postgres, Self::Mariadb];

    /// Id of the service.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Self::Redis => "14ede404-eee9-4627-8cf7-879cd3f11e90",
            Self::Postgres => "601e2379-c0ee-44a7-a849-0aade3140bf7",
            Self::Mariadb => "50ceb49a-7f29-47da-ba1c-e67289925e46",
        }
    }

    /// Ids of its plans: small, large.
    pub(crate) fn plans(self) -> [&'static str; 2] {
        match self {
            Self::Redis => {
                ["94a07574-08a9-442e-864a-8c7fa3427b72", "168dfa15-e821-4486-bada-a5d6df6519c2"]
            }
            Self::Postgres => {
                ["4b5579e2-65da-4f68-a12c-ae02710761da", "f59e90c3-4cb4-43d2-a0b4-53194dac71c9"]
            }
            Self::Mariadb => {
                ["8d79b477-e904-4c92-86b4-4b59aca6bf3e", "1456faae-01c4-44ea-85b0-b465586bf037"]
            }
        }
    }

    pub(crate) fn image(self) -> &'static str {
        match self {
            Self::Redis => "redis:7",
            Self::Postgres => "postgres:17",
            Self::Mariadb => "mariadb:11.8",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Redis => "op-redis7.yml",
            Self::Postgres => "op-postgres17.yml",
            Self::Mariadb => "op-mariadb11.yml",
        }
    }
}

/// Writes the service files. A redis that has confirmed a write has it on disk: the shipped plans
/// let it lie in the kernel for up to a second, which only a power failure could show.
pub(crate) fn write_files(directory: &Path) -> Vec<PathBuf> {
    let files = Kind::ALL.map(|kind| {
        let text = fs::read_to_string(service_file(kind.file())).unwrap();
        let changes = [
            (
                "          appendonly yes\n",
                "          appendonly yes\n          appendfsync always\n",
            ),
            ("cpus: 0.5, ", ""),
            ("cpus: 1, ", ""),
        ];
        let text = changes.iter().fold(text, |text, (from, to)| text.replace(from, to));
        let file = directory.join(kind.file());
        fs::write(&file, text).unwrap();
        file
    });
    let redis = fs::read_to_string(&files[0]).unwrap();
    assert_eq!(redis.matches("appendfsync always").count(), 2, "both plans of redis");
    files.to_vec()
}
