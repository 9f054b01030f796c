//! Configuration: YAML in, validated values out.
//!
//! Owns the settings file, the service files (cf-containers-broker's schema and what was added to
//! it), BOSH ops files, all defaults, and the list of problems. Touches neither Docker nor the
//! store.
//!
//! Invariant: all problems of a configuration are found in one pass, each with its path; nothing
//! is built from a configuration with errors.

mod container;
mod convert;
mod data_version;
mod emit;
mod existing;
mod files;
mod legacy;
mod lifecycle;
mod node;
mod problems;
mod sanity_test;
mod scalars;
mod service_tls;
mod services;
mod settings;
mod snapshot;
mod tenancy;
mod uniqueness;

#[cfg(test)]
pub(crate) use container::placeholder as placeholder_container;
pub use convert::convert_ops;
pub(crate) use emit::string as yaml_text;
pub use files::{load, load_services};
pub use problems::{Problem, Problems, Severity};
pub use scalars::{parse_duration, parse_size};
pub use service_tls::ServiceTlsSettings;
pub use settings::{
    BrokerLogin, Configuration, EncryptionKey, LogFormat, Overrides, PortRange, Registry, Settings,
    StoreBackup, TlsSettings,
};
pub use snapshot::{SnapshotMode, SnapshotSettings, WhenTooLarge};
