//! pre-start of both jobs: each mistake is one sentence on standard error.

use std::process::Command;

use serde_json::{Value, json};

use super::{broker_properties, certificate, sandbox::Sandbox, with};

/// An engine that knows `--validate`, and says this.
const ENGINE: &str = "#!/bin/bash
case $1 in
  --help)
    echo '      --validate   Validate daemon configuration and exit'
    # More than a pipe holds: whoever reads has to read on.
    seq 100000
    ;;
  --validate)
    [ -e \"$3\" ] || exit 9
    grep -q '\"log-level\": \"info\"' \"$3\" && exit
    echo 'time=\"…\" level=warning msg=noise' >&2
    echo 'unable to configure the Docker daemon with file daemon.json: invalid logging level' >&2
    exit 1
    ;;
  *) exit 9 ;;
esac
";

/// A VM with a disk and an engine.
fn sandbox(properties: &Value) -> anyhow::Result<Sandbox> {
    let sandbox = Sandbox::new(properties)?;
    sandbox.program("mountpoint", "#!/bin/bash\n")?;
    sandbox.program("dockerd", ENGINE)?;
    Ok(sandbox)
}

/// The one line that pre-start says before it fails.
fn refused(sandbox: &Sandbox) -> String {
    let output = sandbox.start("pre-start", &[], &[]);
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn good_properties_pass_in_silence() -> anyhow::Result<()> {
    let (certificate, key) = certificate();
    let tcp = json!({
        "tcp_address": "0.0.0.0",
        "tls_cacert": certificate, "tls_cert": certificate, "tls_key": key,
    });
    for properties in [json!({}), tcp] {
        assert_eq!(sandbox(&properties)?.run("pre-start", &[], &[]), "");
    }
    Ok(())
}

#[test]
fn images_and_containers_have_to_be_on_the_persistent_disk() -> anyhow::Result<()> {
    for directory in ["/docker", "/var/vcap/store", "/var/vcap/store/../data/docker"] {
        let said = refused(&sandbox(&json!({"data_root": directory}))?);
        assert!(said.contains("data_root is"), "{said}");
        assert!(said.contains("where the persistent disk is"), "{said}");
    }
    Ok(())
}

#[test]
fn without_a_persistent_disk_it_says_what_to_do() -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&json!({}))?;
    let said = refused(&sandbox);
    assert!(said.contains("is not a persistent disk; give the instance group a"), "{said}");
    Ok(())
}

#[test]
fn numbers_have_to_be_numbers() -> anyhow::Result<()> {
    for (properties, message) in [
        (json!({"drain_timeout": "1m"}), "drain_timeout is \"1m\"; it must be a whole number"),
        (json!({"ulimit": {"nofile": "many"}}), "ulimit.nofile is \"many\""),
        (json!({"vm": {"max_map_count": -1}}), "vm.max_map_count is \"-1\""),
    ] {
        let said = refused(&sandbox(&properties)?);
        assert!(said.contains(message), "{said}");
    }
    Ok(())
}

#[test]
fn certificates_have_to_be_certificates() -> anyhow::Result<()> {
    let (pem, key) = certificate();
    let all = json!({
        "tcp_address": "0.0.0.0", "tls_cacert": pem, "tls_cert": pem, "tls_key": key,
    });
    for (name, message) in [
        ("tls_cacert", "tls_cacert is not a certificate in PEM"),
        ("tls_cert", "tls_cert is not a certificate in PEM"),
        ("tls_key", "tls_key is not a private key in PEM"),
    ] {
        let properties = with(all.clone(), &json!({ name: "nonsense" }));
        let said = refused(&sandbox(&properties)?);
        assert!(said.contains(message), "{said}");
    }
    Ok(())
}

#[test]
fn a_private_key_has_to_be_that_of_its_certificate() -> anyhow::Result<()> {
    let ((pem, _), (_, other_key)) = (certificate(), certificate());
    let properties = json!({
        "tcp_address": "0.0.0.0", "tls_cacert": pem, "tls_cert": pem, "tls_key": other_key,
    });
    let said = refused(&sandbox(&properties)?);
    assert!(said.contains("tls_key is not the private key of tls_cert"), "{said}");
    Ok(())
}

#[test]
fn what_the_engine_would_not_start_with_is_said_in_its_words() -> anyhow::Result<()> {
    let said = refused(&sandbox(&json!({"log_level": "loud"}))?);
    let message = "a property of the job docker is not what dockerd accepts: unable to configure \
                   the Docker daemon with file daemon.json: invalid logging level\n";
    assert!(said.ends_with(message), "{said}");
    Ok(())
}

#[test]
fn an_engine_that_cannot_check_is_believed() -> anyhow::Result<()> {
    let sandbox = sandbox(&json!({"log_level": "loud"}))?;
    sandbox.program("dockerd", "#!/bin/bash\n[ \"$1\" = --help ]\n")?;
    assert_eq!(sandbox.run("pre-start", &[], &[]), "");
    Ok(())
}

/// What pre-start of job docker-broker says. It never passes here: there is no persistent disk.
fn broker_refuses(properties: &Value) -> anyhow::Result<String> {
    Ok(refused(&Sandbox::of("docker-broker", &with(broker_properties(), properties))?))
}

const NO_DISK: &str = "is not a persistent disk";

#[test]
fn the_broker_is_given_no_port_that_only_root_may_listen_on() -> anyhow::Result<()> {
    let (pem, key) = certificate();
    let tls = json!({"certificate": pem, "private_key": key});
    for (properties, message) in [
        // Refused wherever the kernel draws the line.
        (json!({"port": 0}), "port is 0; the broker is not root"),
        (json!({"port": "00"}), "port is 00; the broker is not root"),
        (json!({"tls": tls, "loopback_port": 0}), "loopback_port is 0; the broker is not root"),
        (json!({"loopback_port": 0}), NO_DISK),
        (json!({"port": 1024}), NO_DISK),
        (json!({"port": "http"}), NO_DISK),
    ] {
        let said = broker_refuses(&properties)?;
        assert!(said.contains(message), "{properties}: {said}");
    }
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    let expected = if lowest.trim() == "0" { NO_DISK } else { "take one from 1024 to 65535" };
    let said = broker_refuses(&json!({"port": 1}))?;
    assert!(said.contains(expected), "{said}");
    Ok(())
}

#[test]
fn a_deploy_learns_at_once_of_a_ready_timeout_that_post_start_would_refuse() -> anyhow::Result<()> {
    let passes = ["90s", "5m", "1h", "300", "500ms", "5 m", "1d"];
    for given in passes.into_iter().chain(["soon", "", "5 minutes", "-5m", "1.5h", "m"]) {
        let said = broker_refuses(&json!({"ready_timeout": given}))?;
        let accepted = said.contains(NO_DISK);
        assert_eq!(accepted, passes.contains(&given), "{given:?}: {said}");
        assert!(accepted || said.contains("ready_timeout is"), "{given:?}: {said}");
        let wait = Command::new(env!("CARGO_BIN_EXE_docker-broker"))
            .args(["wait", "--config", "/no/such", &format!("--timeout={given}")])
            .output()?;
        // 2: the command line is wrong; 78: the file is not there.
        assert_eq!(wait.status.code(), Some(if accepted { 78 } else { 2 }), "{given:?}: {wait:?}");
    }
    Ok(())
}
