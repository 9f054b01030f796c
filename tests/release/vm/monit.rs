//! monit of a VM, by its own command.

use std::{collections::BTreeMap, time::Duration};

use super::{eventually, machine::Machine};

const MONIT: &str = "monit -B -c /var/vcap/bosh/etc/monitrc";

/// How long a deploy waits for jobs to run: what `update_watch_time` is in a manifest.
const WATCH: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub(crate) struct Monit<'a> {
    machine: &'a Machine,
}

impl<'a> Monit<'a> {
    pub(crate) fn new(machine: &'a Machine) -> Self {
        Self { machine }
    }

    /// Reads the files of the jobs, and starts them: once by itself, and once when it is told to.
    pub(crate) fn start(&self) {
        self.machine.sh(&format!("{MONIT} reload"));
        // Only then it knows of the group.
        self.wait("monit to know the jobs", |_| true);
        self.machine.sh(&format!("{MONIT} -g vcap start"));
    }

    pub(crate) fn wait_until_running(&self) {
        self.wait("all jobs to run", |status| status == "OK");
    }

    /// Waits until a process is shown as one that does not run.
    pub(crate) fn wait_until_failing(&self, process: &str) {
        eventually(&format!("{process} to fail"), WATCH, || {
            let status = self.status().remove(process).unwrap_or_default();
            let fails = status.contains("failed") || status.contains("Does not exist");
            if fails { Ok(()) } else { Err(status) }
        });
    }

    /// Looks away from all processes, which stay alive.
    pub(crate) fn unmonitor(&self) {
        self.machine.sh(&format!("{MONIT} -g vcap unmonitor"));
        self.wait("monit to let go", |status| status == "Not monitored");
    }

    /// Stops one process, as an operator does it.
    pub(crate) fn stop_one(&self, process: &str) {
        self.machine.sh(&format!("{MONIT} stop {process}"));
        eventually(&format!("{process} to stop"), WATCH, || {
            let status = self.status().remove(process).unwrap_or_default();
            if status == "Not monitored" { Ok(()) } else { Err(status) }
        });
    }

    pub(crate) fn start_one(&self, process: &str) {
        self.machine.sh(&format!("{MONIT} start {process}"));
    }

    /// What is shown of each process of a job.
    pub(crate) fn status(&self) -> BTreeMap<String, String> {
        let output = self.machine.attempt(&format!("{MONIT} summary"));
        let text = String::from_utf8_lossy(&output.stdout);
        let processes = text.lines().filter_map(|line| line.trim().strip_suffix("Process"));
        let split = |line: &str| {
            let (name, status) = line.trim().split_once(' ')?;
            Some((name.to_owned(), status.trim().to_owned()))
        };
        processes.filter_map(split).collect()
    }

    /// Waits until monit knows processes and says this of all of them.
    #[track_caller]
    fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        eventually(what, WATCH, || {
            let status = self.status();
            let all = !status.is_empty() && status.values().all(|status| wanted(status));
            if all { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }
}
