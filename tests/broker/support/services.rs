//! Service YAML for tests.

use std::path::{Path, PathBuf};

/// A shipped service file.
pub(crate) fn service_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services").join(name)
}

/// Ids of service, plan `small` and plan `large` of the redis of [`redis_yaml`].
pub(crate) const REDIS: (&str, &str, &str) = ("redis-service", "redis-small", "redis-large");

/// A quick redis with two plans, as an own service file. `extra` are more keys of each plan,
/// indented by four blanks.
pub(crate) fn redis_yaml(extra: &str) -> String {
    let plan = |id: &str, name: &str, memory: &str| {
        format!(
            r#"
  - id: {id}
    name: {name}
    description: a plan
    container:
      image: redis
      tag: '7'
      user: '999:999'
      entrypoint: [/bin/sh, -c]
      command:
      - |
        exec redis-server - <<CONFIG
        requirepass $REDIS_PASSWORD
        dir /data
        appendonly yes
        save ""
        CONFIG
      expose_ports: [6379/tcp]
      volumes:
      - {{path: /data, owner: '999:999'}}
      limits: {{memory: {memory}, pids: 64}}
      readiness: {{tcp: 6379/tcp, send: "AUTH {{{{password}}}}\r\nPING\r\n", expect: +PONG, timeout: 30s}}
      hardening: {{cap_drop: [ALL], read_only: true, tmpfs: ['/tmp:size=16m']}}
    credentials:
      username: {{value: default}}
      password: {{key: REDIS_PASSWORD}}
      uri: {{prefix: redis, port: 6379/tcp}}
{extra}"#
        )
    };
    format!(
        "services:\n- id: {}\n  name: redis-for-tests\n  description: redis\n  plans:{}{}",
        REDIS.0,
        plan(REDIS.1, "small", "64m"),
        plan(REDIS.2, "large", "96m"),
    )
}

/// A service of one busybox plan named `plan` that runs a shell command.
pub(crate) fn busybox_service(shell: &str, extra_container: &str) -> String {
    format!(
        r"services:
- id: busybox-service
  name: busybox-for-tests
  description: busybox
  plans:
  - id: busybox-plan
    name: plan
    description: a plan
    parameters: {{}}
    container:
      image: busybox
      tag: '1'
      command: [sh, -c, {}]
{extra_container}
",
        serde_json::Value::from(shell)
    )
}

/// Ids of service and first plan in a service file.
pub(crate) fn plan_of(path: &Path) -> (String, String) {
    let (catalog, problems) = docker_broker::config::load_services(&[path.to_owned()]);
    let catalog = catalog.unwrap_or_else(|| panic!("{problems:?}"));
    let service = &catalog.services()[0];
    (service.id.clone(), service.plans[0].id.clone())
}

/// Service and first plan of [`switch_yaml`].
pub(crate) const SWITCH: (&str, &str) = ("switch-service", "switch-plan");

/// A service whose parameter `mode` says how its container behaves: it answers HTTP at once, or
/// `silent` never does, or it is `broken` and ends. Plan `switch-second` and the plan
/// `other-plan` of `other-service`, which cannot be bound, are alike. `timeout` is that of the
/// readiness check; `extra` are more keys of the first plan, indented by four blanks.
pub(crate) fn switch_yaml(timeout: &str, extra: &str) -> String {
    let plan = |id: &str, extra: &str| {
        format!(
            r#"
  - id: {id}
    name: {id}
    description: a plan
    parameters: {{mode: MODE, colour: COLOUR}}
    container:
      image: busybox
      tag: '1'
      command:
      - sh
      - -c
      - |
        case "$MODE" in
          silent) exec sleep 1000 ;;
          broken) exit 3 ;;
          *) exec httpd -f -p 8080 ;;
        esac
      volumes: [{{path: /data}}]
      expose_ports: [8080/tcp]
      restart: 'no'
      readiness: {{tcp: 8080/tcp, timeout: {timeout}}}
      stop_timeout: 0s
    credentials:
      password: {{key: SECRET}}
{extra}"#
        )
    };
    format!(
        "services:\n- id: {}\n  name: switch\n  description: a switch\n  plans:{}{}\n\
         - id: other-service\n  name: other\n  description: another\n  bindable: false\n  \
         plan_updateable: false\n  plans:{}{}",
        SWITCH.0,
        plan(SWITCH.1, extra),
        plan("switch-second", ""),
        plan("other-plan", ""),
        plan("other-second", ""),
    )
}
