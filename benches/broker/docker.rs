//! The Docker Engine API straight over its unix socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::http::{Connection, request};

const DEFAULT: &str = "unix:///var/run/docker.sock";

/// Where dockerd listens.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// By `DOCKER_HOST`, which has to be a unix socket.
    pub(crate) fn from_environment() -> Result<Self> {
        let url = std::env::var("DOCKER_HOST").unwrap_or_else(|_| DEFAULT.to_owned());
        let socket = url.strip_prefix("unix://").context("DOCKER_HOST must be a unix socket")?;
        Ok(Self { socket: socket.into() })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::unix(&self.socket)
    }

    /// One request on a connection of its own.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        status: u16,
    ) -> Result<Value> {
        let reply = self.connect()?.exchange(&request(method, path, &[], body));
        reply.and_then(|reply| reply.expect(status)).with_context(|| format!("{method} {path}"))
    }

    /// Removes all containers and networks with this label (`name=value`), as far as possible.
    pub(crate) fn remove_labelled(&self, label: &str) {
        let filters = json!({ "label": [label] }).to_string();
        let filters = utf8_percent_encode(&filters, NON_ALPHANUMERIC);
        for (list, item, suffix) in [
            (format!("/containers/json?all=1&filters={filters}"), "/containers", "?force=1&v=1"),
            (format!("/networks?filters={filters}"), "/networks", ""),
        ] {
            let found = self.call("GET", &list, None, 200).unwrap_or_default();
            for id in found.as_array().into_iter().flatten().filter_map(|one| one["Id"].as_str()) {
                // What cannot be removed is left to ci/bench.
                drop(self.call("DELETE", &format!("{item}/{id}{suffix}"), None, 204));
            }
        }
    }
}
