//! A client program of an image that stays connected, as an application does.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
};

use super::{PATIENCE, docker::client_in};

/// A running client that reads statements from its standard input.
#[derive(Debug)]
pub(crate) struct Session {
    child: Child,
    statements: ChildStdin,
    /// What it prints on both outputs, line by line.
    lines: Receiver<String>,
}

impl Session {
    /// Starts it on the host's network. `environment` is for passwords.
    pub(crate) fn start(image: &str, environment: &[(&str, &str)], command: &[&str]) -> Self {
        let mut child = client_in(image, environment, command, &["-i"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the docker command line is installed");
        let (sender, lines) = channel();
        forward(child.stdout.take().expect("it is piped"), sender.clone());
        forward(child.stderr.take().expect("it is piped"), sender);
        let statements = child.stdin.take().expect("it is piped");
        Self { child, statements, lines }
    }

    /// Hands over a statement.
    pub(crate) fn say(&mut self, statement: &str) {
        writeln!(self.statements, "{statement}").expect("the client reads");
    }

    /// Hands over a statement and waits for a line with `wanted` in it.
    #[track_caller]
    pub(crate) fn ask(&mut self, statement: &str, wanted: &str) {
        self.say(statement);
        let mut heard = Vec::new();
        while !heard.last().is_some_and(|line: &String| line.contains(wanted)) {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => heard.push(line),
                Err(error) => panic!("{statement}: no {wanted:?} but {heard:?} ({error})"),
            }
        }
    }

    /// Waits until it ends by itself, with its standard input open: what it printed since.
    #[track_caller]
    pub(crate) fn ended(mut self) -> String {
        let mut heard = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => heard.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("it goes on after {heard:?} ({error})"),
            }
        }
        self.child.wait().expect("it can be waited for");
        heard.join("\n")
    }
}

/// Ends with the stream.
fn forward(stream: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}
