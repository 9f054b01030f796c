//! Stopping when something is amiss: no dockerd, no room for the log, monit that is faster.

use std::{fs, os::unix::fs::symlink};

use serde_json::json;

use super::{
    broker_properties,
    sandbox::{Sandbox, runs},
};

const SHUTDOWN: [&str; 2] = ["job_shutdown", "hash_unchanged"];

fn both_jobs() -> anyhow::Result<[(Sandbox, &'static str); 2]> {
    let broker = Sandbox::of("docker-broker", &broker_properties())?;
    Ok([(Sandbox::new(&json!({}))?, "dockerd"), (broker, "docker-broker")])
}

#[test]
fn drain_ends_the_containers_of_a_dockerd_that_is_gone() -> anyhow::Result<()> {
    let vm = Sandbox::new(&json!({}))?;
    let socket = vm.path("exec/containerd/containerd.sock").display().to_string();
    let shim = vm.act(
        "containerd-shim-runc-v2",
        &["-address", &socket],
        "tail -f /dev/null > /dev/null & echo $!\nwait\nexec tail -f /dev/null > /dev/null\n",
    )?;
    assert!(runs(&shim.said));
    assert_eq!(vm.run("drain", &SHUTDOWN, &[]), "0\n");
    assert!(!runs(&shim.said), "the container: {}", vm.log());
    assert!(shim.has_ended(), "its shim: {}", vm.log());
    assert!(vm.log().contains("ending 1 containers that dockerd left"), "{}", vm.log());
    Ok(())
}

#[test]
fn drain_leaves_what_runs_to_a_dockerd_that_is_alive() -> anyhow::Result<()> {
    let vm = Sandbox::new(&json!({}))?;
    let dockerd = vm.act_process("dockerd", "")?;
    assert_eq!(vm.run("drain", &SHUTDOWN, &[]), "0\n");
    assert!(!dockerd.has_ended() && !vm.log().contains("does not run"), "{}", vm.log());
    Ok(())
}

#[test]
fn a_log_that_is_full_or_cannot_be_opened_keeps_nothing_from_stopping() -> anyhow::Result<()> {
    for log in ["/dev/full", "/nonexistent/log"] {
        for (vm, process) in both_jobs()? {
            symlink(log, vm.log_file())?;
            let running = vm.act_process(process, "")?;
            if process == "dockerd" {
                // With everything that there is to do when the disk goes.
                fs::write(vm.path("sys/run/docker/everything-stops"), "")?;
            }
            assert_eq!(vm.run("stop", &[], &[]), "", "{process}, {log}");
            assert!(running.has_ended(), "{process}, {log}");
        }
        let (vm, note) = (Sandbox::new(&json!({}))?, "sys/run/docker/everything-stops");
        symlink(log, vm.log_file())?;
        let calls = vm.path("calls");
        vm.program("docker", &format!("#!/bin/bash\necho \"$1\" >> {}\n", calls.display()))?;
        assert_eq!(vm.run("drain", &SHUTDOWN, &[]), "0\n");
        assert!(vm.path(note).exists(), "{log}");
        assert_eq!(fs::read_to_string(&calls)?, "ps\n", "{log}");
    }
    Ok(())
}

#[test]
fn stop_removes_the_pid_file_of_the_process_that_it_ended_and_no_other() -> anyhow::Result<()> {
    for (vm, process) in both_jobs()? {
        let running = vm.act_process(process, "")?;
        vm.run("stop", &[], &[]);
        assert!(running.has_ended() && !vm.pid_file().exists(), "{process}");

        // monit has started the next one as soon as the process was gone.
        let next = format!("echo 1 > {}", vm.pid_file().display());
        let running = vm.act_process(process, &next)?;
        vm.run("stop", &[], &[]);
        assert!(running.has_ended(), "{process}");
        assert_eq!(fs::read_to_string(vm.pid_file())?, "1\n", "{process}");
    }
    Ok(())
}

/// What such a one leaves, the next start puts right.
#[test]
fn stop_notes_for_the_next_start_that_dockerd_had_to_be_killed() -> anyhow::Result<()> {
    let vm = Sandbox::new(&json!({}))?;
    let note = vm.path("sys/run/docker/was-killed");
    let by_itself = format!("rm {}", vm.pid_file().display());
    for (last, is_noted) in [(by_itself.as_str(), false), ("", true)] {
        let dockerd = vm.act_process("dockerd", last)?;
        vm.run("stop", &[], &[]);
        assert!(dockerd.has_ended(), "{last}");
        assert_eq!(note.exists(), is_noted, "{last}: {}", vm.log());
    }
    Ok(())
}

#[test]
fn containers_never_have_no_limit_of_time_to_stop() -> anyhow::Result<()> {
    let vm = Sandbox::new(&json!({}))?;
    let limits = vm.path("limits");
    let record = format!("#!/bin/bash\necho \"$*\" >> {}\n\"${{@:2}}\"\n", limits.display());
    vm.program("timeout", &record)?;
    vm.program("docker", "#!/bin/bash\n[ \"$1\" != ps ] || echo one\n")?;
    // The clock reaches the deadline after it was looked at.
    let clock = vm.path("clock");
    let tick = "set -T\ntrap 'case $BASH_COMMAND in say*stopping*) SECONDS=$end ;; esac' DEBUG\n";
    fs::write(&clock, tick)?;
    let clock = clock.display().to_string();
    assert_eq!(vm.run("drain", &SHUTDOWN, &[("BASH_ENV", &clock)]), "0\n");
    let limits = fs::read_to_string(limits)?;
    let stop = limits.lines().find(|line| line.contains("docker stop")).unwrap_or_default();
    assert!(stop.starts_with("1 xargs "), "{limits}");
    Ok(())
}
