//! pre-stop and drain of job docker: docs/adr/0012-drain.md, run on files of the test and with a
//! docker command that knows of no containers.

use std::fs;

use serde_json::json;

use super::sandbox::Sandbox;

const SAME_DISK: [(&str, &str); 2] = [
    ("BOSH_JOB_STATE", r#"{"persistent_disk":1024}"#),
    ("BOSH_JOB_NEXT_STATE", r#"{"persistent_disk":1024}"#),
];

/// Whether drain decided that everything stops; it always prints 0 and nothing else.
fn drain_stops(vm: &Sandbox, arguments: &[&str], environment: &[(&str, &str)]) -> bool {
    assert_eq!(vm.run("drain", arguments, environment), "0\n");
    let log = vm.log();
    let stops = vm.path("sys/run/docker/everything-stops").exists();
    assert_eq!(log.contains("everything stops"), stops, "{log}");
    assert_eq!(log.contains("no container runs any more"), stops, "{log}");
    stops
}

#[test]
fn an_update_leaves_containers_running() -> anyhow::Result<()> {
    for arguments in [
        &["job_changed", "hash_changed", "docker", "docker-broker"][..],
        &["job_changed", "hash_unchanged"],
        &["job_unchanged", "hash_unchanged"],
    ] {
        assert!(!drain_stops(&Sandbox::new(&json!({}))?, arguments, &SAME_DISK), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn whatever_is_not_certainly_an_update_stops_everything() -> anyhow::Result<()> {
    for arguments in
        [&["job_shutdown", "hash_unchanged"][..], &["job_check_status"], &["job_new"], &[]]
    {
        assert!(drain_stops(&Sandbox::new(&json!({}))?, arguments, &SAME_DISK), "{arguments:?}");
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
        let vm = Sandbox::new(&json!({}))?;
        let arguments = ["job_changed", "hash_changed"];
        assert!(drain_stops(&vm, &arguments, environment), "{environment:?}");
    }
    Ok(())
}

#[test]
fn a_vm_that_is_deleted_stops_everything_whatever_drain_is_told() -> anyhow::Result<()> {
    let names = ["BOSH_VM_NEXT_STATE", "BOSH_INSTANCE_NEXT_STATE", "BOSH_DEPLOYMENT_NEXT_STATE"];
    for deleted in names {
        let vm = Sandbox::new(&json!({}))?;
        let states = names.map(|name| (name, if name == deleted { "delete" } else { "keep" }));
        assert_eq!(vm.run("pre-stop", &[], &states), "");
        assert!(drain_stops(&vm, &["job_unchanged", "hash_unchanged"], &SAME_DISK), "{deleted}");
    }
    let vm = Sandbox::new(&json!({}))?;
    vm.run("pre-stop", &[], &names.map(|name| (name, "keep")));
    assert!(!drain_stops(&vm, &["job_unchanged", "hash_unchanged"], &SAME_DISK));
    Ok(())
}

#[test]
fn without_live_restore_every_update_stops_everything_side_by_side() -> anyhow::Result<()> {
    let vm = Sandbox::new(&json!({"live_restore": false}))?;
    assert!(drain_stops(&vm, &["job_changed", "hash_changed"], &SAME_DISK));
    Ok(())
}

#[test]
fn drain_answers_though_the_engine_does_not() -> anyhow::Result<()> {
    let vm = Sandbox::new(&json!({}))?;
    vm.program("docker", "#!/bin/bash\necho no >&2\nexit 1\n")?;
    assert_eq!(vm.run("drain", &["job_shutdown", "hash_unchanged"], &SAME_DISK), "0\n");
    let log = vm.log();
    assert!(log.contains("dockerd does not answer"), "{log}");
    Ok(())
}

#[test]
fn containers_that_do_not_stop_are_killed() -> anyhow::Result<()> {
    let vm = Sandbox::new(&json!({}))?;
    let calls = vm.path("calls");
    let docker = format!(
        "#!/bin/bash\necho \"$*\" >> {}\n[ \"$1\" != ps ] || printf '%s\\n' one two\n",
        calls.display()
    );
    vm.program("docker", &docker)?;
    assert_eq!(vm.run("drain", &["job_shutdown", "hash_unchanged"], &SAME_DISK), "0\n");
    let calls = fs::read_to_string(calls)?;
    let expected =
        ["ps --quiet --no-trunc", "stop one two", "ps --quiet --no-trunc", "kill one two"];
    assert_eq!(calls.lines().collect::<Vec<_>>(), expected);
    Ok(())
}
