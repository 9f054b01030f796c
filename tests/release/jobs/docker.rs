//! Templates of job docker.

use std::{fs, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::certificate;
use crate::support::render::{self, Deployment, Rendered};

fn render(properties: &Value) -> Rendered {
    render::job("docker", properties, &json!({})).expect("the properties are right")
}

fn daemon(properties: &Value) -> Value {
    serde_json::from_str(&render(properties).file("config/daemon.json")).expect("JSON")
}

#[test]
fn the_engine_keeps_everything_on_the_persistent_disk_and_listens_on_its_socket_only() {
    let daemon = daemon(&json!({}));
    assert_eq!(daemon["data-root"], "/var/vcap/store/docker");
    assert_eq!(daemon["exec-root"], "/run/docker");
    assert_eq!(daemon["pidfile"], "/var/vcap/sys/run/docker/docker.pid");
    assert_eq!(daemon["hosts"], json!(["unix:///var/vcap/sys/run/docker/docker.sock"]));
    assert_eq!(daemon["group"], "vcap");
    assert_eq!(daemon.get("tlsverify"), None);
}

#[test]
fn the_data_of_another_release_can_be_taken_over_where_it_lies() {
    let old = "/var/vcap/store/docker/docker";
    let rendered = render(&json!({"data_root": old}));
    let daemon: Value = serde_json::from_str(&rendered.file("config/daemon.json")).expect("JSON");
    assert_eq!(daemon["data-root"], old);
    assert!(rendered.file("bin/lib.sh").contains(&format!("data_root={old}\n")));
}

#[test]
fn by_default_containers_survive_the_engine_and_their_logs_are_bounded() {
    let daemon = daemon(&json!({}));
    assert_eq!(daemon["live-restore"], true);
    assert_eq!(daemon["userland-proxy"], false);
    assert_eq!(daemon["log-driver"], "json-file");
    assert_eq!(daemon["log-opts"], json!({"max-size": "10m", "max-file": "3"}));
    assert_eq!(daemon["storage-driver"], "overlay2");
}

#[test]
fn the_default_address_pools_hold_4000_instances_on_bridges_of_1000() {
    let daemon = daemon(&json!({}));
    let pools = daemon["default-address-pools"].as_array().expect("pools");
    let mut bridges = 0;
    for pool in pools {
        let (_, prefix) = pool["base"].as_str().expect("a base").split_once('/').expect("/");
        let size = pool["size"].as_u64().expect("a size");
        // Network, gateway and broadcast are no container's.
        assert!((1_u64 << (32 - size)) - 3 >= 1000, "{pool}");
        bridges += 1_u64 << (size - prefix.parse::<u64>().expect("a prefix"));
    }
    // One subnet is docker0's.
    assert!((bridges - 1) * 1000 >= 4000, "{bridges} subnets");
}

#[test]
fn every_property_of_the_engine_reaches_its_configuration() {
    let daemon = daemon(&json!({
        "bridge": "none", "cidr_prefix": "10.9.0.1/16", "fixed_cidr_v6": "fd00::/64",
        "default_gateway": "10.9.0.2", "default_gateway_v6": "fd00::1", "icc": true,
        "ip": "10.0.0.5", "ip_forward": false, "ip_masq": false, "iptables": false, "ipv6": true,
        "mtu": 1400, "userland_proxy": true, "dns_servers": ["10.0.0.2"],
        "dns_options": ["timeout:2"], "dns_search": ["internal"],
        "registry_mirrors": ["https://m"], "insecure_registries": ["r:5000"],
        "storage_driver": "btrfs", "storage_options": ["size=20G"], "live_restore": false,
        "default_ulimits": ["nofile=1024:4096", "nproc=512"],
        "exec_options": ["native.cgroupdriver=systemd"], "selinux_enable": true,
        "log_driver": "syslog", "log_options": ["syslog-address=udp://10.0.0.5:514?a=b"],
        "labels": ["rack=r1"], "debug": true, "log_level": "warn", "drain_timeout": 300,
        "default_address_pools": [{"base": "10.8.0.0/16", "size": 22}],
    }));
    let expected = json!({
        "bridge": "none", "bip": "10.9.0.1/16", "fixed-cidr-v6": "fd00::/64",
        "default-gateway": "10.9.0.2", "default-gateway-v6": "fd00::1", "icc": true,
        "ip": "10.0.0.5", "ip-forward": false, "ip-masq": false, "iptables": false, "ipv6": true,
        "mtu": 1400, "userland-proxy": true, "dns": ["10.0.0.2"],
        "dns-opts": ["timeout:2"], "dns-search": ["internal"],
        "registry-mirrors": ["https://m"], "insecure-registries": ["r:5000"],
        "storage-driver": "btrfs", "storage-opts": ["size=20G"], "live-restore": false,
        "default-ulimits": {
            "nofile": {"Name": "nofile", "Soft": 1024, "Hard": 4096},
            "nproc": {"Name": "nproc", "Soft": 512, "Hard": 512},
        },
        "exec-opts": ["native.cgroupdriver=systemd"], "selinux-enabled": true,
        "log-driver": "syslog", "log-opts": {"syslog-address": "udp://10.0.0.5:514?a=b"},
        "labels": ["rack=r1"], "debug": true, "log-level": "warn", "shutdown-timeout": 300,
        "default-address-pools": [{"base": "10.8.0.0/16", "size": 22}],
    });
    for (key, value) in expected.as_object().expect("a mapping") {
        assert_eq!(&daemon[key], value, "{key}");
    }
}

#[test]
fn containers_may_be_given_no_limit() {
    let daemon =
        daemon(&json!({"default_ulimits": ["memlock=unlimited", "core=0:unlimited", "cpu=9:-1"]}));
    let limits = |name: &str| {
        [&daemon["default-ulimits"][name]["Soft"], &daemon["default-ulimits"][name]["Hard"]]
            .map(|limit| limit.as_i64())
    };
    assert_eq!(limits("memlock"), [Some(-1), Some(-1)]);
    assert_eq!(limits("core"), [Some(0), Some(-1)]);
    assert_eq!(limits("cpu"), [Some(9), Some(-1)]);
}

#[test]
fn what_is_not_given_is_left_to_the_engine() {
    let daemon = daemon(&json!({}));
    let keys = ["bridge", "bip", "fixed-cidr-v6", "default-gateway", "default-gateway-v6", "mtu"];
    for key in keys {
        assert_eq!(daemon.get(key), None, "{key}");
    }
}

#[test]
fn the_api_over_tcp_asks_for_client_certificates() {
    let (certificate, key) = certificate();
    let rendered = render(&json!({
        "tcp_address": "10.0.0.5", "tcp_port": 2376,
        "tls_cacert": certificate, "tls_cert": certificate, "tls_key": key,
    }));
    let daemon: Value = serde_json::from_str(&rendered.file("config/daemon.json")).expect("JSON");
    assert_eq!(daemon["hosts"][1], "tcp://10.0.0.5:2376");
    assert_eq!(daemon["tlsverify"], true);
    for (option, name, pem) in [
        ("tlscacert", "cacert.pem", &certificate),
        ("tlscert", "cert.pem", &certificate),
        ("tlskey", "key.pem", &key),
    ] {
        assert_eq!(daemon[option], format!("/var/vcap/jobs/docker/config/{name}"));
        assert_eq!(rendered.file(&format!("config/{name}")).trim(), pem.trim());
    }
}

#[test]
fn cas_of_registries_arrive_as_they_are_and_go_with_their_property() {
    let directory = TempDir::new().expect("a directory");
    let (pem, _) = certificate();
    let odd = format!("{pem}# 'quotes' \"$(reboot)\" `x` \\ ü\n");
    let run = |certificates: Value| {
        let rendered = render(&json!({"registry_ca_cert": certificates}));
        let script = rendered.file("bin/registry-certificates");
        let script = script.replace("/etc/docker/certs.d", &directory.path().display().to_string());
        let status = Command::new("bash").args(["-c", &script]).status().expect("bash runs");
        assert!(status.success());
    };
    run(json!([
        {"domain_name": "registry.internal:5000", "ca_cert": pem},
        {"domain_name": "other.internal", "ca_cert": odd},
    ]));
    let file = |host: &str| directory.path().join(host).join("bosh-docker.crt");
    let read = |host: &str| fs::read_to_string(file(host)).expect("it was written");
    assert_eq!(read("registry.internal:5000").trim(), pem.trim());
    assert_eq!(read("other.internal").trim(), odd.trim());

    run(json!([{"domain_name": "other.internal", "ca_cert": pem}]));
    assert!(!file("registry.internal:5000").exists(), "it is not listed any more");
    assert_eq!(read("other.internal").trim(), pem.trim());
}

#[test]
fn proxies_reach_the_engine_by_its_environment() {
    let proxy = "http://user:p'a$s\"s word@proxy:3128";
    let rendered = render(&json!({"env": {
        "http_proxy": proxy, "https_proxy": "http://proxy:3128", "no_proxy": "localhost,.internal",
    }}));
    let start = rendered.file("bin/start");
    let exports: Vec<_> = start.lines().filter(|line| line.starts_with("export ")).collect();
    let print = format!(
        "{}\nprintf '%s|' \"$HTTP_PROXY\" \"$HTTPS_PROXY\" \"$NO_PROXY\"",
        exports.join("\n")
    );
    let output = Command::new("bash").args(["-c", &print]).output().expect("bash runs");
    let expected = format!("{proxy}|http://proxy:3128|localhost,.internal|");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert!(!render(&json!({})).file("bin/start").contains("PROXY"));
}

#[test]
fn monit_watches_the_socket_and_gives_the_stop_more_time_than_the_containers_have() {
    let monit = render(&json!({"drain_timeout": 600})).file("monit");
    let expected = "\
check process docker
  with pidfile /var/vcap/sys/run/docker/docker.pid
  start program \"/var/vcap/jobs/docker/bin/start\" with timeout 60 seconds
  stop program \"/var/vcap/jobs/docker/bin/stop\" with timeout 780 seconds
  group vcap
  if failed unixsocket /var/vcap/sys/run/docker/docker.sock with timeout 10 seconds for 5 cycles then restart
";
    assert_eq!(monit, expected);
}

#[test]
fn create_env_renders_the_same() -> anyhow::Result<()> {
    let there = Deployment::create_env(json!({})).render("docker")?;
    let here = render(&json!({}));
    for file in ["config/daemon.json", "bin/start", "bin/drain", "monit"] {
        assert_eq!(there.file(file), here.file(file), "{file}");
    }
    Ok(())
}
