//! A container plays a BOSH VM, and these tests play the agent in it: the jobs of the real
//! manifest, rendered, on the compiled packages. `ci/test-vm` prepares what they need.
//!
//! * [`machine`]: the VM, its disk and its network; `init.sh` is its first process.
//! * [`agent`]: what the agent does to jobs, with [`monit`].
//! * [`deployment`]: manifest and ops files become jobs.
//! * [`client`]: the platform, and an application with a redis; [`secrets`]: what it was given.

#![expect(
    clippy::print_stdout,
    reason = "what was measured, and the logs of a VM whose test fails"
)]

mod agent;
mod bad_input;
mod client;
mod deployment;
mod deploys;
mod machine;
mod monit;
mod registration;
mod secrets;

use std::{
    process::{Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};

/// Everything that a command printed.
fn text(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The output of a command that has to succeed.
#[track_caller]
fn ok(command: &mut Command) -> String {
    let output = command.output().expect("the command can be started");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Tries until there is something; panics in the end with what was said last.
#[track_caller]
fn eventually<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(last) if Instant::now() > end => panic!("waited in vain for {what}: {last}"),
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}
