//! Operators' commands that look at this machine beside a running broker: `instances`,
//! `upgrade-all` and `orphans`.
//!
//! Owns what they print and their exit codes. Reads the store through a handle that cannot write
//! it, asks dockerd, walks the disk; changes of instances go through the running broker's own API,
//! so the rules are the broker's. No HTTP routes, no SQL, no type of bollard.
//!
//! Invariants: no secret is printed: of a changed environment only the names, of commands and hooks
//! only that they differ. What another process does meanwhile is no finding: whatever looks wrong
//! is looked at before and after. Nothing is removed that was not named, and nothing that is not
//! this broker's.

mod bytes;
mod difference;
mod fleet;
pub mod instances;
pub mod orphans;
mod table;
pub mod upgrade;

use std::sync::Arc;

use anyhow::Context;

use crate::{
    catalog::Catalog,
    config::{Configuration, Settings},
    credentials::Keyring,
    disk::Disk,
    docker::Engine,
    lifecycle::{Surveyed, know_adopted, survey},
    serve,
    store::Store,
};

/// What the commands look at.
#[derive(Debug)]
struct Site<'a> {
    settings: &'a Settings,
    catalog: &'a Catalog,
    store: Store,
    keys: Arc<Keyring>,
    engine: Engine,
    disk: Disk,
}

impl<'a> Site<'a> {
    /// Opens everything for reading.
    async fn open(configuration: &'a Configuration) -> anyhow::Result<Self> {
        let Configuration { settings, catalog } = configuration;
        let site = Self {
            settings,
            catalog,
            store: Store::open_read_only(&settings.data_directory)?,
            keys: Arc::new(serve::known_keyring(settings)?),
            engine: serve::engine(settings),
            disk: Disk::at(&settings.host_directory),
        };
        know_adopted(&site.store, &site.keys, &site.engine)
            .await
            .context("the instances cannot be read")?;
        Ok(site)
    }

    async fn survey(&self) -> anyhow::Result<Vec<Surveyed>> {
        survey(&self.store, &self.keys, self.engine.owner())
            .await
            .context("the instances cannot be read")
    }
}
