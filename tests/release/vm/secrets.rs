//! What bindings gave away to a test, looked for where everybody could read it: in the argument lists
//! of all processes while the test runs, and in what the jobs of the VM have logged.

#[path = "../../broker/support/arguments.rs"]
mod arguments;

use std::{collections::BTreeSet, sync::Mutex};

use arguments::{Arguments, Hurry};

/// Secrets that this test's process was given.
#[derive(Debug)]
struct Issued(Mutex<BTreeSet<String>>);

static ISSUED: Issued = Issued(Mutex::new(BTreeSet::new()));

impl Issued {
    /// The first line of `text` with a secret in it, which is masked.
    fn find_in(&self, text: &str) -> Option<String> {
        let secrets = self.0.lock().expect("no holder panics");
        text.lines().find_map(|line| {
            let shown = secrets.iter().find(|secret| line.contains(secret.as_str()))?;
            Some(line.replace(shown.as_str(), "<a secret>"))
        })
    }
}

/// Processes are looked at closely while it lives.
pub(super) fn watch() -> Hurry {
    Arguments::watch().hurry()
}

pub(super) fn add(secret: &str) {
    ISSUED.0.lock().expect("no holder panics").insert(secret.to_owned());
}

/// Where a secret was shown so far, in an argument list or in `logs`.
pub(super) fn shown(logs: &str) -> Option<String> {
    Arguments::watch().find(&ISSUED).or_else(|| ISSUED.find_in(logs))
}
