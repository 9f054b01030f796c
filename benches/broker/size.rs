//! Memory, start and binary.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::{
    docker::Docker,
    process::Broker,
    report::{Bound, Report, Times, number},
    seed::Template,
};

const IDLE_MIB: f64 = 20.0;
const MANY_MIB: f64 = 40.0;
const FIRST_REPLY_MS: f64 = 200.0;
const BINARY_MIB: f64 = 15.0;
/// Instances in the store at a start.
const AT_START: usize = 1000;

/// Resident memory of a broker right now.
pub(crate) fn memory(
    broker: &Broker,
    when: &str,
    is_idle: bool,
    report: &mut Report,
) -> Result<()> {
    let bound = Bound::AtMost(if is_idle { IDLE_MIB } else { MANY_MIB });
    let (resident, peak) = (broker.memory_mib("VmRSS")?, broker.memory_mib("VmHWM")?);
    let detail = format!("peak so far {peak:.1} MiB");
    report.add(format!("Resident memory, {when}"), (resident, "MiB"), bound, detail);
    Ok(())
}

/// From the start of the process to its first catalog. dockerd is out of reach, so that recovery
/// does not begin to make the seeded instances' containers.
pub(crate) fn first_reply(
    binary: &Path,
    docker: &Docker,
    name: &str,
    template: &Template,
    starts: usize,
    report: &mut Report,
) -> Result<()> {
    let mut broker = Broker::new(binary, docker, "unix:///nonexistent/docker.sock", name, 1)?;
    template.seed(broker.data(), AT_START)?;
    let mut times = Vec::new();
    // The first start warms up.
    for number in 0..=starts {
        let time: Duration = broker.launch()?;
        broker.stop();
        if number > 0 {
            times.push(time);
        }
    }
    let times = Times::of(times);
    report.add(
        format!("First reply after start, {AT_START} instances"),
        (times.max(), "ms"),
        Bound::AtMost(FIRST_REPLY_MS),
        format!("the slowest of {}, median {:.0} ms", times.len(), times.median()),
    );
    Ok(())
}

pub(crate) fn binary(path: &Path, report: &mut Report) -> Result<()> {
    let bytes = usize::try_from(std::fs::metadata(path)?.len())?;
    let mib = number(bytes) / f64::from(1 << 20);
    report.add("Release binary", (mib, "MiB"), Bound::AtMost(BINARY_MIB), format!("{bytes} bytes"));
    Ok(())
}
