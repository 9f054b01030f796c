//! Scripts of job docker, run on a `/var/vcap` of the test's own and with programs of the test
//! instead of the engine's.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::render;

pub(super) struct Sandbox {
    directory: TempDir,
}

impl Sandbox {
    /// The job with these properties, on an engine without containers.
    pub(super) fn new(properties: &Value) -> anyhow::Result<Self> {
        let sandbox = Self { directory: TempDir::new()? };
        let rendered = render::job("docker", properties, &json!({}))?;
        for made in ["bin", "config"].map(|name| format!("jobs/docker/{name}")) {
            fs::create_dir_all(sandbox.path(&made))?;
        }
        for made in ["packages/docker/bin", "sys/run/docker", "sys/log/docker", "store"] {
            fs::create_dir_all(sandbox.path(made))?;
        }
        let here = sandbox.directory.path().display().to_string();
        for name in ["bin", "config"] {
            for file in fs::read_dir(rendered.directory().join(name))? {
                let file = file?;
                let text = fs::read_to_string(file.path())?.replace("/var/vcap", &here);
                let copy = sandbox.path("jobs/docker").join(name).join(file.file_name());
                executable(&copy, &text)?;
            }
        }
        sandbox.program("docker", "#!/bin/bash\n")?;
        Ok(sandbox)
    }

    /// Something below `/var/vcap`.
    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// A program that the scripts find first.
    pub(super) fn program(&self, name: &str, text: &str) -> anyhow::Result<()> {
        executable(&self.path("packages/docker/bin").join(name), text)
    }

    /// Runs a script as the agent does.
    pub(super) fn start(
        &self,
        script: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Output {
        Command::new(self.path("jobs/docker/bin").join(script))
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
        fs::read_to_string(self.path("sys/log/docker/docker.log")).expect("there is a log")
    }
}

fn executable(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o750))?)
}
