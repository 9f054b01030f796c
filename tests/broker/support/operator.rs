//! Operators' commands beside a running broker, with its own configuration.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Finished, TestBroker};

impl TestBroker {
    /// `docker-broker VERB --config … ARGS`, ready to be started.
    pub(crate) fn operator(&self, verb: &str, args: &[&str]) -> Command {
        let port = self.client.address.rsplit_once(':').map_or("1", |(_, port)| port);
        let mut command = Command::new(env!("CARGO_BIN_EXE_docker-broker"));
        command
            .args([verb, "--config"])
            .arg(self.settings_file())
            .args(["--port", port])
            .args(args)
            .env("DOCKER_BROKER_PASSWORD", &self.client.password)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end. No secret that the broker has issued may be in what it says.
    pub(crate) async fn operate(&self, verb: &str, args: &[&str]) -> Finished {
        let mut command = self.operator(verb, args);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("it ends").expect("the command can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let finished = Finished {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        for said in [&finished.stdout, &finished.stderr] {
            assert_eq!(self.client.issued.find_in(said), None, "a secret is said");
        }
        finished
    }
}

impl Finished {
    /// Its output, when it ended with this code.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        &self.stdout
    }

    /// Its output as JSON, when it ended with this code.
    #[track_caller]
    pub(crate) fn expect_json(&self, code: i32) -> Value {
        serde_json::from_str(self.expect(code)).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
