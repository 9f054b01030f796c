//! `docker-broker upgrade-all`: brings every instance to what the catalog says, by the running
//! broker's own API.
//!
//! Who is behind is read from the store and dockerd, before and after: an instance that is up to
//! date is left alone, so an interrupted run is resumed by running it again, and the exit code says
//! what is, not what was answered.

mod attempt;
mod drive;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use http::Method;
use tokio::sync::mpsc;

use super::{
    Site,
    fleet::{Member, Standing},
};
use crate::{api_client::ApiClient, config::Configuration, lifecycle::Home, serve, shutdown};
use attempt::attempt;
use drive::{Attempt, End, News, Pace, drive};

/// How to go about it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How many instances come first, one after the other; if one fails nothing else is begun.
    pub canaries: usize,
    /// How many upgrades run at the same time after that.
    pub max_in_flight: usize,
    /// Go on with the others when one has failed.
    pub continue_on_failure: bool,
    /// `SERVICE` or `SERVICE/PLAN`; empty: all.
    pub only: Vec<String>,
    /// Ids; empty: all.
    pub instances: Vec<String>,
    /// Pause before a busy instance is tried again.
    pub attempt_interval: Duration,
    /// How often one instance is tried.
    pub attempt_limit: u32,
    /// Longest time of one upgrade.
    pub timeout: Duration,
}

/// One instance to upgrade.
#[derive(Debug, Clone)]
struct Job {
    id: String,
    path: String,
    service_id: String,
    version: String,
}

/// Upgrades what is behind. Whether everything that was chosen is up to date (or, with `dry_run`,
/// has been shown).
///
/// # Errors
/// When it cannot be begun; nothing was upgraded then.
pub async fn run(
    configuration: &Configuration,
    options: &Options,
    out: &mut (impl Write + Send),
) -> anyhow::Result<bool> {
    let site = Site::open(configuration).await?;
    let chosen = choose(site.fleet().await?, options)?;
    let jobs = jobs(&chosen);
    announce(&chosen, &jobs, options, out)?;
    if options.dry_run {
        return Ok(true);
    }
    let settings = site.settings;
    let login = &settings.login;
    let client = ApiClient::of(settings).login(&login.username, &serve::known_password(settings)?);
    if !jobs.is_empty() {
        check_catalog(&client, &chosen, &jobs).await?;
    }
    let began = Instant::now();
    let (canaries, others) = jobs.split_at(options.canaries.min(jobs.len()));
    let mut run = Run { site: &site, client, options, signals: signals(), ends: BTreeMap::new() };
    let first = Pace { max_in_flight: 1, continue_on_failure: false, ..options.pace() };
    let well = run.go(canaries, first, "canary ", out).await?;
    if well {
        run.go(others, options.pace(), "", out).await?;
    } else {
        run.ends.extend(others.iter().map(|job| (job.id.clone(), End::NotTried)));
    }
    let ends = std::mem::take(&mut run.ends);
    let after = choose(site.fleet().await?, &Options { instances: Vec::new(), ..options.clone() })?;
    conclude(&chosen, &jobs, &ends, &after, began.elapsed(), out)
}

impl Options {
    fn pace(&self) -> Pace {
        Pace {
            max_in_flight: self.max_in_flight.max(1),
            continue_on_failure: self.continue_on_failure,
            attempt_interval: self.attempt_interval,
            attempt_limit: self.attempt_limit.max(1),
        }
    }
}

/// Each signal as it comes.
fn signals() -> mpsc::Receiver<&'static str> {
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        while let Ok(name) = shutdown::requested().await {
            if sender.send(name).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn choose(members: Vec<Member>, options: &Options) -> anyhow::Result<Vec<Member>> {
    for wanted in &options.only {
        if !members.iter().any(|one| one.path() == *wanted || one.service == *wanted) {
            bail!("no instance is of {wanted:?}; say SERVICE or SERVICE/PLAN");
        }
    }
    for wanted in &options.instances {
        match members.iter().find(|one| one.instance.id == *wanted) {
            None => bail!("there is no instance {wanted:?}"),
            Some(one) if one.instance.home == Home::Host => bail!(
                "{wanted:?} is a shared container; it is upgraded with the first of its instances"
            ),
            Some(_) => {}
        }
    }
    let of_plan = |one: &Member| {
        options.only.is_empty()
            || options.only.contains(&one.service)
            || options.only.contains(&one.path())
    };
    let named =
        |one: &Member| options.instances.is_empty() || options.instances.contains(&one.instance.id);
    Ok(members.into_iter().filter(|one| of_plan(one) && named(one)).collect())
}

/// Shared containers have no id that the API knows: they follow their instances.
fn jobs(chosen: &[Member]) -> Vec<Job> {
    let behind = chosen
        .iter()
        .filter(|one| one.standing == Standing::Pending && one.instance.home != Home::Host);
    behind
        .filter_map(|one| {
            Some(Job {
                id: one.instance.id.clone(),
                path: one.path(),
                service_id: one.instance.service_id.clone(),
                version: one.offered.clone()?,
            })
        })
        .collect()
}

fn announce(
    chosen: &[Member],
    jobs: &[Job],
    options: &Options,
    out: &mut (impl Write + Send),
) -> std::io::Result<()> {
    let platform = || chosen.iter().filter(|one| one.instance.home != Home::Host);
    let count = |wanted: &str| platform().filter(|one| one.standing.word() == wanted).count();
    writeln!(
        out,
        "{} instances: {} to upgrade, {} up to date, {} held, {} unusable",
        platform().count(),
        jobs.len(),
        count("up to date"),
        count("held"),
        count("unusable"),
    )?;
    let canaries: BTreeSet<&String> =
        jobs.iter().take(options.canaries).map(|job| &job.id).collect();
    for member in chosen {
        let (id, path) = (&member.instance.id, member.path());
        match &member.standing {
            Standing::Pending if options.dry_run => {
                let canary = if canaries.contains(id) { ", as a canary" } else { "" };
                let from = member.instance.maintenance.as_deref().unwrap_or("no version");
                let to = member.offered.as_deref().unwrap_or("no version");
                if member.instance.home == Home::Host {
                    writeln!(out, "{id} ({path}): a shared container, with its first instance")?;
                } else {
                    writeln!(out, "{id} ({path}): {from} -> {to}{canary}")?;
                }
                for change in &member.changes {
                    writeln!(out, "  {change}")?;
                }
            }
            Standing::Held(reason) | Standing::Unusable(reason) => {
                writeln!(out, "{id} ({path}): {}: {reason}", member.standing.word())?;
            }
            Standing::Pending | Standing::UpToDate => {}
        }
    }
    Ok(())
}

/// A broker that was not restarted since the configuration changed would refuse every upgrade.
async fn check_catalog(client: &ApiClient, chosen: &[Member], jobs: &[Job]) -> anyhow::Result<()> {
    let asked = client.send(Method::GET, "/v2/catalog", None).await;
    let (status, body) = asked.with_context(|| format!("no broker answers at {client}"))?;
    if !status.is_success() {
        bail!("the broker at {client} refuses to show its catalog: {status}");
    }
    let services = body["services"].as_array().cloned().unwrap_or_default();
    let plans = services.iter().filter_map(|service| service["plans"].as_array().cloned());
    let versions: BTreeMap<String, String> = plans
        .flatten()
        .filter_map(|plan| {
            let version = plan["maintenance_info"]["version"].as_str()?.to_owned();
            Some((plan["id"].as_str()?.to_owned(), version))
        })
        .collect();
    for job in jobs {
        let plan = chosen.iter().find(|one| one.instance.id == job.id);
        let plan = plan.map(|one| one.instance.plan_id.as_str()).unwrap_or_default();
        let running = versions.get(plan);
        if running != Some(&job.version) {
            bail!(
                "the running broker offers version {} of {}, this configuration {}; restart the \
                 broker with this configuration",
                running.map_or("none", String::as_str),
                job.path,
                job.version
            );
        }
    }
    Ok(())
}

/// A run under way.
struct Run<'a> {
    site: &'a Site<'a>,
    client: ApiClient,
    options: &'a Options,
    signals: mpsc::Receiver<&'static str>,
    ends: BTreeMap<String, End>,
}

impl Run<'_> {
    /// Upgrades these, then looks whether they are up to date. Whether all went well.
    async fn go(
        &mut self,
        jobs: &[Job],
        pace: Pace,
        kind: &str,
        out: &mut (impl Write + Send),
    ) -> anyhow::Result<bool> {
        if jobs.is_empty() {
            return Ok(true);
        }
        let (client, limit) = (&self.client, self.options.timeout);
        let try_one = |index: usize| {
            let job = &jobs[index];
            async move { attempt(client, job, limit).await }
        };
        let mut tell = |news: News<'_>| tell(out, jobs, kind, &news);
        let ended = drive(jobs.len(), pace, try_one, &mut tell, &mut self.signals).await?;
        let after = self.site.fleet().await?;
        let mut well = true;
        for (job, mut end) in jobs.iter().zip(ended) {
            if matches!(end, End::Upgraded)
                && let Some(left) = after.iter().find(|one| one.instance.id == job.id)
                && left.standing != Standing::UpToDate
            {
                end = End::Failed(still(left));
            }
            well &= matches!(end, End::Upgraded | End::Gone);
            self.ends.insert(job.id.clone(), end);
        }
        Ok(well)
    }
}

fn still(member: &Member) -> String {
    if let Some(reason) = member.standing.reason() {
        return format!("the broker said that it is done, but: {reason}");
    }
    let changes: Vec<String> = member.changes.iter().map(ToString::to_string).collect();
    format!("the broker said that it is done, but it still differs: {}", changes.join("; "))
}

fn tell(
    out: &mut (impl Write + Send),
    jobs: &[Job],
    kind: &str,
    news: &News<'_>,
) -> std::io::Result<()> {
    let total = jobs.len();
    let mut line = |index: usize, text: String| {
        let job = &jobs[index];
        writeln!(out, "[{kind}{}/{total}] {} ({}): {text}", index + 1, job.id, job.path)
    };
    match news {
        News::Begun(index) => line(*index, format!("upgrading to {}", jobs[*index].version)),
        News::Ended(index, took, Attempt::Done) => {
            line(*index, format!("done in {:.1} s", took.as_secs_f64()))
        }
        News::Ended(index, _, Attempt::Gone) => line(*index, "it was deleted meanwhile".to_owned()),
        News::Ended(index, _, Attempt::Busy(why) | Attempt::Failed(why)) => {
            line(*index, format!("FAILED: {why}"))
        }
        News::Waits(index, why, pause) => {
            line(*index, format!("{why}; tried again in {} s", pause.as_secs()))
        }
        News::Stopping(signal, running) => {
            let running: Vec<&str> = running.iter().map(|index| jobs[*index].id.as_str()).collect();
            writeln!(
                out,
                "{signal}: nothing more is begun; under way: {}; once more to end without waiting",
                if running.is_empty() { "nothing".to_owned() } else { running.join(", ") }
            )
        }
    }
}

fn conclude(
    chosen: &[Member],
    jobs: &[Job],
    ends: &BTreeMap<String, End>,
    after: &[Member],
    took: Duration,
    out: &mut (impl Write + Send),
) -> anyhow::Result<bool> {
    let mut left: Vec<String> = Vec::new();
    let mut upgraded = 0;
    for job in jobs {
        let reason = match ends.get(&job.id) {
            Some(End::Upgraded) => {
                upgraded += 1;
                continue;
            }
            Some(End::Gone) => continue,
            Some(End::Failed(why)) => why.clone(),
            Some(End::UnderWay) => "still under way in the broker".to_owned(),
            Some(End::NotTried) | None => "not tried".to_owned(),
        };
        left.push(format!("{} ({}): {reason}", job.id, job.path));
    }
    for member in chosen {
        if let Standing::Held(reason) = &member.standing {
            left.push(format!("{} ({}): {reason}", member.instance.id, member.path()));
        }
    }
    // Hosts are upgraded by way of their instances; whether they were, only a look tells.
    let hosts: BTreeSet<&str> = chosen.iter().filter_map(Member::host).collect();
    let all = chosen.iter().filter(|one| one.instance.home == Home::Host);
    let hosts: BTreeSet<&str> = all.map(|one| one.instance.id.as_str()).chain(hosts).collect();
    for member in after.iter().filter(|one| hosts.contains(one.instance.id.as_str())) {
        if member.standing == Standing::Pending {
            let id = &member.instance.id;
            left.push(format!("{id} ({}): the shared container is not upgraded", member.path()));
        }
    }
    let seconds = took.as_secs_f64();
    if left.is_empty() {
        writeln!(out, "{upgraded} upgraded in {seconds:.1} s; all are up to date")?;
        return Ok(true);
    }
    writeln!(out, "{upgraded} upgraded in {seconds:.1} s; {} are not up to date:", left.len())?;
    for line in left {
        writeln!(out, "  {line}")?;
    }
    Ok(false)
}
