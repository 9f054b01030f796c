//! Templates of the jobs broker-registrar and broker-deregistrar.

use std::process::Command;

use serde_json::{Value, json};

use super::registrar_properties;
use crate::support::render::{self, Deployment, Rendered};

const BOTH: [&str; 2] = ["broker-registrar", "broker-deregistrar"];

/// The link of job docker-broker.
fn servicebroker(more: &Value) -> Value {
    let properties = super::with(
        json!({
            "username": "broker", "password": "12345", "port": 5555, "ssl_enabled": false,
            "name": "docker-broker", "services": [],
        }),
        more,
    );
    let instance = json!({
        "name": "docker", "index": 0, "id": "i", "az": "z1", "address": "10.0.0.5",
        "bootstrap": true, "properties": properties,
    });
    json!({"address": "10.0.0.5", "instances": [instance], "properties": properties})
}

fn settings(rendered: &Rendered) -> Value {
    serde_yaml::from_str(&rendered.file("config/registrar.yml")).expect("YAML")
}

#[test]
fn everything_may_come_from_links() {
    let admin = json!({"address": "", "instances": [], "properties": {
        "api_url": "https://api.sys", "admin_username": "admin", "admin_password": "yes",
        "ca_cert": "PEM",
    }});
    let links = json!({"servicebroker": servicebroker(&json!({})), "cf-admin-user": admin});
    for job in BOTH {
        let settings = settings(&render::job(job, &json!({}), &links).expect("it renders"));
        assert_eq!(settings["cf"]["api_url"], "https://api.sys");
        assert_eq!(settings["cf"]["password"], "yes");
        assert_eq!(settings["cf"]["ca_cert"], "PEM");
        assert_eq!(settings["broker"]["url"], "http://10.0.0.5:5555");
        assert_eq!(settings["broker"]["password"], "12345");
        assert_eq!(settings["broker"].get("ca_cert"), None);
    }
    let links = json!({"servicebroker": servicebroker(&json!({"tls": {"ca": "BROKER CA"}}))});
    let rendered = render::job("broker-registrar", &registrar_properties(), &links);
    assert_eq!(settings(&rendered.expect("it renders"))["broker"]["ca_cert"], "BROKER CA");
}

#[test]
fn the_url_follows_the_route_and_its_scheme() {
    let properties = json!({"cf": registrar_properties()["cf"]});
    for (link, url) in [
        (json!({"external_host": "broker.example.com"}), "http://broker.example.com"),
        (
            json!({"external_host": "broker.example.com", "ssl_enabled": true}),
            "https://broker.example.com",
        ),
        (json!({"ssl_enabled": true, "port": 443}), "https://10.0.0.5:443"),
    ] {
        let links = json!({"servicebroker": servicebroker(&link)});
        let rendered = render::job("broker-registrar", &properties, &links).expect("it renders");
        assert_eq!(settings(&rendered)["broker"]["url"], url);
    }
}

#[test]
fn properties_win_over_links_and_the_system_domain_is_the_last_resort() {
    let cloud_controller =
        json!({"address": "", "instances": [], "properties": {"system_domain": "sys.example.com"}});
    let links = json!({
        "servicebroker": servicebroker(&json!({})), "cloud_controller": cloud_controller,
    });
    let login = json!({"cf": {"client_id": "c", "client_secret": "s"}});
    let rendered = render::job("broker-registrar", &login, &links).expect("it renders");
    assert_eq!(settings(&rendered)["cf"]["api_url"], "https://api.sys.example.com");
    let rendered =
        render::job("broker-registrar", &registrar_properties(), &links).expect("renders");
    let settings = settings(&rendered);
    assert_eq!(settings["cf"]["api_url"], "https://api.example.com");
    assert_eq!(settings["broker"]["password"], "secret");
}

#[test]
fn what_neither_property_nor_link_says_fails_by_name() {
    let cf = json!({"cf": registrar_properties()["cf"]});
    let broker = json!({"servicebroker": registrar_properties()["servicebroker"]});
    for job in BOTH {
        for (properties, name) in [(&cf, "servicebroker.url"), (&broker, "cf.api_url")] {
            let error = render::job(job, properties, &json!({})).expect_err("it is missing");
            assert!(error.to_string().contains(&format!("'{name}'")), "{job}: {error}");
        }
    }
    // An old `bosh create-env` has no links.
    let deployment = Deployment::create_env(registrar_properties());
    for job in BOTH {
        deployment.render(job).expect("properties are enough");
    }
}

#[test]
fn the_registrar_accepts_what_is_rendered_whatever_the_passwords() {
    for odd in ["12345", "yes", "p: #'\"\n", "\u{fc}\u{2028}\u{4e16}", "1e3", "~"] {
        let mut properties = registrar_properties();
        // Nothing listens there, so a run ends when it has read its settings.
        properties["cf"]["api_url"] = "http://127.0.0.1:1".into();
        properties["servicebroker"]["url"] = "http://127.0.0.1:1".into();
        for password in ["/cf/password", "/servicebroker/password"] {
            *properties.pointer_mut(password).expect("a password") = odd.into();
        }
        for (job, command) in BOTH.into_iter().zip(["register", "deregister"]) {
            let rendered = render::job(job, &properties, &json!({})).expect("it renders");
            let settings = settings(&rendered);
            assert_eq!(settings["cf"]["password"], odd);
            assert_eq!(settings["broker"]["password"], odd);
            let output = Command::new(env!("CARGO_BIN_EXE_broker-registrar"))
                .args([command, "--config"])
                .arg(rendered.directory().join("config/registrar.yml"))
                .output()
                .expect("it can be run");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("http://127.0.0.1:1 cannot be reached"), "{said}");
        }
    }
}

#[test]
fn the_errands_run_the_command_with_the_file_alone() {
    for (job, command, more) in [
        (BOTH[0], "register", json!({"dry_run": true, "env": {"no_proxy": "a b"}})),
        (BOTH[1], "deregister", json!({"dry_run": true, "env": {"no_proxy": "a b"}})),
    ] {
        let properties = super::with(registrar_properties(), &more);
        let rendered = render::job(job, &properties, &json!({})).expect("it renders");
        let run = rendered.file("bin/run");
        let (_, exec) = run.split_once("\nexec ").expect("it becomes the command");
        let words = shell_words::split(exec).expect("a command line");
        let program = words.iter().position(|word| word.ends_with("/broker-registrar"));
        let words_after = &words[program.expect("the program") + 1..];
        let file = format!("/var/vcap/jobs/{job}/config/registrar.yml");
        assert_eq!(words_after, [command, "--config", &file, "--dry-run"]);
        assert_eq!(settings(&rendered)["proxies"]["no_proxy"], "a b");
        let secured = format!("chmod 0600 {file}");
        assert!(rendered.file("bin/pre-start").contains(&secured), "others may read passwords");
        assert!(!run.contains("admin's"), "a password: {run}");
        assert_eq!(rendered.file("monit"), "");
    }
}
