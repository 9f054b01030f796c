//! Renders a job as BOSH does, by `render.rb` beside this file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A job with its `bin/…`, `config/…` and `monit`, rendered.
#[derive(Debug)]
pub(crate) struct Rendered {
    directory: TempDir,
}

/// What a director knows when it renders.
#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    pub(crate) properties: Value,
    pub(crate) links: Value,
    pub(crate) spec: Value,
    /// As `bosh create-env` did before it knew links.
    pub(crate) create_env: bool,
}

/// `job` with these properties and links, on an ordinary instance.
pub(crate) fn job(job: &str, properties: &Value, links: &Value) -> anyhow::Result<Rendered> {
    let mut deployment = Deployment::new(properties.clone());
    deployment.links = links.clone();
    deployment.render(job)
}

/// The directory of this repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Deployment {
    pub(crate) fn new(properties: Value) -> Self {
        let spec = json!({
            "ip": "10.0.0.5", "address": "10.0.0.5", "name": "docker", "index": 0, "az": "z1",
            "id": "6c7d1f5e-3f5c-4a8e-9f0e-0d9a6f1f8a11", "deployment": "docker-broker",
            "bootstrap": true,
        });
        Self { properties, links: json!({}), spec, create_env: false }
    }

    /// An instance of `bosh create-env`: no links, and only `spec.address` says where it is.
    pub(crate) fn create_env(properties: Value) -> Self {
        let spec = json!({"ip": null, "address": "10.0.0.6", "index": 0, "az": "unknown"});
        Self { properties, links: json!({}), spec, create_env: true }
    }

    pub(crate) fn render(&self, job: &str) -> anyhow::Result<Rendered> {
        let directory = TempDir::new()?;
        let context = directory.path().join("context.json");
        let given = json!({
            "properties": self.properties, "links": self.links, "spec": self.spec,
            "create_env": self.create_env,
        });
        fs::write(&context, given.to_string())?;
        let output = Command::new("ruby")
            .arg(root().join("tests/release/support/render.rb"))
            .args([&root().join("jobs").join(job), &context, directory.path()])
            .output()
            .context("cannot run ruby; install the package ruby")?;
        fs::remove_file(&context)?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Rendered { directory })
    }
}

impl Rendered {
    /// Where `bin`, `config` and `monit` are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The text of `bin/start`, `config/broker.yml`, `monit` and the like.
    pub(crate) fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory().join(name))
            .unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
    }

    /// Everything in `bin`.
    pub(crate) fn scripts(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory().join("bin")).expect("every job has scripts");
        entries.map(|entry| entry.expect("a directory entry").path()).collect()
    }
}
