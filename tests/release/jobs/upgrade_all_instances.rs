//! Templates of job upgrade-all-instances.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::render::{self, Deployment};

/// The command that the errand becomes, without its privileges.
fn command(properties: &Value) -> Vec<String> {
    let rendered = render::job("upgrade-all-instances", properties, &json!({}));
    let rendered = rendered.expect("it renders");
    let run = rendered.file("bin/run");
    let (_, command) = run.split_once("exec ").expect("it becomes the command");
    let words = shell_words::split(command).expect("a command line");
    let program = words.iter().position(|word| word.ends_with("/docker-broker"));
    words[program.expect("the broker's program")..].to_vec()
}

const PACED: [&str; 5] = [
    "--canaries=0",
    "--max-in-flight=1",
    "--attempt-interval=60s",
    "--attempt-limit=5",
    "--timeout=30m",
];

#[test]
fn the_errand_upgrades_every_instance_one_after_the_other_by_the_settings_of_the_broker() {
    let command = command(&json!({}));
    assert_eq!(command[0], "/var/vcap/packages/docker-broker/bin/docker-broker");
    assert_eq!(command[1..4], ["upgrade-all", "--config", "$config"]);
    assert_eq!(command[4..], PACED);
}

#[test]
fn every_property_becomes_its_option_whatever_is_in_it() {
    let command = command(&json!({
        "dry_run": true, "canaries": 2, "max_in_flight": 3, "continue_on_failure": true,
        "only": ["redis7", "odd name/$(reboot) 'x'"], "instances": ["-i d"],
        "attempt_interval": "5m", "attempt_limit": 7, "timeout": "1h; reboot",
    }));
    assert_eq!(
        command[4..],
        [
            "--canaries=2",
            "--max-in-flight=3",
            "--attempt-interval=5m",
            "--attempt-limit=7",
            "--timeout=1h; reboot",
            "--dry-run",
            "--continue-on-failure",
            "--only=redis7",
            "--only=odd name/$(reboot) 'x'",
            "--instance=-i d",
        ]
    );
}

#[test]
fn the_command_takes_what_the_errand_passes_and_refuses_what_is_wrong() {
    let run = |properties: &Value| {
        let mut words = command(properties);
        words[3] = "/nonexistent/broker.yml".to_owned();
        let output = Command::new(env!("CARGO_BIN_EXE_docker-broker")).args(&words[1..]).output();
        let output = output.expect("the command can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let all = json!({
        "dry_run": true, "canaries": 2, "continue_on_failure": true, "only": ["redis7"],
        "instances": ["-id"], "timeout": "1h",
    });
    // It gets as far as the settings file.
    assert_eq!(run(&all).0, Some(78));
    for (name, value) in [
        ("canaries", json!(-1)),
        ("max_in_flight", json!("many")),
        ("attempt_interval", json!("soon")),
        ("attempt_limit", json!(1.5)),
        ("timeout", json!(true)),
    ] {
        let (code, said) = run(&json!({ name: value }));
        assert_eq!(code, Some(2), "{name}: {said}");
        assert!(said.contains(&format!("--{}", name.replace('_', "-"))), "{name}: {said}");
    }
}

#[test]
fn lists_have_to_be_lists() {
    for name in ["only", "instances"] {
        let rendered = render::job("upgrade-all-instances", &json!({ name: "redis7" }), &json!({}));
        assert!(rendered.is_err(), "{name}");
    }
}

#[test]
fn an_errand_has_an_empty_monit_file() -> anyhow::Result<()> {
    for deployment in [Deployment::new(json!({})), Deployment::create_env(json!({}))] {
        assert_eq!(deployment.render("upgrade-all-instances")?.file("monit"), "");
    }
    Ok(())
}
