//! Speed and size of the broker, measured on the release binary against a real dockerd.
//!
//! `ci/bench` runs it; docs/performance.md says what the figures mean. Both sides of a comparison
//! take turns in one run, so that the machine's noise hits both.

mod catalog;
mod crowd;
mod docker;
mod floor;
mod hooks;
mod http;
mod latency;
mod load;
mod osb;
mod process;
mod provision;
mod recreate;
mod redis;
mod report;
mod rest;
mod seed;
mod size;
mod update;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Value, json};

use crate::{docker::Docker, floor::Floor, process::Broker, report::Report, seed::Template};

/// Host ports of everything here: above other brokers' (20000-29999), below the kernel's own.
const FIRST_PORT: u16 = 30_000;
const FLOOR_PORT: u16 = FIRST_PORT + 2 * process::PORTS;
const HOOKS_PORT: u16 = FIRST_PORT + 4 * process::PORTS;
const RECREATE_PORT: u16 = FIRST_PORT + 5 * process::PORTS;
const RECREATE_FLOOR_PORT: u16 = FIRST_PORT + 6 * process::PORTS;
const REST_PORT: u16 = FIRST_PORT + 7 * process::PORTS;
/// The instance that each broker keeps during requests.
const KEPT: &str = "kept";

/// Measures the broker.
#[derive(Debug, Parser)]
struct Args {
    /// Fewer rounds, to see that it works: no figures to publish.
    #[arg(long)]
    quick: bool,
    /// Only this part, and what takes no time.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Where the figures go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The broker.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_docker-broker"))]
    broker: PathBuf,
    /// Prefix of the names of everything that is made.
    #[arg(long, default_value = "bench")]
    name: String,
    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Provision,
    Update,
    Requests,
    Hooks,
    Catalog,
    Start,
    Recreate,
    Rest,
}

/// How much is measured.
struct Scale {
    provision: provision::Rounds,
    update: update::Rounds,
    latency: latency::Rounds,
    hooks: hooks::Rounds,
    catalog: catalog::Rounds,
    recreate: recreate::Rounds,
    /// Instances in the large store.
    instances: usize,
    starts: usize,
    rest: rest::Scale,
}

const QUICK: Scale = Scale {
    provision: provision::Rounds { single: 5, blocks: 2, block: 16 },
    update: update::Rounds { rounds: 5 },
    latency: latency::Rounds { rounds: 2, requests: 1000 },
    hooks: hooks::Rounds { rounds: 10, bindings: 50 },
    catalog: catalog::Rounds { rounds: 3, requests: 8_000 },
    recreate: recreate::Rounds { rounds: 2, instances: 20 },
    instances: 10_000,
    starts: 5,
    rest: rest::Scale { real: 10, made_up: 990, at_rest: 10, frequent: 10 },
};

const FULL: Scale = Scale {
    provision: provision::Rounds { single: 40, blocks: 5, block: 40 },
    update: update::Rounds { rounds: 40 },
    latency: latency::Rounds { rounds: 5, requests: 4000 },
    hooks: hooks::Rounds { rounds: 60, bindings: 1000 },
    catalog: catalog::Rounds { rounds: 15, requests: 40_000 },
    recreate: recreate::Rounds { rounds: 5, instances: 100 },
    instances: 10_000,
    starts: 20,
    rest: rest::Scale { real: 100, made_up: 900, at_rest: 120, frequent: 60 },
};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(catalog::BARE_WARP) {
        return catalog::serve_bare(Path::new(&words.next().context("no file")?));
    }
    // Test runners list and run benches as well; only `cargo bench` says so.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let args = Args::parse();
    let report = measure(&args)?;
    say(&report.table())?;
    match report.missed() {
        0 => say("every bound is met")?,
        missed => say(&format!("{missed} bounds are missed"))?,
    }
    if let Some(file) = &args.json {
        report.write(file, &machine(&args)?)?;
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Report> {
    let scale = if args.quick { QUICK } else { FULL };
    let docker = Docker::from_environment()?;
    let name = |what: &str| format!("{}-{what}", args.name);
    let start = |what: &str, first_port| {
        let url = docker.url();
        let mut broker = Broker::new(&args.broker, &docker, &url, &name(what), first_port)?;
        broker.launch_ready()?;
        anyhow::Ok(broker)
    };
    let begins = |part| {
        let wanted = args.only.is_none_or(|only| only == part);
        if wanted {
            // Progress, for people who wait.
            drop(writeln!(std::io::stderr(), "{part:?} …"));
        }
        wanted
    };
    let mut report = Report::default();
    let one = start("one", FIRST_PORT)?;
    // The second request; the first one was for the catalog as well.
    one.connect()?.exchange(&osb::catalog())?.expect(200)?;
    size::memory(&one, "idle", true, &mut report)?;
    size::binary(&args.broker, &mut report)?;
    if begins(Part::Provision) {
        let floor = Floor::new(docker.clone(), &name("floor"), FLOOR_PORT)?;
        provision::measure(&floor, &one, &scale.provision, &mut report)?;
    }
    if begins(Part::Update) {
        let floor = Floor::new(docker.clone(), &name("floor"), FLOOR_PORT)?;
        update::measure(&floor, &one, &scale.update, &mut report)?;
    }
    let provision = osb::provision(KEPT, false);
    one.connect()?.exchange(&provision)?.expect(201)?;
    let template = Template::of(one.data(), KEPT)?;
    if begins(Part::Requests) {
        let url = docker.url();
        let first = FIRST_PORT + process::PORTS;
        let mut many = Broker::new(&args.broker, &docker, &url, &name("many"), first)?;
        // Its instances have no containers, and are not to get any.
        many.set("reconcile_interval", "0s")?;
        many.launch_ready()?;
        many.connect()?.exchange(&provision)?.expect(201)?;
        template.seed(many.data(), scale.instances)?;
        // Rows were written past the broker: a first bind makes each one's record.
        let first = (0..scale.instances).map(|number| osb::bind(&seed::id(number), "first"));
        load::requests(many.address(), &first.collect::<Vec<_>>(), 201)?;
        let stocks = [(&one, 0), (&many, scale.instances)].map(|(broker, seeded)| latency::Stock {
            broker,
            real: KEPT,
            seeded,
        });
        latency::measure(stocks, &scale.latency, &mut report)?;
        size::memory(&many, &format!("{} instances", scale.instances + 1), false, &mut report)?;
    }
    if begins(Part::Hooks) {
        let (name, url) = (name("hooks"), docker.url());
        let services = hooks::services();
        let mut broker =
            Broker::serving(&services, &args.broker, &docker, &url, &name, HOOKS_PORT)?;
        broker.launch_ready()?;
        hooks::measure(&broker, &scale.hooks, &mut report)?;
    }
    if begins(Part::Catalog) {
        catalog::measure(&one, &scale.catalog, &mut report)?;
    }
    if begins(Part::Start) {
        let broker = name("start");
        size::first_reply(&args.broker, &docker, &broker, &template, scale.starts, &mut report)?;
    }
    if begins(Part::Recreate) {
        let floor = Floor::new(docker.clone(), &name("recreate-floor"), RECREATE_FLOOR_PORT)?;
        let mut broker = start("recreate", RECREATE_PORT)?;
        recreate::measure(&floor, &mut broker, &scale.recreate, &mut report)?;
    }
    if begins(Part::Rest) {
        rest::measure(&args.broker, &docker, &name("rest"), REST_PORT, &scale.rest, &mut report)?;
    }
    Ok(report)
}

/// What the figures were measured on.
fn machine(args: &Args) -> Result<Value> {
    let docker = Docker::from_environment()?.call("GET", "/version", None, 200)?;
    let cpus = std::thread::available_parallelism()?.get();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(json!({
        "cpus": cpus, "kernel": kernel.trim(), "docker": docker["Version"], "quick": args.quick,
    }))
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
