//! A service whose hooks keep its users in files of a busybox container.

use std::collections::BTreeMap;

use super::{TestBroker, docker_ok};

/// Ids of service and plan of [`hooked_yaml`].
pub(crate) const HOOKED: (&str, &str) = ("hooked-service", "hooked-plan");

/// The bind parameter `mode` says how the hooks behave; what they were told is kept in the
/// container: `/tmp/users/<name>` has the password of a user, `/tmp/ran` a line for each hook.
/// `extra` are more keys of the plan, indented by four blanks.
pub(crate) fn hooked_yaml(timeout: &str, extra: &str) -> String {
    format!(
        r#"
services:
- id: {service}
  name: hooked
  description: keeps users in files
  plans:
  - id: {plan}
    name: plan
    description: a plan
    container:
      image: busybox
      tag: '1'
      command: [sh, -c, 'mkdir -p /tmp/users && exec sleep 1000000']
      expose_ports: [3306/tcp, 33060/tcp]
      readiness: {{exec: [test, -d, /tmp/users]}}
      stop_timeout: 0s
    credentials:
      username: {{key: ADMIN}}
      password: {{key: ADMIN_PASSWORD}}
      dbname: {{value: db}}
      uri: {{prefix: test, port: 3306/tcp}}
    schemas:
      service_instance:
        create: {{parameters: {{type: object, properties: {{mode: {{type: string}}}}}}}}
      service_binding:
        create:
          parameters:
            type: object
            properties: {{mode: {{type: string}}, n: {{type: integer}}, list: {{type: array}}}}
    lifecycle:
      timeout: {timeout}
      provision: |
        cat > /tmp/provision.json
        echo provision >> /tmp/ran
        [ "$OSB_PARAM_MODE" != refuse ] || {{ echo "mode refuse is no good" >&2; exit 20; }}
        [ "$OSB_PARAM_MODE" != fail ] || exit 1
      update: |
        cat > /tmp/update.json
        echo update >> /tmp/ran
      bind: |
        cat > /tmp/bind.json
        env | grep ^OSB_ | sort > /tmp/bind.env
        echo "bind $OSB_BINDING_ID" >> /tmp/ran
        echo "$OSB_BINDING_PASSWORD" > "/tmp/users/$OSB_BINDING_USERNAME"
        case "$OSB_PARAM_MODE" in
          fail) echo "the password $OSB_BINDING_PASSWORD of $OSB_PASSWORD is wrong" >&2; exit 1 ;;
          refuse) printf 'first\nno such role\n' >&2; exit 20 ;;
          later) echo x >> /tmp/tries; [ "$(wc -l < /tmp/tries)" -gt 5 ] || exit 10 ;;
          never) exit 10 ;;
          hang) sleep 1000000 & echo $! > /tmp/hanging; wait ;;
          turn) mkdir /tmp/turn || exit 1; sleep 0.05; rmdir /tmp/turn ;;
          slow) sleep 4 ;;
          until) while [ ! -e /tmp/go ]; do sleep 0.1; done ;;
          garbage) echo "not JSON $OSB_BINDING_PASSWORD" ;;
          list) echo '[1]' ;;
          much) head -c 2097152 /dev/zero | tr '\0' ' ' ;;
          nested) echo '{{"a": {{"b": ["$HOST:$PORT_3306", {{"c": "$PORT_33060"}}]}}, "n": 1.5, "no": null, "t": true}}' ;;
          envelope) echo '{{"credentials": {{"key": "$PORT"}}, "endpoints": []}}' ;;
          missing) exec /nope ;;
          directory) exec /tmp ;;
        esac
      unbind: |
        cat > /tmp/unbind.json
        echo "unbind $OSB_BINDING_ID" >> /tmp/ran
        rm -f "/tmp/users/$OSB_BINDING_USERNAME"
        [ ! -e /tmp/refuse-unbind ] || exit 1
      deprovision: |
        echo deprovision >> /tmp/ran
        exit 1
{extra}"#,
        service = HOOKED.0,
        plan = HOOKED.1,
    )
}

/// A bind hook that waits until it may go on does so.
pub(crate) fn go_on(broker: &TestBroker, instance: &str) {
    docker_ok(&["exec", &broker.container(instance), "touch", "/tmp/go"]);
}

/// The users in an instance, with their passwords.
pub(crate) fn users(broker: &TestBroker, instance: &str) -> BTreeMap<String, String> {
    let script = "cd /tmp/users && for user in *; do \
                  [ -e \"$user\" ] && echo \"$user $(cat \"$user\")\"; done; true";
    let text = docker_ok(&["exec", &broker.container(instance), "sh", "-c", script]);
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(user, password)| (user.to_owned(), password.to_owned()))
        .collect()
}
