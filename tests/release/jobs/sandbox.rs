//! Scripts of a job, run on a `/var/vcap` of the test's own and with programs of the test instead of
//! the engine's.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    thread::{self, JoinHandle},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::render;

pub(super) struct Sandbox {
    job: &'static str,
    directory: TempDir,
}

/// A process that plays a part; killed at the end.
pub(super) struct Actor {
    pid: String,
    /// Takes notice of its end, as init does of a daemon's: the scripts wait for that.
    end: Option<JoinHandle<std::io::Result<ExitStatus>>>,
    /// The first line that it printed.
    pub(super) said: String,
}

impl Sandbox {
    /// Job docker with these properties, on an engine without containers.
    pub(super) fn new(properties: &Value) -> anyhow::Result<Self> {
        let sandbox = Self::of("docker", properties)?;
        sandbox.program("docker", "#!/bin/bash\n")?;
        Ok(sandbox)
    }

    pub(super) fn of(job: &'static str, properties: &Value) -> anyhow::Result<Self> {
        let sandbox = Self { job, directory: TempDir::new()? };
        let rendered = render::job(job, properties, &json!({}))?;
        for made in ["jobs/{}/bin", "jobs/{}/config", "packages/{}/bin", "sys/run/{}", "sys/log/{}"]
        {
            fs::create_dir_all(sandbox.path(&made.replace("{}", job)))?;
        }
        fs::create_dir(sandbox.path("store"))?;
        let here = sandbox.directory.path().display().to_string();
        for name in ["bin", "config"] {
            for file in fs::read_dir(rendered.directory().join(name))? {
                let file = file?;
                let text = fs::read_to_string(file.path())?.replace("/var/vcap", &here);
                // This machine may have an engine of its own there.
                let text =
                    text.replace("exec_root=/run/docker\n", &format!("exec_root={here}/exec\n"));
                ensure!(!text.contains("=/run/"), "{} uses this /run", file.path().display());
                let copy = sandbox.path("jobs").join(job).join(name).join(file.file_name());
                executable(&copy, &text)?;
            }
        }
        Ok(sandbox)
    }

    /// Something below `/var/vcap`.
    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// A program of the job's package, which scripts of job docker find before all others.
    pub(super) fn program(&self, name: &str, text: &str) -> anyhow::Result<()> {
        executable(&self.path("packages").join(self.job).join("bin").join(name), text)
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.path("sys/run").join(self.job).join(format!("{}.pid", self.job))
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.path("sys/log").join(self.job).join(format!("{}.log", self.job))
    }

    /// A script of bash that runs as a program of this name until it is ended. It has to print a
    /// line when it is up.
    pub(super) fn act(&self, name: &str, arguments: &[&str], text: &str) -> anyhow::Result<Actor> {
        self.program(name, &format!("#!/bin/bash\n{text}"))?;
        let program = self.path("packages").join(self.job).join("bin").join(name);
        let mut process = Command::new(program)
            .args(arguments)
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("its output is piped")?;
        let pid = process.id().to_string();
        let end = Some(thread::spawn(move || process.wait()));
        let mut actor = Actor { pid, end, said: String::new() };
        BufReader::new(output).read_line(&mut actor.said)?;
        actor.said.truncate(actor.said.trim_end().len());
        Ok(actor)
    }

    /// The process of the job, of this name, which ends at SIGTERM after it has run `last`.
    pub(super) fn act_process(&self, name: &str, last: &str) -> anyhow::Result<Actor> {
        let text = format!(
            "trap '{last}\nkill $!; exit' TERM\ntail -f /dev/null > /dev/null & echo up; wait\n"
        );
        let actor = self.act(name, &[], &text)?;
        fs::write(self.pid_file(), &actor.pid)?;
        Ok(actor)
    }

    /// Runs a script as the agent does.
    pub(super) fn start(
        &self,
        script: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Output {
        Command::new(self.path("jobs").join(self.job).join("bin").join(script))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(environment.iter().copied())
            .output()
            .expect("the script can be started")
    }

    /// What a script printed that has to succeed and be silent on standard error.
    pub(super) fn run(
        &self,
        script: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> String {
        let output = self.start(script, arguments, environment);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What the scripts logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).expect("there is a log")
    }
}

impl Actor {
    pub(super) fn has_ended(&self) -> bool {
        !runs(&self.pid)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // With its children; it fails if all have ended.
        let group = format!("-{}", self.pid);
        drop(Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status());
        drop(self.end.take().map(JoinHandle::join));
    }
}

pub(super) fn runs(pid: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid).join("status"));
    status.is_ok_and(|status| !status.contains("\nState:\tZ"))
}

fn executable(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o750))?)
}
