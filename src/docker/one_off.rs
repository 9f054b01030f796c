//! Containers that are made beside an instance's own: its next one, and those for one command.
//!
//! They have the instance's labels, so whoever looks for what belongs to an instance finds them.
//! Those for a command have no network: nothing of them can be reached, and they reach nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{ContainerSpec, DockerError, Engine};

/// Docker's name of a network that is none.
const NO_NETWORK: &str = "none";
/// How often dockerd is asked whether the command has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Most lines of output that are read.
const LINES: u32 = 50;

/// How the command of a one-off container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OneOff {
    /// With this exit code and these last lines of output.
    Ended(i64, String),
    /// It did not, in its time.
    TimedOut,
}

impl Engine {
    /// Makes the container of a spec under another name, to be renamed when the name is free. One
    /// of that name that is ours and of another spec goes; whether it can be used.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn prepare_container(
        &self,
        spec: &ContainerSpec,
        name: &str,
    ) -> Result<(), DockerError> {
        let network = self.networks.assign(self, &spec.labels.instance_id).await?;
        if self.create_on(spec, name, &network).await? {
            return Ok(());
        }
        if self.inspect(name).await?.and_then(|facts| facts.spec_hash) == Some(spec.hash()) {
            return Ok(());
        }
        self.remove(name, &spec.labels.instance_id).await?;
        if self.create_on(spec, name, &network).await? {
            return Ok(());
        }
        Err(DockerError::Foreign { object: format!("a container named {name}") })
    }

    /// Makes a container without network and starts it. One of that name that is the instance's is
    /// replaced.
    ///
    /// # Errors
    /// [`DockerError::Foreign`] when the name belongs to somebody else; any other [`DockerError`].
    pub async fn start_apart(&self, spec: &ContainerSpec) -> Result<(), DockerError> {
        self.remove(&spec.name, &spec.labels.instance_id).await?;
        if !self.create_on(spec, &spec.name, NO_NETWORK).await? {
            return Err(DockerError::Foreign {
                object: format!("a container named {}", spec.name),
            });
        }
        self.start(&spec.name).await
    }

    /// Runs the command of a spec in a container of its own, and removes that.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn run_apart(
        &self,
        spec: &ContainerSpec,
        limit: Duration,
    ) -> Result<OneOff, DockerError> {
        let ended = async {
            self.start_apart(spec).await?;
            let end = Instant::now() + limit;
            loop {
                let facts = self.inspect(&spec.name).await?;
                if let Some(facts) = facts.filter(|facts| !facts.running) {
                    let text = self.log_tail(&spec.name, LINES).await?;
                    return Ok(OneOff::Ended(facts.exit_code, text));
                }
                if Instant::now() >= end {
                    return Ok(OneOff::TimedOut);
                }
                sleep(LOOK_EVERY).await;
            }
        }
        .await;
        self.remove(&spec.name, &spec.labels.instance_id).await?;
        ended
    }
}
