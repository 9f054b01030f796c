//! What the image says, and what is guessed → the text of the file.

use std::fmt::Display;

use super::{
    guess::{Variables, product},
    kinds::Kind,
};
use crate::{
    catalog::{ContainerPort, ImageReference, Protocol},
    config::yaml_text,
    docker::ImageDescription,
};

/// Memory of a plan of which nothing else is known.
const MEMORY: &str = "256m";

/// The facts of which a file is written.
pub(super) struct Draft<'a> {
    pub(super) image: &'a ImageReference,
    pub(super) found: &'a ImageDescription,
    pub(super) kind: Option<&'a Kind>,
    pub(super) name: &'a str,
    /// Ids of the service and of its plan.
    pub(super) ids: [String; 2],
}

/// The text, line by line.
struct Text(String);

impl Text {
    /// Adds the lines of `block`, each behind that many blanks.
    fn add(&mut self, indent: usize, block: impl Display) {
        for line in block.to_string().lines() {
            self.0.extend(std::iter::repeat_n(' ', indent));
            self.0.push_str(line);
            self.0.push('\n');
        }
    }
}

impl Draft<'_> {
    /// The whole file.
    pub(super) fn write(&self) -> String {
        let mut text = Text(String::new());
        self.head(&mut text);
        self.service(&mut text);
        self.image_and_user(&mut text);
        self.start(&mut text);
        self.ports(&mut text);
        self.volumes(&mut text);
        let memory = self.memory();
        text.add(
            8,
            format!(
                "# CHECK: what it needs under load. There is no swap beyond this memory.\n\
                 limits: {{memory: {memory}, cpus: 0.5, pids: 256, nofile: 4096}}"
            ),
        );
        self.readiness(&mut text);
        text.add(8, "stop_timeout: 30s");
        self.hardening(&mut text);
        match self.kind {
            Some(kind) => text.add(6, kind.plan),
            None => self.plan_of_unknown(&mut text),
        }
        text.0
    }

    fn head(&self, text: &mut Text) {
        let image = self.image;
        text.add(
            0,
            format!(
                "# Made by docker-broker new-service {image}.\n\
                 # Read it through, above all where it says CHECK, then:\n\
                 #   docker-broker check-config --services FILE\n\
                 #   docker-broker try FILE\n\
                 # Never change an id once there are instances: it is what platform and broker know.\n\
                 ---\n\
                 - type: replace\n\
                 \x20 path: /instance_groups/name=docker/jobs/name=docker-broker/properties/services/-\n\
                 \x20 value:"
            ),
        );
    }

    fn service(&self, text: &mut Text) {
        let product = product(self.image);
        let [service, plan] = &self.ids;
        let (name, title) = (yaml_text(self.name), yaml_text(product));
        let description = yaml_text(&format!("A {product} server of its own"));
        let megabytes = self.memory().trim_end_matches('m');
        text.add(
            4,
            format!(
                "id: {service}\n\
                 name: {name}\n\
                 # CHECK: what developers read in the marketplace.\n\
                 description: {description}\n\
                 bindable: true\n\
                 plan_updateable: true\n\
                 tags: [{title}]\n\
                 metadata:\n\
                 \x20 displayName: {title}\n\
                 \x20 providerDisplayName: docker-broker\n\
                 plans:\n\
                 # Another plan is a copy of this one with an id, a name and limits of its own.\n\
                 - id: {plan}\n\
                 \x20 name: small\n\
                 \x20 description: {megabytes} MB of memory\n\
                 \x20 free: true\n\
                 \x20 # What developers may set, and the variable that it becomes: {{mode: SERVER_MODE}}.\n\
                 \x20 parameters: {{}}\n\
                 \x20 container:"
            ),
        );
    }

    fn memory(&self) -> &str {
        self.kind.map_or(MEMORY, |kind| kind.memory)
    }

    /// User and group that own its data in the image, unless that is root.
    fn owner(&self) -> Option<(u64, u64)> {
        self.found.volumes.iter().map(|volume| volume.owner).find(|(uid, _)| *uid != 0)
    }

    fn image_and_user(&self, text: &mut Text) {
        match self.image.tag() {
            Some(tag) => {
                let (name, tag) = (yaml_text(self.image.name()), yaml_text(tag));
                text.add(8, format!("image: {name}\ntag: {tag}"));
            }
            None => text.add(8, format!("image: {}", yaml_text(&self.image.to_string()))),
        }
        let user = self.found.user.as_str();
        let begins_as_root = matches!(user.split(':').next(), Some("" | "0" | "root") | None);
        let line = match self.owner() {
            _ if !begins_as_root => format!("user: {}", yaml_text(user)),
            Some((uid, gid)) => format!(
                "# Who owns its data in the image. Without this it would begin as root.\n\
                 user: '{uid}:{gid}'"
            ),
            None => "# CHECK: it runs as root. If it can do without: user: '1000:1000'".to_owned(),
        };
        text.add(8, line);
    }

    fn start(&self, text: &mut Text) {
        if let Some(kind) = self.kind {
            return text.add(8, kind.start);
        }
        let words = |words: &[String]| serde_json::Value::from(words.to_vec()).to_string();
        let (entrypoint, command) = (words(&self.found.entrypoint), words(&self.found.command));
        text.add(
            8,
            format!(
                "# The image's own are entrypoint: {entrypoint}\n\
                 # and command: {command}"
            ),
        );
        let variables = Variables::of(self.found);
        if !variables.others.is_empty() {
            let names = variables.others.join(", ");
            text.add(8, format!("# The image sets {names}; set otherwise here: [NAME=value]"));
        }
        text.add(8, "environment: []");
        if !variables.secrets.is_empty() {
            let names = variables.secrets.join(", ");
            text.add(
                8,
                format!(
                    "# Random, different in each instance, never handed out.\n\
                     secret_environment: [{names}]"
                ),
            );
        }
    }

    fn ports(&self, text: &mut Text) {
        let list = |ports: &[ContainerPort]| {
            ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let ports = match self.kind {
            Some(kind) => kind.ports.join(", "),
            None => list(&self.found.ports),
        };
        if ports.is_empty() {
            text.add(8, "# CHECK: the image exposes no port, so nobody reaches it: [8080/tcp]");
        } else if self.kind.is_none() && self.found.ports.len() > 1 {
            text.add(8, "# CHECK: leave out those on which nothing listens.");
        }
        text.add(8, format!("expose_ports: [{ports}]"));
    }

    fn volumes(&self, text: &mut Text) {
        if self.found.volumes.is_empty() {
            return text.add(
                8,
                "# CHECK: the image declares no volume, so nothing outlives the container:\n\
                 # [{path: /data, owner: '1000:1000', mode: '0700'}]\n\
                 volumes: []",
            );
        }
        text.add(8, "volumes:");
        for volume in &self.found.volumes {
            let (uid, gid) = self.owner().unwrap_or(volume.owner);
            let path = yaml_text(&volume.path);
            text.add(8, format!("- {{path: {path}, owner: '{uid}:{gid}', mode: '0700'}}"));
        }
    }

    fn tcp_ports(&self) -> Vec<ContainerPort> {
        let ports = self.found.ports.iter().copied();
        ports.filter(|port| port.protocol == Protocol::Tcp).collect()
    }

    fn readiness(&self, text: &mut Text) {
        if let Some(kind) = self.kind {
            return text.add(8, kind.readiness);
        }
        if self.found.has_healthcheck {
            let check = "# By the image's own health check.\n\
                         readiness: {healthcheck: true, timeout: 120s}";
            return text.add(8, check);
        }
        match self.tcp_ports()[..] {
            [port] => text.add(
                8,
                format!(
                    "# CHECK: a port may be open before its server serves. exec or http ask it.\n\
                     readiness: {{tcp: {port}, timeout: 120s}}"
                ),
            ),
            _ => text.add(
                8,
                "# CHECK: ready when any TCP port is open; without one when it runs. Better name one:\n\
                 # readiness: {tcp: 8080/tcp, timeout: 120s}",
            ),
        }
    }

    fn hardening(&self, text: &mut Text) {
        match (self.kind, self.owner()) {
            (Some(kind), Some((uid, gid))) => {
                let tmpfs: Vec<String> =
                    kind.tmpfs.iter().map(|entry| format!("'{entry}'")).collect();
                let tmpfs = tmpfs.join(", ").replace("{uid}", &uid.to_string());
                let tmpfs = tmpfs.replace("{gid}", &gid.to_string());
                text.add(
                    8,
                    format!(
                        "hardening: {{cap_drop: [ALL], no_new_privileges: true, read_only: true, \
                         tmpfs: [{tmpfs}]}}"
                    ),
                );
            }
            (_, owner) => {
                // Entry points that begin as root need what the default leaves them.
                let drop = if owner.is_some() { "cap_drop: [ALL], " } else { "" };
                text.add(
                    8,
                    format!(
                        "# CHECK: safer with read_only: true and a tmpfs for each directory that it \
                         writes to.\n\
                         hardening: {{{drop}no_new_privileges: true, read_only: false, \
                         tmpfs: ['/tmp:size=16m']}}"
                    ),
                );
            }
        }
    }

    fn plan_of_unknown(&self, text: &mut Text) {
        let credentials = Variables::of(self.found).credentials();
        text.add(
            6,
            "# CHECK: the test connects to every TCP port. Better it logs in as well:\n\
             # sanity_test: {exec: [/bin/sh, -c, 'client --user \"$BINDING_USERNAME\" …']}",
        );
        if credentials.is_empty() {
            text.add(
                6,
                "# CHECK: no variable of the image looks like a password. Those that its\n\
                 # documentation names get a random value in each instance:\n\
                 # credentials: {username: {key: SERVER_USER}, password: {key: SERVER_PASSWORD}}",
            );
        } else {
            text.add(6, "# CHECK: read off the names of the image's variables.\ncredentials:");
            for (key, variable) in credentials {
                text.add(8, format!("{key}: {{key: {variable}}}"));
            }
        }
        if let Some(port) = self.tcp_ports().first() {
            text.add(6, format!("# And, in credentials: uri: {{prefix: SCHEME, port: {port}}}"));
        }
    }
}
