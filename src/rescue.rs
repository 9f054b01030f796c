//! What saves a store that is lost, damaged or too old: a start that refuses to go on without it,
//! `docker-broker rebuild-store` and `docker-broker orphans --adopt`.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::{Context, bail};

use crate::{
    config::Settings,
    disk::Disk,
    docker::OwnedContainer,
    lifecycle::{Rebuilt, Restored, rebuild_store as rebuild_from_records, take_back},
    serve,
    store::{FILE_NAME, Presence, Store, StoreError, newest_good_backup},
    telemetry::Chain,
};

/// What a command has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it.
    Whole,
    /// There is something to look after; the report says what.
    Partly,
    /// Nothing was changed.
    Nothing,
}

/// Refuses a store that is damaged, or that is missing or without instances while there are records
/// of some: a fresh one would give their ports and names away.
///
/// # Errors
/// With what to do about it.
pub fn require_store(data: &Path, disk: &Disk) -> anyhow::Result<()> {
    let path = data.join(FILE_NAME);
    let presence = match Store::look(data) {
        Ok(presence) => presence,
        Err(error @ StoreError::Corrupt { .. }) => {
            let text = damaged(data, &path);
            return Err(error).context(text);
        }
        Err(error) => return Err(error.into()),
    };
    // One without instances may have been made since the store was lost.
    if !matches!(presence, Presence::Missing | Presence::Instances(0)) {
        return Ok(());
    }
    let records = with_records(disk)?;
    if records.is_empty() {
        return Ok(());
    }
    bail!(
        "the store {} is missing, or has no instance, but {} directories in {} hold records of service \
         instances ({}{}); nothing was changed. Run docker-broker rebuild-store with the same \
         configuration, which makes the store anew from them, or move the directories away if \
         they are not wanted",
        path.display(),
        records.len(),
        disk.root().display(),
        records.iter().take(3).cloned().collect::<Vec<_>>().join(", "),
        if records.len() > 3 { ", …" } else { "" },
    )
}

/// Directories with a record.
fn with_records(disk: &Disk) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for name in disk.list()? {
        if disk.record_path(&name)?.exists() {
            found.push(name);
        }
    }
    Ok(found)
}

fn damaged(data: &Path, path: &Path) -> String {
    let copy = match newest_good_backup(data) {
        Ok(Some(copy)) => format!(
            "; or, if there are no records, put the newest good copy in its place: cp {} {}",
            copy.display(),
            path.display()
        ),
        Ok(None) => "; there is no good copy of it".to_owned(),
        Err(error) => format!("; its copies cannot be looked at: {}", Chain(&error)),
    };
    let (data, path) = (data.display(), path.display());
    format!(
        "the store cannot be used, and nothing was changed. Move it away with its journal (mkdir \
         {data}/damaged && mv {path}* {data}/damaged/), then run docker-broker rebuild-store with \
         the same configuration, which makes it anew from the records beside the instances' \
         data{copy}"
    )
}

/// `docker-broker rebuild-store`: makes the store anew from the records beside the instances'
/// data. The report, for people.
///
/// # Errors
/// When a broker runs on the data directory, when there is a store with instances, or when the new
/// one cannot be written. Nothing was changed then.
pub async fn rebuild_store(settings: &Settings) -> anyhow::Result<(String, Outcome)> {
    let data = settings.data_directory.as_path();
    serve::make_private(data)?;
    let _lock = serve::lock(data).context("rebuild-store needs the broker stopped")?;
    let path = data.join(FILE_NAME);
    match Store::look(data) {
        Ok(Presence::Missing | Presence::Instances(0)) => {}
        Ok(Presence::Instances(count)) => bail!(
            "the store {} has {count} instances, so there is nothing to rebuild; to give it up for \
             the records, move it away: mv {0} {0}.old",
            path.display()
        ),
        Err(error @ StoreError::Corrupt { .. }) => return Err(error).context(damaged(data, &path)),
        Err(error) => return Err(error.into()),
    }
    let keys = serve::known_keyring(settings)?;
    let disk = Disk::open(&settings.host_directory)?;
    let owned = serve::engine(settings).list_owned().await;
    let (of_disk, of_data) = (disk.clone(), data.to_owned());
    let work = move || rebuild_from_records(&of_data, &of_disk, &keys);
    let rebuilt = tokio::task::spawn_blocking(work).await.context("the rebuild panicked")?;
    let rebuilt = rebuilt.context("the store could not be made anew; nothing was changed")?;
    let (owned, engine_silent) = match owned {
        Ok(owned) => (owned, None),
        Err(error) => (Vec::new(), Some(Chain(&error).to_string())),
    };
    Ok(report(settings, &rebuilt, &owned, engine_silent.as_deref()))
}

/// `docker-broker orphans --adopt`: takes the instances of these directories back into the store,
/// out of their records. The report, for people.
///
/// # Errors
/// When a broker runs on the data directory, or the store cannot be read or written.
pub async fn adopt_orphans(
    settings: &Settings,
    names: &[String],
) -> anyhow::Result<(String, Outcome)> {
    let data = settings.data_directory.as_path();
    let _lock = serve::lock(data).context("orphans --adopt needs the broker stopped")?;
    if Store::look(data)? == Presence::Missing {
        bail!(
            "there is no store {}; run docker-broker rebuild-store",
            data.join(FILE_NAME).display()
        );
    }
    let store = Store::open(data)?;
    let keys = Arc::new(serve::known_keyring(settings)?);
    let disk = Disk::at(&settings.host_directory);
    let outcomes = take_back(&store, &disk, &keys, names).await?;
    let mut lines = Vec::new();
    for (name, outcome) in &outcomes {
        lines.push(match outcome {
            Ok(back) => told(back),
            Err(why) => format!("not adopted {name}: {why}"),
        });
    }
    let adopted = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
    let (count, is_partial) = (adopted.clone().count(), adopted.clone().any(|one| one.is_partial));
    let outcome = match count {
        0 => Outcome::Nothing,
        _ if count < outcomes.len() || is_partial => Outcome::Partly,
        _ => Outcome::Whole,
    };
    lines.push(format!("{count} instances adopted; start the broker"));
    Ok((lines.join("\n"), outcome))
}

/// A line for an instance that came back.
fn told(one: &Restored) -> String {
    let Restored { id, name, state, bindings, is_partial } = one;
    let line = format!("restored    {id}: {state}, {bindings} bindings ({name})");
    if !is_partial {
        return line;
    }
    format!(
        "{line}\ndamaged     {id}: its record ({name}) is damaged behind that, so later changes are \
         lost: bindings that were removed since may be back, and later ones missing; compare them \
         with the platform's"
    )
}

fn report(
    settings: &Settings,
    rebuilt: &Rebuilt,
    owned: &[OwnedContainer],
    engine_silent: Option<&str>,
) -> (String, Outcome) {
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for name in &rebuilt.without_key {
        say(format!("no key      {name}: its record was encrypted with a key that is not known"));
    }
    for (name, why) in &rebuilt.unread {
        say(format!("not read    {name}: {why}"));
    }
    if !rebuilt.unread.is_empty() {
        say(format!(
            "nothing was changed: {} records cannot be read for now; run this again when that is \
             mended, or move their directories away if they are not wanted",
            rebuilt.unread.len()
        ));
    }
    if !rebuilt.without_key.is_empty() {
        say(format!(
            "nothing was changed: {} records need a key that is not among encryption_keys; put \
             the one that the broker used there (a generated one is in the file encryption-key \
             of the data directory)",
            rebuilt.without_key.len()
        ));
    }
    if !rebuilt.without_key.is_empty() || !rebuilt.unread.is_empty() {
        return (text, Outcome::Nothing);
    }
    for one in &rebuilt.restored {
        say(told(one));
    }
    for (name, why) in &rebuilt.skipped {
        say(format!(
            "skipped     {name}: {why}; its directory is left alone, move it away when it is not \
             wanted"
        ));
    }
    // What was skipped although its record could be read is not lost.
    let restored = rebuilt.restored.iter().map(|one| &one.id);
    let known: BTreeSet<&str> = restored.chain(&rebuilt.unfit).map(String::as_str).collect();
    let strangers = owned.iter().filter(|one| !known.contains(one.labels.instance_id.as_str()));
    let mut unknown = 0;
    for container in strangers {
        unknown += 1;
        let labels = &container.labels;
        say(format!(
            "no record   container {}: instance {} of plan {} ({}), of which nothing else is \
             known, so its credentials are lost; keep its data, then remove it: docker rm -f {0}",
            container.name, labels.instance_id, labels.plan_id, labels.service_name
        ));
    }
    if let Some(why) = engine_silent {
        say(format!("not looked  at containers: {why}"));
    }
    if settings.encryption_keys.is_empty() {
        say("warning     no encryption_keys are configured: the key lies in the data directory, \
             and with that lost nothing could be rebuilt; configure encryption_keys"
            .to_owned());
    }
    if rebuilt.restored.is_empty() {
        say(format!(
            "nothing was changed: no usable record in {}",
            settings.host_directory.display()
        ));
        return (text, Outcome::Nothing);
    }
    say(format!(
        "{} instances restored, {} directories skipped; start the broker",
        rebuilt.restored.len(),
        rebuilt.skipped.len()
    ));
    let is_partial = rebuilt.restored.iter().any(|one| one.is_partial);
    let whole =
        rebuilt.skipped.is_empty() && !is_partial && unknown == 0 && engine_silent.is_none();
    (text, if whole { Outcome::Whole } else { Outcome::Partly })
}
