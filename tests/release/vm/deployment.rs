//! The real manifest with ops files, interpolated and rendered: what a director sends to a VM.

use std::fs;

use serde_json::{Value as Json, json};
use serde_yaml::Value;
use tempfile::TempDir;

use super::{
    client::{Plan, Platform},
    machine::{IMAGES, Machine},
};
use crate::support::{
    ops::{self, Variables},
    render::{self, Rendered},
    variables,
};

/// A job with its rendered templates.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) files: Rendered,
}

impl Job {
    /// Program and seconds of `stop program "…" with timeout … seconds`; an errand has none.
    pub(crate) fn stop_program(&self) -> Option<(String, u32)> {
        let monit = self.files.file("monit");
        let line = monit.lines().find_map(|line| line.trim().strip_prefix("stop program "))?;
        let (program, timeout) = line.trim_start_matches('"').split_once('"')?;
        let seconds = timeout.split_whitespace().find_map(|word| word.parse().ok())?;
        Some((program.to_owned(), seconds))
    }

    /// Where monit finds the process of the job.
    pub(crate) fn pid_file(&self) -> String {
        let monit = self.files.file("monit");
        let line = monit.lines().find_map(|line| line.trim().strip_prefix("with pidfile "));
        line.expect("a process has a pid file").to_owned()
    }
}

/// A manifest and the secrets that were generated for it once.
#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    manifest: Value,
    /// Those that were given, and those that were generated.
    variables: Variables,
    /// Of the VM that it is for.
    address: String,
}

impl Deployment {
    /// The manifest with ops files of this repository, for this VM. Images come from tarballs:
    /// there is no registry in reach of it.
    pub(crate) fn of(machine: &Machine, ops_files: &[&str]) -> Self {
        let address = machine.address.as_str();
        let given =
            [("images-directory", IMAGES), ("broker-host", address), ("docker-tcp-host", address)];
        let given = given.map(|(name, value)| (name.to_owned(), value.into()));
        let manifest = ops::manifest(&[]).expect("the manifest can be read");
        let mut deployment =
            Self { manifest, variables: Variables::from(given), address: machine.address.clone() };
        for file in ops_files.iter().chain(&["operators/use-image-tarballs.yml"]) {
            deployment = deployment.with_file(file);
        }
        deployment
    }

    /// With further operations, given as YAML.
    pub(crate) fn changed(&self, operations: &str) -> Self {
        let operations = serde_yaml::from_str(operations).expect("operations are YAML");
        self.with(&operations)
    }

    /// With a further ops file.
    pub(crate) fn with_file(&self, file: &str) -> Self {
        self.with(&ops::yaml(file).expect("the ops file can be read"))
    }

    /// With the values of variables that are given rather than generated.
    pub(crate) fn given(mut self, values: &[(&str, &str)]) -> Self {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
        self.variables.extend(values);
        self
    }

    /// With another value of a property of the job docker-broker.
    pub(crate) fn broker_property(&self, path: &str, value: &str) -> Self {
        self.changed(&format!(
            "[{{type: replace, value: {value}, \
                path: /instance_groups/name=docker/jobs/name=docker-broker/properties/{path}?}}]"
        ))
    }

    fn with(&self, operations: &Value) -> Self {
        let mut manifest = self.manifest.clone();
        ops::apply(&mut manifest, operations).expect("the operations apply");
        let manifest = ops::substitute(&manifest, &self.variables).expect("variables can be used");
        // What was generated before stays, as with a director.
        let mut variables = variables::generate(&manifest).expect("variables can be generated");
        variables.extend(self.variables.clone());
        Self { manifest, variables, address: self.address.clone() }
    }

    /// The jobs of the instance, rendered.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let manifest =
            ops::interpolate(&self.manifest, &self.variables).expect("all variables are known");
        let jobs = manifest["instance_groups"][0]["jobs"].as_sequence().expect("jobs");
        let links = json!({ "servicebroker": self.link() });
        jobs.iter().map(|job| rendered(job, &self.address, &links)).collect()
    }

    /// What the job docker-broker provides: its properties with the defaults of its spec.
    fn link(&self) -> Json {
        let spec = ops::yaml("jobs/docker-broker/spec").expect("the spec can be read");
        let given = serde_json::to_value(self.broker()).expect("properties are JSON");
        let names = spec["provides"][0]["properties"].as_sequence().expect("names");
        let mut properties = json!({});
        for name in names.iter().filter_map(Value::as_str) {
            let default = &spec["properties"][name]["default"];
            let pointer = format!("/{}", name.replace('.', "/"));
            let value = match given.pointer(&pointer) {
                None => serde_json::to_value(default).expect("a default is JSON"),
                Some(value) => value.clone(),
            };
            match name.split_once('.') {
                None => properties[name] = value,
                Some((group, name)) => properties[group][name] = value,
            }
        }
        let instance = json!({
            "name": "docker", "index": 0, "id": "i", "az": "z1", "address": self.address,
            "bootstrap": true, "properties": properties,
        });
        json!({ "address": self.address, "instances": [instance], "properties": properties })
    }

    /// A platform that has registered the broker.
    pub(crate) fn platform(&self) -> Platform {
        let broker = self.broker();
        let ca = broker["tls"].is_mapping().then(|| {
            self.variables["docker-broker-tls"]["ca"]
                .as_str()
                .expect("the CA of the certificate")
                .to_owned()
        });
        let scheme = if ca.is_some() { "https" } else { "http" };
        Platform { url: format!("{scheme}://{}:5555", self.address), password: self.password(), ca }
    }

    /// A directory with what a client of dockerd's TCP port needs.
    pub(crate) fn docker_client(&self) -> TempDir {
        let files = tempfile::tempdir().expect("a temporary directory");
        for (file, part) in [("ca", "ca"), ("cert", "certificate"), ("key", "private_key")] {
            let pem = self.variables["docker-tls"][part].as_str().expect("a part of docker-tls");
            fs::write(files.path().join(format!("{file}.pem")), pem).expect("it can be written to");
        }
        files
    }

    pub(crate) fn password(&self) -> String {
        self.broker()["password"].as_str().expect("a password").to_owned()
    }

    /// The first plan of a service.
    pub(crate) fn plan(&self, service: &str) -> Plan {
        let broker = self.broker();
        let services = broker["services"].as_sequence().expect("services");
        let service = services.iter().find(|one| one["name"] == service).expect("it is offered");
        let id = |value: &Value| value["id"].as_str().expect("an id").to_owned();
        Plan { service: id(service), plan: id(&service["plans"][0]) }
    }

    /// Properties of the job docker-broker.
    fn broker(&self) -> Value {
        let manifest =
            ops::interpolate(&self.manifest, &self.variables).expect("all variables are known");
        let jobs = manifest["instance_groups"][0]["jobs"].as_sequence().expect("jobs");
        let broker = jobs.iter().find(|job| job["name"] == "docker-broker").expect("the broker");
        broker["properties"].clone()
    }
}

fn rendered(job: &Value, address: &str, links: &Json) -> Job {
    let name = job["name"].as_str().expect("a job has a name");
    let properties = serde_json::to_value(&job["properties"]).expect("properties are JSON");
    let mut deployment = render::Deployment::new(properties);
    deployment.links = links.clone();
    for key in ["ip", "address"] {
        deployment.spec[key] = address.into();
    }
    let files = deployment.render(name).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    Job { name: name.to_owned(), files }
}
