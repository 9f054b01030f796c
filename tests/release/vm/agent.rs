//! What the bosh-agent does to the jobs of a VM, step by step.
//!
//! Scripts run as root in /var/vcap/bosh with PATH and TMPDIR and nothing else. Their output goes to
//! files, but for drain's, which is read to its end. An agent unmonitors all processes before drain
//! and then stops them through monit. The monit of a stemcell (5.2.5) runs the stop program of a
//! process that is not monitored, Debian's (5.33) does not; and to monitor them again first would
//! start what drain has ended. So [`Agent::stop`] runs the stop programs as monit would: only of
//! processes that run.

use std::{
    process::{Command, Stdio},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use super::{deployment::Job, eventually, machine::Machine, monit::Monit, ok, text};

/// For one process to stop, all its containers included.
const STOP: Duration = Duration::from_mins(5);

/// How a script of a job ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) job: String,
    pub(crate) success: bool,
    /// Standard output and error.
    pub(crate) said: String,
}

/// What becomes of the VM after its jobs have stopped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Next {
    /// The same VM goes on with other templates or packages.
    Update,
    /// The same VM gets another persistent disk.
    NewDisk,
    /// The VM goes, its disk is kept.
    Delete,
}

#[derive(Debug)]
pub(crate) struct Agent<'a> {
    machine: &'a Machine,
    pub(crate) monit: Monit<'a>,
    jobs: Vec<Job>,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(machine: &'a Machine) -> Self {
        Self { machine, monit: Monit::new(machine), jobs: Vec::new() }
    }

    /// First deploy: everything has to succeed.
    pub(crate) fn deploy(&mut self, jobs: Vec<Job>) {
        self.apply(jobs);
        self.resume();
    }

    /// Starts what has been applied: everything has to succeed.
    pub(crate) fn resume(&self) {
        succeeded(&self.pre_start());
        self.start();
        self.monit.wait_until_running();
        succeeded(&self.post_start());
    }

    /// An update of what is deployed, up to pre-start, whose outcome is given back.
    pub(crate) fn begin_update(&mut self, jobs: Vec<Job>) -> Vec<Ended> {
        self.halt(Next::Update);
        self.apply(jobs);
        self.pre_start()
    }

    /// An update that has to succeed.
    pub(crate) fn update(&mut self, jobs: Vec<Job>) {
        succeeded(&self.begin_update(jobs));
        self.start();
        self.monit.wait_until_running();
        succeeded(&self.post_start());
    }

    /// pre-stop, drain, stop, post-stop.
    pub(crate) fn halt(&self, next: Next) {
        succeeded(&self.pre_stop(next));
        self.drain(next);
        self.stop();
        succeeded(&self.scripts("post-stop", &[]));
    }

    /// Before VM or disk goes: everything is stopped and the disk is unmounted.
    pub(crate) fn release_disk(&self, next: Next) {
        self.halt(next);
        self.unmount();
    }

    // ---- steps ---------------------------------------------------------------------------------

    /// New templates beside the old ones, then the link to them is changed.
    pub(crate) fn apply(&mut self, jobs: Vec<Job>) {
        for job in &jobs {
            let (name, version) = (&job.name, rand::random::<u32>());
            let place = format!("/var/vcap/data/jobs/{name}/{version:08x}");
            self.machine.sh(&format!(
                "mkdir -p {place} && \
                 install -d -o root -g vcap -m 0770 /var/vcap/{{sys/run,sys/log,data}}/{name}"
            ));
            let mut pack = Command::new("tar");
            pack.args(["-c", "--owner=0", "--group=1000", "--numeric-owner", "-C"])
                .arg(job.files.directory());
            let mut pack =
                pack.arg(".").stdout(Stdio::piped()).spawn().expect("tar can be started");
            let files = pack.stdout.take().expect("its output");
            ok(self.machine.exec(&["tar", "-x", "-p", "-C", &place]).stdin(files));
            assert!(pack.wait().is_ok_and(|status| status.success()), "{name} can be packed");
            self.machine.sh(&format!(
                "find {place} -type d -exec chmod 0750 {{}} + && ln -sfn {place} /var/vcap/jobs/{name}"
            ));
        }
        self.jobs = jobs;
    }

    pub(crate) fn pre_start(&self) -> Vec<Ended> {
        self.scripts("pre-start", &[])
    }

    /// monit gets to know the jobs. It looks at nothing else while it waits for a process that does not come up: the tests of such
    /// processes would wait with it, so it gives up sooner than the job says.
    pub(crate) fn start(&self) {
        for (number, job) in self.jobs.iter().enumerate() {
            let name = &job.name;
            let file = format!("/var/vcap/monit/job/{:04}_{name}.monitrc", number + 1);
            self.machine.sh(&format!(
                "sed '/start program/s/with timeout .*/with timeout 10 seconds/' \
                   /var/vcap/jobs/{name}/monit > {file} && chmod 0600 {file}"
            ));
        }
        self.monit.start();
    }

    pub(crate) fn post_start(&self) -> Vec<Ended> {
        self.scripts("post-start", &[])
    }

    pub(crate) fn pre_stop(&self, next: Next) -> Vec<Ended> {
        let vm = if next == Next::Delete { "delete" } else { "keep" };
        let vm = format!("BOSH_VM_NEXT_STATE={vm}");
        let others = ["BOSH_INSTANCE_NEXT_STATE=keep", "BOSH_DEPLOYMENT_NEXT_STATE=keep"];
        self.scripts("pre-stop", &[&vm, others[0], others[1]])
    }

    /// All drain scripts side by side.
    pub(crate) fn drain(&self, next: Next) {
        self.monit.unmonitor();
        let arguments = match next {
            Next::Update | Next::NewDisk => ["job_changed", "hash_changed"],
            Next::Delete => ["job_shutdown", "hash_unchanged"],
        };
        let disk = if next == Next::NewDisk { 8192 } else { 4096 };
        thread::scope(|scope| {
            for job in &self.jobs {
                scope.spawn(|| self.drain_job(&job.name, arguments, disk));
            }
        });
    }

    /// A negative number asks to be called again, any other ends it. `disk`: what there will be.
    fn drain_job(&self, job: &str, mut arguments: [&str; 2], disk: u32) {
        let script = format!("/var/vcap/jobs/{job}/bin/drain");
        if !self.machine.attempt(&format!("test -e {script}")).status.success() {
            return;
        }
        let next = format!(r#"BOSH_JOB_NEXT_STATE={{"persistent_disk":{disk}}}"#);
        let end = Instant::now() + STOP;
        loop {
            assert!(Instant::now() < end, "drain of {job} asks for ever more time");
            let mut command = self.machine.exec(&[
                "env",
                r#"BOSH_JOB_STATE={"persistent_disk":4096}"#,
                &next,
                // Its output is read to the end, whoever else holds it.
                "bash",
                "-c",
                r#"said=$("$@") || true; printf '%s\n' "$said""#,
                "drain",
                &script,
                arguments[0],
                arguments[1],
            ]);
            let said = command.output().expect("drain can be run");
            let number = String::from_utf8_lossy(&said.stdout).trim().parse::<i64>();
            let number = number.unwrap_or_else(|_| panic!("drain of {job}: {}", text(&said)));
            sleep(Duration::from_secs(number.unsigned_abs()));
            if number >= 0 {
                return;
            }
            arguments = ["job_check_status", "hash_unchanged"];
        }
    }

    /// Stops what drain has left, one job after the other, with the environment of monit's children.
    pub(crate) fn stop(&self) {
        for job in &self.jobs {
            if let Some((program, seconds)) = job.stop_program()
                && self.runs(&job.pid_file())
            {
                let stopped = self.machine.attempt(&format!(
                    "cd /etc/sv/monit && \
                     exec env -i PATH=/bin:/usr/bin:/sbin:/usr/sbin timeout {seconds} {program}"
                ));
                assert!(stopped.status.success(), "{program}: {}", text(&stopped));
            }
        }
    }

    /// Whether a pid file names a process: monit asks no more, and has nothing to stop otherwise.
    fn runs(&self, pid_file: &str) -> bool {
        self.machine.attempt(&format!("kill -0 \"$(cat {pid_file})\"")).status.success()
    }

    /// The disk must let go within a few tries, one second apart.
    pub(crate) fn unmount(&self) {
        eventually("the persistent disk to be unmounted", Duration::from_secs(5), || {
            let output = self.machine.attempt("umount /var/vcap/store");
            if output.status.success() {
                return Ok(());
            }
            let holders =
                self.machine.attempt("fuser -vm /var/vcap/store; grep vcap/store /proc/mounts");
            Err(format!("{}\n{}", text(&output), text(&holders)))
        });
    }

    /// `bosh run-errand NAME`.
    pub(crate) fn errand(&self, name: &str) -> Ended {
        run(self.machine.exec(&[&format!("/var/vcap/jobs/{name}/bin/run")]), name)
    }

    /// A script of all jobs that have it, side by side.
    fn scripts(&self, script: &str, environment: &[&str]) -> Vec<Ended> {
        let run_one = |job: &str| {
            let path = format!("/var/vcap/jobs/{job}/bin/{script}");
            if !self.machine.attempt(&format!("test -e {path}")).status.success() {
                return None;
            }
            let log = format!("/var/vcap/sys/log/{job}/{script}");
            // The output is that of the files, so nobody waits for a child that holds it open.
            let to_files = format!(
                r#""$@" > {log}.stdout.log 2> {log}.stderr.log; code=$?
                   cat {log}.stdout.log {log}.stderr.log; exit "$code""#
            );
            let command =
                [&["env"], environment, &["bash", "-c", &to_files, script, &path]].concat();
            Some(run(self.machine.exec(&command), job))
        };
        thread::scope(|scope| {
            let running: Vec<_> =
                self.jobs.iter().map(|job| scope.spawn(|| run_one(&job.name))).collect();
            running.into_iter().filter_map(|one| one.join().expect("a script ends")).collect()
        })
    }
}

fn run(mut command: Command, job: &str) -> Ended {
    let output = command.output().expect("the docker command can be started");
    Ended { job: job.to_owned(), success: output.status.success(), said: text(&output) }
}

/// Checks that all scripts have succeeded.
#[track_caller]
pub(crate) fn succeeded(scripts: &[Ended]) {
    for script in scripts {
        assert!(script.success, "{}: {}", script.job, script.said);
    }
}
