//! What it costs to look after 1,000 healthy instances while nothing happens: some real, most
//! made up in the listings that the broker reads.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    crowd::Crowd,
    docker::Docker,
    load, osb,
    process::{Broker, cpu_time},
    report::{Bound, Report, number},
    seed::{self, Template},
};

/// Of one core.
const MOST_PERCENT: f64 = 1.0;
const MOST_MIB: f64 = 40.0;
/// The default of `reconcile_interval`.
const DEFAULT: Duration = Duration::from_mins(1);
const OFTEN: &str = "1s";

/// How much is measured.
pub(crate) struct Scale {
    /// Instances with a container.
    pub(crate) real: usize,
    /// Instances whose containers are in listings only.
    pub(crate) made_up: usize,
    /// Seconds with the default interval.
    pub(crate) at_rest: u64,
    /// Seconds with a comparison every second, which say what one costs.
    pub(crate) frequent: u64,
}

fn id(number: usize) -> String {
    format!("real-{number}")
}

pub(crate) fn measure(
    binary: &Path,
    docker: &Docker,
    name: &str,
    first_port: u16,
    scale: &Scale,
    report: &mut Report,
) -> Result<()> {
    let mut broker = Broker::new(binary, docker, &docker.url(), name, first_port)?;
    broker.launch_ready()?;
    load::jobs(
        scale.real,
        || broker.connect(),
        |connection, number| {
            connection.exchange(&osb::provision(&id(number), false))?.expect(201).map(drop)
        },
    )?;
    broker.stop();
    Template::of(broker.data(), &id(0))?.seed(broker.data(), scale.made_up)?;
    let made_up: Vec<_> = (0..scale.made_up)
        .map(|number| Ok((seed::id(number), seed::port(number)?)))
        .collect::<Result<_>>()?;
    let crowd = Crowd::new(docker, &broker.container(&id(0)), name, made_up.into_iter())?;
    broker.set("docker_url", crowd.url())?;
    let all = scale.real + scale.made_up;

    let rest = observe(&mut broker, &crowd, Duration::from_secs(scale.at_rest))?;
    report.add(
        format!("Processor, {all} healthy instances at rest"),
        (rest.percent(), "% of a core"),
        Bound::AtMost(MOST_PERCENT),
        format!(
            "{:.0} ms in {} s, {} comparisons of {:.2} MB, {} real containers",
            rest.cpu.as_secs_f64() * 1000.0,
            scale.at_rest,
            rest.listings,
            number(rest.bytes) / 1e6,
            scale.real
        ),
    );
    broker.set("reconcile_interval", OFTEN)?;
    let often = observe(&mut broker, &crowd, Duration::from_secs(scale.frequent))?;
    let each = often.cpu.as_secs_f64() * 1000.0 / number(often.listings.max(1));
    report.add(
        format!("One comparison of {all} instances"),
        (each, "ms of a core"),
        Bound::AtMost(DEFAULT.as_secs_f64() * 10.0 * MOST_PERCENT),
        format!("{} in {} s: {:.2} %", often.listings, scale.frequent, often.percent()),
    );
    let (resident, peak) = (broker.memory_mib("VmRSS")?, broker.memory_mib("VmHWM")?);
    report.add(
        format!("Resident memory, {all} instances looked after"),
        (resident, "MiB"),
        Bound::AtMost(MOST_MIB),
        format!("peak {peak:.1} MiB"),
    );
    Ok(())
}

struct Observed {
    cpu: Duration,
    wall: Duration,
    listings: usize,
    bytes: usize,
}

impl Observed {
    fn percent(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64() * 100.0
    }
}

/// Starts the broker and watches it do nothing. Every instance has to be taken for healthy.
fn observe(broker: &mut Broker, crowd: &Crowd, wall: Duration) -> Result<Observed> {
    broker.stop();
    broker.launch_ready()?;
    // What the start itself needs is not rest.
    sleep(Duration::from_secs(2));
    let (before, begin) = (cpu_time(broker.pid()?)?, Instant::now());
    let (listed, _) = crowd.listings();
    sleep(wall);
    let cpu = cpu_time(broker.pid()?)?.saturating_sub(before);
    let wall = begin.elapsed();
    let (listings, bytes) = crowd.listings();
    let ready = broker.connect()?.exchange(&osb::get("/readyz"))?.expect(200)?;
    ensure!(ready["unwell_instances"] == 0, "instances are not taken for healthy: {ready}");
    Ok(Observed { cpu, wall, listings: listings - listed, bytes })
}
