//! The bosh CLI makes the same of the ops files as the applier of these tests. Only where it is on
//! the path.

use std::process::Command;

use serde_yaml::Value;

use super::{files, operators::CASES};
use crate::support::ops;

/// `bosh interpolate` of the manifest; `None` without a bosh CLI.
#[expect(clippy::print_stdout, reason = "whoever reads the output should know that nothing ran")]
fn bosh_interpolate(ops_files: &[&str], more: &[String]) -> Option<Value> {
    let mut command = Command::new("bosh");
    command.current_dir(ops::repository("")).args(["interpolate", "manifests/docker-broker.yml"]);
    for file in ops_files {
        command.args(["-o", file]);
    }
    let output = match command.args(more).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("no bosh CLI on the path: nothing is compared");
            return None;
        }
        Err(error) => panic!("bosh: {error}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{ops_files:?}: {errors}");
    Some(serde_yaml::from_slice(&output.stdout).unwrap())
}

#[test]
fn the_bosh_cli_applies_every_file_to_the_same_result() {
    for directory in ["operators", "services"] {
        for file in files(directory) {
            let file = format!("{directory}/{file}");
            let Some(theirs) = bosh_interpolate(&[&file], &[]) else { return };
            assert_eq!(theirs, ops::manifest(&[&file]).unwrap(), "{file}");
        }
    }
}

#[test]
fn the_bosh_cli_finds_no_missing_and_no_unused_variable() {
    let directory = tempfile::tempdir().unwrap();
    for case in CASES {
        let vars = directory.path().join(case.file);
        std::fs::write(&vars, serde_yaml::to_string(&case.variables()).unwrap()).unwrap();
        let store = directory.path().join(format!("{}.store", case.file));
        let more = [
            format!("--vars-file={}", vars.display()),
            format!("--vars-store={}", store.display()),
            "--var-errs".to_owned(),
            "--var-errs-unused".to_owned(),
        ];
        let Some(theirs) = bosh_interpolate(&[&case.path()], &more) else { return };
        assert!(ops::used(&theirs).is_empty(), "{}", case.file);
    }
}
