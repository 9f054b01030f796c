//! pre-stop and drain of job docker: docs/adr/0012-drain.md, run on files of the test and with a
//! docker command that knows of no containers.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::render;

const SAME_DISK: [(&str, &str); 2] = [
    ("BOSH_JOB_STATE", r#"{"persistent_disk":1024}"#),
    ("BOSH_JOB_NEXT_STATE", r#"{"persistent_disk":1024}"#),
];

/// A `/var/vcap` of the test's own.
struct Vm {
    directory: TempDir,
}

impl Vm {
    fn new(properties: &Value) -> anyhow::Result<Self> {
        let vm = Self { directory: TempDir::new()? };
        let rendered = render::job("docker", properties, &json!({}))?;
        for made in ["jobs/docker/bin", "packages/docker/bin", "sys/run/docker", "sys/log/docker"] {
            fs::create_dir_all(vm.path(made))?;
        }
        for script in rendered.scripts() {
            let here = vm.directory.path().display().to_string();
            let text = fs::read_to_string(&script)?.replace("/var/vcap", &here);
            let name = script.file_name().expect("a script has a name");
            vm.executable(vm.path("jobs/docker/bin").join(name), &text)?;
        }
        vm.executable(vm.path("packages/docker/bin/docker"), "#!/bin/bash\n")?;
        Ok(vm)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    #[expect(clippy::unused_self, reason = "files are the VM's")]
    fn executable(&self, path: PathBuf, text: &str) -> anyhow::Result<()> {
        fs::write(&path, text)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o750))?)
    }

    /// Runs a script as the agent does; what it printed.
    fn run(&self, script: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let output = Command::new(self.path("jobs/docker/bin").join(script))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(environment.iter().copied())
            .output()
            .expect("the script can be started");
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether drain decided that everything stops; it always prints 0 and nothing else.
    fn drain_stops(&self, arguments: &[&str], environment: &[(&str, &str)]) -> bool {
        assert_eq!(self.run("drain", arguments, environment), "0\n");
        let log = fs::read_to_string(self.path("sys/log/docker/docker.log")).expect("a log");
        let stops = self.path("sys/run/docker/everything-stops").exists();
        assert_eq!(log.contains("everything stops"), stops, "{log}");
        assert_eq!(log.contains("no container runs any more"), stops, "{log}");
        stops
    }
}

#[test]
fn an_update_leaves_containers_running() -> anyhow::Result<()> {
    for arguments in [
        &["job_changed", "hash_changed", "docker", "docker-broker"][..],
        &["job_changed", "hash_unchanged"],
        &["job_unchanged", "hash_unchanged"],
    ] {
        assert!(!Vm::new(&json!({}))?.drain_stops(arguments, &SAME_DISK), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn whatever_is_not_certainly_an_update_stops_everything() -> anyhow::Result<()> {
    for arguments in
        [&["job_shutdown", "hash_unchanged"][..], &["job_check_status"], &["job_new"], &[]]
    {
        assert!(Vm::new(&json!({}))?.drain_stops(arguments, &SAME_DISK), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn an_update_that_changes_the_disk_or_does_not_say_stops_everything() -> anyhow::Result<()> {
    let (state, next) = ("BOSH_JOB_STATE", "BOSH_JOB_NEXT_STATE");
    let small = r#"{"persistent_disk":1024}"#;
    for environment in [
        &[(state, small), (next, r#"{"persistent_disk":2048}"#)][..],
        &[(state, small)],
        &[(next, small)],
        &[],
    ] {
        let vm = Vm::new(&json!({}))?;
        let arguments = ["job_changed", "hash_changed"];
        assert!(vm.drain_stops(&arguments, environment), "{environment:?}");
    }
    Ok(())
}

#[test]
fn a_vm_that_is_deleted_stops_everything_whatever_drain_is_told() -> anyhow::Result<()> {
    let names = ["BOSH_VM_NEXT_STATE", "BOSH_INSTANCE_NEXT_STATE", "BOSH_DEPLOYMENT_NEXT_STATE"];
    for deleted in names {
        let vm = Vm::new(&json!({}))?;
        let states = names.map(|name| (name, if name == deleted { "delete" } else { "keep" }));
        assert_eq!(vm.run("pre-stop", &[], &states), "");
        assert!(vm.drain_stops(&["job_unchanged", "hash_unchanged"], &SAME_DISK), "{deleted}");
    }
    let vm = Vm::new(&json!({}))?;
    vm.run("pre-stop", &[], &names.map(|name| (name, "keep")));
    assert!(!vm.drain_stops(&["job_unchanged", "hash_unchanged"], &SAME_DISK));
    Ok(())
}

#[test]
fn without_live_restore_every_update_stops_everything_side_by_side() -> anyhow::Result<()> {
    let vm = Vm::new(&json!({"live_restore": false}))?;
    assert!(vm.drain_stops(&["job_changed", "hash_changed"], &SAME_DISK));
    Ok(())
}

#[test]
fn drain_answers_though_the_engine_does_not() -> anyhow::Result<()> {
    let vm = Vm::new(&json!({}))?;
    vm.executable(vm.path("packages/docker/bin/docker"), "#!/bin/bash\necho no >&2\nexit 1\n")?;
    assert_eq!(vm.run("drain", &["job_shutdown", "hash_unchanged"], &SAME_DISK), "0\n");
    let log = fs::read_to_string(vm.path("sys/log/docker/docker.log"))?;
    assert!(log.contains("dockerd does not answer"), "{log}");
    Ok(())
}

#[test]
fn containers_that_do_not_stop_are_killed() -> anyhow::Result<()> {
    let vm = Vm::new(&json!({}))?;
    let calls = vm.path("calls");
    let docker = format!(
        "#!/bin/bash\necho \"$*\" >> {}\n[ \"$1\" != ps ] || printf '%s\\n' one two\n",
        calls.display()
    );
    vm.executable(vm.path("packages/docker/bin/docker"), &docker)?;
    assert_eq!(vm.run("drain", &["job_shutdown", "hash_unchanged"], &SAME_DISK), "0\n");
    let calls = fs::read_to_string(calls)?;
    let expected =
        ["ps --quiet --no-trunc", "stop one two", "ps --quiet --no-trunc", "kill one two"];
    assert_eq!(calls.lines().collect::<Vec<_>>(), expected);
    Ok(())
}
