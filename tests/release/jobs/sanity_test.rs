//! Templates of job sanity-test.

use serde_json::{Value, json};

use crate::support::render::{self, Deployment};

/// The command that the errand becomes, without its privileges.
fn command(properties: &Value) -> Vec<String> {
    let rendered = render::job("sanity-test", properties, &json!({})).expect("it renders");
    let run = rendered.file("bin/run");
    let (_, command) = run.split_once("exec ").expect("it becomes the command");
    let words = shell_words::split(command).expect("a command line");
    let program = words.iter().position(|word| word.ends_with("/docker-broker"));
    words[program.expect("the broker's program")..].to_vec()
}

#[test]
fn the_errand_tests_every_plan_by_the_settings_of_the_broker() {
    let expected = [
        "/var/vcap/packages/docker-broker/bin/docker-broker",
        "sanity-test",
        "--config",
        "$config",
    ];
    assert_eq!(command(&json!({})), expected);
}

#[test]
fn the_errand_can_be_told_which_plans() {
    let command = command(&json!({"only": ["redis7", "odd name/$(reboot) 'x'"]}));
    assert_eq!(command[4..], ["--only", "redis7", "--only", "odd name/$(reboot) 'x'"]);
}

#[test]
fn an_errand_has_an_empty_monit_file() -> anyhow::Result<()> {
    for deployment in [Deployment::new(json!({})), Deployment::create_env(json!({}))] {
        assert_eq!(deployment.render("sanity-test")?.file("monit"), "");
    }
    Ok(())
}
