//! `docker-broker sanity-test`: takes every plan through its whole life, as a platform and its
//! applications would, against the broker that runs on this machine.
//!
//! Owns nothing but the instances that it makes, whose ids begin with `sanity-test-`: they are removed
//! also after a failure, a signal, or (by the next run) a kill. Prints no secrets.

mod check;
mod life;

use std::{fs, io::Write, os::unix::fs::FileExt, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use http::Method;
use rand::{Rng, distr::Alphanumeric};

use crate::{
    api_client::ApiClient,
    catalog::{Catalog, Offer},
    config::{Configuration, Settings},
    docker::Engine,
    serve, shutdown,
};
use life::{Failure, Life};

const PREFIX: &str = "sanity-test-";
const RANDOM_CHARACTERS: usize = 10;
const LOCK_FILE: &str = "sanity-test.lock";

/// What to test, and with how much patience.
#[derive(Debug)]
pub struct Options {
    /// `SERVICE` or `SERVICE/PLAN`; empty: everything.
    pub only: Vec<String>,
    /// Longest time of one operation.
    pub timeout: Duration,
}

/// Tests the plans one after the other and prints a line about each. Whether all passed.
///
/// # Errors
/// When the test cannot be made at all, or was interrupted; what it made is removed nevertheless.
pub async fn run(
    configuration: &Configuration,
    options: &Options,
    out: &mut (impl Write + Send),
) -> anyhow::Result<bool> {
    let Configuration { settings, catalog } = configuration;
    let offers = choose(catalog, &options.only)?;
    let mut journal = Journal::open(settings)?;
    let login = &settings.login;
    let client = ApiClient::of(settings).login(&login.username, &serve::known_password(settings)?);
    let engine = serve::engine(settings);
    let on_offer = offered_plans(&client).await?;
    let mut failures = Vec::new();
    for Left { id, service, plan } in leftovers(&engine, &journal.left).await? {
        writeln!(out, "removing {id}, which an earlier run left behind")?;
        match life::remove(&client, &id, &service, &plan, options.timeout).await {
            Ok(()) => journal.forget(&id)?,
            Err(failure) => failures.push(format!("{id} of an earlier run: {failure}")),
        }
    }
    let table = Table::of(&offers);
    table.line(out, ["SERVICE", "PLAN", "RESULT", "READY IN", "CHECKED"])?;
    for offer in &offers {
        let (service, plan) = (&offer.service.name, &offer.plan.name);
        let id = new_id();
        journal.note(&id, offer)?;
        let mut life = Life::new(&client, &engine, offer, id.clone(), options.timeout);
        let ended = if on_offer.contains(&offer.plan.id) {
            run_unless_interrupted(&mut life).await?
        } else {
            let reason = "the running broker does not offer this plan; restart it with this \
                          configuration";
            Err(Failure::new("catalog", reason))
        };
        let result = if ended.is_ok() { "ok" } else { "FAILED" };
        table.line(out, [service, plan, result, &life.ready_in(), &life.checked()])?;
        let mut gone = true;
        if let Err(failure) = ended {
            failures.push(format!("{service}/{plan}: {failure}"));
            if let Err(failure) = life.clean_up().await {
                failures.push(format!("{service}/{plan}: cleaning up: {failure}"));
                gone = life.is_gone();
            }
        }
        if gone {
            journal.forget(&id)?;
        }
    }
    for failure in &failures {
        writeln!(out, "{failure}")?;
    }
    let verdict = if failures.is_empty() { "all of them work" } else { "see above for failures" };
    writeln!(out, "{} plans tested; {verdict}", offers.len())?;
    Ok(failures.is_empty())
}

async fn run_unless_interrupted(life: &mut Life<'_>) -> anyhow::Result<Result<(), Failure>> {
    let signal = tokio::select! {
        ended = life.run() => return Ok(ended),
        signal = shutdown::requested() => signal.context("cannot wait for signals")?,
    };
    match life.clean_up().await {
        Ok(()) => bail!("interrupted by {signal}; what was made for the test is removed"),
        Err(failure) => bail!("interrupted by {signal}, and cleaning up failed: {failure}"),
    }
}

/// Widths of the columns with names in them.
struct Table {
    service: usize,
    plan: usize,
}

impl Table {
    fn of(offers: &[&Offer]) -> Self {
        let longest = |names: &mut dyn Iterator<Item = usize>| names.max().unwrap_or(0);
        Self {
            service: longest(&mut offers.iter().map(|o| o.service.name.len())).max(7),
            plan: longest(&mut offers.iter().map(|o| o.plan.name.len())).max(4),
        }
    }

    fn line(&self, out: &mut impl Write, cells: [&str; 5]) -> std::io::Result<()> {
        let Self { service: service_width, plan: plan_width } = self;
        let [service, plan, result, seconds, checked] = cells;
        writeln!(
            out,
            "{service:service_width$}  {plan:plan_width$}  {result:6}  {seconds:>8}  {checked}"
        )
    }
}

fn choose<'a>(catalog: &'a Catalog, only: &[String]) -> anyhow::Result<Vec<&'a Offer>> {
    let names = |offer: &Offer| {
        let service = offer.service.name.clone();
        [format!("{service}/{}", offer.plan.name), service]
    };
    for wanted in only {
        if !catalog.offers().any(|offer| names(offer).contains(wanted)) {
            bail!("there is no service or plan {wanted:?}; say SERVICE or SERVICE/PLAN");
        }
    }
    let chosen =
        |offer: &&Offer| only.is_empty() || names(offer).iter().any(|name| only.contains(name));
    let offers: Vec<_> = catalog.offers().filter(chosen).collect();
    if offers.is_empty() {
        bail!("there is nothing to test: no services are configured");
    }
    Ok(offers)
}

/// An instance that a run could not remove.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Left {
    id: String,
    service: String,
    plan: String,
}

/// Instances that are not known to be removed, on disk: those of a killed run, and those whose
/// removal failed, may have no container by which to find them. Held locked, so that whatever has
/// the prefix is left over.
struct Journal {
    file: fs::File,
    path: PathBuf,
    left: Vec<Left>,
}

impl Journal {
    fn open(settings: &Settings) -> anyhow::Result<Self> {
        let path = settings.data_directory.join(LOCK_FILE);
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                bail!("another sanity-test runs; wait for its end")
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines: Vec<&str> = text.lines().collect();
        let (entries, _) = lines.as_chunks::<3>();
        let left = entries.iter().map(|[id, service, plan]| Left {
            id: (*id).to_owned(),
            service: (*service).to_owned(),
            plan: (*plan).to_owned(),
        });
        Ok(Self { left: left.collect(), file, path })
    }

    /// Stays when the run is killed: the next one removes that instance.
    fn note(&mut self, id: &str, offer: &Offer) -> anyhow::Result<()> {
        self.left.push(Left {
            id: id.to_owned(),
            service: offer.service.id.clone(),
            plan: offer.plan.id.clone(),
        });
        self.write()
    }

    /// It is removed.
    fn forget(&mut self, id: &str) -> anyhow::Result<()> {
        self.left.retain(|left| left.id != id);
        self.write()
    }

    fn write(&self) -> anyhow::Result<()> {
        let entry = |left: &Left| format!("{}\n{}\n{}\n", left.id, left.service, left.plan);
        let text: String = self.left.iter().map(entry).collect();
        let written =
            self.file.set_len(0).and_then(|()| self.file.write_all_at(text.as_bytes(), 0));
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

async fn offered_plans(client: &ApiClient) -> anyhow::Result<Vec<String>> {
    let asked = client.send(Method::GET, "/v2/catalog", None).await;
    let (status, body) = asked.with_context(|| format!("no broker answers at {client}"))?;
    if !status.is_success() {
        bail!("the broker at {client} refuses to show its catalog: {status}");
    }
    let services = body["services"].as_array().cloned().unwrap_or_default();
    let plans = services.iter().filter_map(|service| service["plans"].as_array().cloned());
    Ok(plans.flatten().filter_map(|plan| plan["id"].as_str().map(str::to_owned)).collect())
}

/// What earlier runs left, by its containers and by the journal.
async fn leftovers(engine: &Engine, noted: &[Left]) -> anyhow::Result<Vec<Left>> {
    let owned = engine.list_owned().await.context("the Docker engine cannot be asked")?;
    let ours = owned.into_iter().map(|one| one.labels);
    let mut found: Vec<_> = ours
        .filter(|labels| labels.instance_id.starts_with(PREFIX))
        .map(|labels| Left {
            id: labels.instance_id,
            service: labels.service_id,
            plan: labels.plan_id,
        })
        .chain(noted.iter().cloned())
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn new_id() -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(RANDOM_CHARACTERS).map(char::from);
    PREFIX.chars().chain(random).collect()
}
