//! The command line, run to its end.

use std::process::Command;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `docker-broker ARGS`, which has to end by itself.
pub(crate) fn docker_broker(args: &[&str]) -> Finished {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_docker-broker")]).args(args);
    // What the developer's shell says must not matter.
    for name in ["CONFIG", "USERNAME", "PASSWORD"] {
        command.env_remove(format!("DOCKER_BROKER_{name}"));
    }
    let output = command.output().expect("the command can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}
