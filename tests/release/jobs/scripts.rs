//! What holds for the scripts of every job.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use serde_json::{Value, json};

use super::{JOBS, broker_properties, registrar_properties, with};
use crate::support::render::{self, Rendered};

/// Every job with as little and with as much as there is for scripts to hold.
fn rendered() -> Vec<(&'static str, Rendered)> {
    let odd = "o'dd \"value\" $(reboot) `x` \\ \nsecond line";
    let much = json!({
        "registry_ca_cert": [{"domain_name": odd, "ca_cert": odd}],
        "env": {"http_proxy": odd, "https_proxy": odd, "no_proxy": odd},
        "tcp_address": "0.0.0.0", "tls_cacert": "a", "tls_cert": "b", "tls_key": "c",
        "live_restore": false, "drain_timeout": odd, "ulimit": {"nofile": odd},
        "vm": {"max_map_count": odd}, "ready_timeout": odd, "only": [odd, odd],
        "catalog_version": odd, "dry_run": true, "purge": true,
    });
    let render = |job, properties: &Value| {
        let rendered = render::job(job, properties, &json!({}));
        (job, rendered.expect("the templates can be rendered"))
    };
    let least = with(broker_properties(), &registrar_properties());
    let most = with(least.clone(), &much);
    let both = |job| [render(job, &least), render(job, &most)];
    JOBS.into_iter().flat_map(both).collect()
}

fn each_script(mut check: impl FnMut(&'static str, PathBuf)) {
    let mut seen = 0;
    for (job, rendered) in &rendered() {
        for script in rendered.scripts() {
            seen += 1;
            check(job, script);
        }
    }
    assert!(seen >= 2 * JOBS.len(), "only {seen} scripts were found");
}

fn passes(command: &mut Command, what: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = said + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}:\n{said}");
}

#[test]
fn scripts_are_correct_bash_whatever_the_properties() {
    each_script(|job, script| {
        let what = format!("{job}: {}", script.display());
        passes(Command::new("bash").arg("-n").arg(&script), &what);
    });
}

#[test]
fn scripts_pass_shellcheck() {
    for (job, rendered) in &rendered() {
        let mut shellcheck = Command::new("shellcheck");
        shellcheck.args(["--external-sources", "--source-path=SCRIPTDIR"]);
        passes(shellcheck.args(rendered.scripts()), job);
    }
}

#[test]
fn scripts_stop_at_the_first_mistake_and_can_be_executed() {
    each_script(|job, script| {
        let text = fs::read_to_string(&script).expect("it was rendered");
        let what = format!("{job}: {}", script.display());
        let mode = script.metadata().expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o750, "{what}");
        if script.extension().is_none_or(|extension| extension != "sh") {
            assert!(text.starts_with("#!/bin/bash\n"), "{what}");
            assert!(text.contains("\nset -euo pipefail\n"), "{what}");
        }
    });
}

#[test]
fn no_script_waits_by_sleeping() {
    each_script(|job, script| {
        let text = fs::read_to_string(&script).expect("it was rendered");
        assert!(!text.contains("sleep "), "{job}: {}", script.display());
    });
}
