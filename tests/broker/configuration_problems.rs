//! What the configuration says about mistakes: every one at once, each with its path and what
//! would be right.

use std::fs;

use docker_broker::config::{Overrides, Problem, Severity, load};
use serde_json::{Value, json};

/// A configuration without problems.
pub(crate) fn good() -> Value {
    json!({
        "services": [{
            "id": "s", "name": "service", "description": "a service",
            "plans": [{
                "id": "p", "name": "plan", "description": "a plan",
                "container": {
                    "image": "redis", "tag": "7",
                    "expose_ports": ["6379/tcp", "53/udp"],
                },
                "credentials": {
                    "username": { "value": "default" },
                    "password": { "key": "PASSWORD" },
                    "uri": { "prefix": "redis", "port": "6379/tcp" },
                },
            }],
        }],
    })
}

/// Sets the value at a JSON pointer, making mappings on the way; `null` removes it.
pub(crate) fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    if document.pointer(parent).is_none() {
        set(document, parent, json!({}));
    }
    match document.pointer_mut(parent).expect("it was made") {
        Value::Object(map) if value.is_null() => drop(map.remove(key)),
        Value::Object(map) => drop(map.insert(key.to_owned(), value)),
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
        other => panic!("{pointer} leads into {other}"),
    }
}

/// All problems of a settings document, their paths without the file.
pub(crate) fn problems(document: &Value) -> Vec<Problem> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("broker.yml");
    // JSON is YAML.
    fs::write(&file, document.to_string()).expect("a file can be written");
    let (configuration, problems) = load(Some(&file), &[], &Overrides::default());
    let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
    assert_eq!(configuration.is_none(), failed, "{problems:?}");
    let prefix = format!("{}: ", file.display());
    let shorten = |problem: Problem| Problem {
        path: problem.path.replace(&prefix, ""),
        message: problem.message.replace(&prefix, ""),
        ..problem
    };
    problems.into_iter().map(shorten).collect()
}

/// Checks that each change of the good configuration gives one problem of this severity, at this
/// place, with these words.
fn check(severity: Severity, root: &str, cases: Vec<(&str, Value, &str, &str)>) {
    assert_eq!(problems(&good()), []);
    for (pointer, value, place, words) in cases {
        let mut document = good();
        let pointer = format!("{root}{pointer}");
        set(&mut document, &pointer, value.clone());
        let found = problems(&document);
        let [problem] = found.as_slice() else {
            panic!("{pointer} = {value} gives {} problems: {found:#?}", found.len());
        };
        assert_eq!(problem.severity, severity, "{pointer} = {value}: {problem}");
        let mut expected = place.to_owned();
        if !root.is_empty() {
            expected = format!("{}.{place}", dotted(root));
        }
        assert_eq!(problem.path, expected, "{pointer} = {value}: {problem}");
        assert!(problem.message.contains(words), "{pointer} = {value}: {problem}");
    }
}

/// `/services/0/plans/0` as problems write it.
fn dotted(pointer: &str) -> String {
    let parts = pointer.split('/').skip(1);
    parts.fold(String::new(), |path, part| match part.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => part.to_owned(),
        Err(_) => format!("{path}.{part}"),
    })
}

#[test]
fn each_mistake_in_a_service_is_named_with_its_place_and_what_would_be_right() {
    check(
        Severity::Error,
        "/services/0",
        vec![
            ("/id", Value::Null, "id", "is missing; it is required"),
            ("/id", json!(" "), "id", "must not be empty"),
            ("/id", json!("p"), "plans[0].id", "\"p\", the id at services[0].id as well"),
            ("/name", json!(["a"]), "name", "must be a string, but is a list"),
            ("/name", json!("my redis"), "name", "\"my redis\"; a name has no white space"),
            ("/description", Value::Null, "description", "is missing"),
            ("/bindable", json!("maybe"), "bindable", "must be true or false, but is \"maybe\""),
            ("/tags", json!({"a": "b"}), "tags", "must be a list of strings, but is a mapping"),
            ("/tags", json!([["a"]]), "tags[0]", "must be a string, but is a list"),
            ("/metadata", json!("x"), "metadata", "must be a mapping"),
            ("/requires", json!(["drain"]), "requires", "\"drain\"; OSB knows only syslog_drain"),
            ("/plan_updateable", json!(3), "plan_updateable", "must be true or false"),
            ("/plans", Value::Null, "plans", "must hold at least one plan"),
            ("/plans", json!([]), "plans", "must hold at least one plan"),
            ("/plans", json!({"a": "b"}), "plans", "must be a list, but is a mapping"),
        ],
    );
}

#[test]
fn each_mistake_in_a_plan_is_named_with_its_place_and_what_would_be_right() {
    let schema = json!({"service_instance": {"create": {"parameters": {"type": "nonsense"}}}});
    let exchange = |port: &str| json!({"tcp": port, "send": "a", "expect": "b"});
    check(
        Severity::Error,
        "/services/0/plans/0",
        vec![
            ("/id", Value::Null, "id", "is missing"),
            ("/name", Value::Null, "name", "is missing"),
            ("/description", json!({"a": 1}), "description", "must be a string"),
            ("/free", json!("perhaps"), "free", "must be true or false, but is \"perhaps\""),
            ("/max_containers", json!("many"), "max_containers", "must be a whole number"),
            ("/max_containers", json!(-1), "max_containers", "but is \"-1\""),
            ("/maximum_polling_duration", json!(0), "maximum_polling_duration", "from 1 to"),
            ("/maintenance_info", json!({"version": "1"}), "maintenance_info.version", "1.0.0"),
            ("/maintenance_info", json!("1.0.0"), "maintenance_info", "must be a mapping"),
            ("/schemas", schema, "schemas.service_instance.create.parameters", "is no schema"),
            ("/parameters", json!({"a": "b c"}), "parameters.a", "no environment variable name"),
            ("/parameters", json!({"a": "PASSWORD"}), "parameters.a", "holds a credential"),
            ("/parameters", json!({"a": "LD_PRELOAD"}), "parameters.a", "which is reserved"),
            ("/parameters", json!({"a": "OSB_ACTION"}), "parameters.a", "which is reserved"),
            ("/parameters", json!({"a": "X", "b": "X"}), "parameters.b", "\"a\" sets as well"),
            ("/parameters", json!(["a"]), "parameters", "must be a mapping, but is a list"),
            ("/syslog_drain_port", json!("x"), "syslog_drain_port", "\"x\""),
            ("/container", Value::Null, "container", "is missing"),
            ("/container", json!("redis"), "container", "must be a mapping, but is a string"),
            ("/credentials/uri/port", json!("80"), "credentials.uri.port", "80/tcp, which is not"),
            ("/credentials/uri/port", json!("x"), "credentials.uri.port", "\"x\""),
            ("/credentials/password/key", json!("a b"), "credentials.password.key", "\"a b\""),
            ("/credentials/dbname", json!({"key": "PASSWORD"}), "credentials", "PASSWORD twice"),
            ("/credentials/template", json!({"a": "{{#if"}), "credentials.template", ""),
            ("/sanity_test", json!({"tcp": "80/tcp"}), "sanity_test.send", "belong together"),
            ("/sanity_test", exchange("81/tcp"), "sanity_test.tcp", "81/tcp, which is not"),
            ("/sanity_test", exchange("80/udp"), "sanity_test.tcp", "only tcp ports"),
            ("/sanity_test", json!({"exec": []}), "sanity_test.exec", "must name a command"),
            ("/sanity_test", json!({"parameters": 1}), "sanity_test.parameters", "a mapping"),
        ],
    );
}

#[test]
fn each_mistake_in_hooks_is_named_with_its_place_and_what_would_be_right() {
    let with = |key: &str, value: Value| {
        let mut lifecycle = json!({"bind": "true", "unbind": "/unbind"});
        lifecycle[key] = value;
        lifecycle
    };
    check(
        Severity::Error,
        "/services/0/plans/0",
        vec![
            ("/lifecycle", json!("images"), "lifecycle", "must be image, or a mapping"),
            ("/lifecycle", json!(["image"]), "lifecycle", "must be a string, but is a list"),
            ("/lifecycle", json!({"bind": "true"}), "lifecycle.unbind", "bind needs it"),
            ("/lifecycle", json!({"unbind": "true"}), "lifecycle.bind", "unbind needs it"),
            ("/lifecycle", with("bind", json!(" ")), "lifecycle.bind", "must not be empty"),
            ("/lifecycle", with("bind", json!("a\u{0}b")), "lifecycle.bind", "without NUL"),
            ("/lifecycle", with("update", json!({})), "lifecycle.update", "must be a string"),
            ("/lifecycle", with("timeout", json!("soon")), "lifecycle.timeout", "\"soon\""),
            ("/lifecycle", with("timeout", json!(0)), "lifecycle.timeout", "more than nothing"),
            (
                "/lifecycle",
                with("timeout", json!({"bind": "2d"})),
                "lifecycle.timeout.bind",
                "at most a day",
            ),
            (
                "/lifecycle",
                with("timeout", json!({"update": "2s"})),
                "lifecycle.timeout",
                "names update, for which there is no hook",
            ),
            ("/binding_lifetime", json!("12h"), "binding_lifetime", "needs lifecycle.bind"),
        ],
    );
    check(
        Severity::Warning,
        "/services/0/plans/0",
        vec![("/lifecycle", with("bnd", json!("x")), "lifecycle.bnd", "is \"bind\" meant?")],
    );
}

#[test]
fn each_mistake_in_a_container_is_named_with_its_place_and_what_would_be_right() {
    let swap = json!({"image": "redis", "memory": "64m", "memory_swap": "32m"});
    check(
        Severity::Error,
        "/services/0/plans/0",
        vec![("/container", swap, "container.memory_swap", "must not be smaller than memory")],
    );
    check(
        Severity::Error,
        "/services/0/plans/0/container",
        vec![
            ("/backend", json!("podman"), "backend", "only \"docker\" exists"),
            ("/image", Value::Null, "image", "is missing"),
            ("/image", json!("Redis"), "image", "\"Redis\""),
            ("/image", json!("redis:6"), "image", "tag \"6\" while the key tag says \"7\""),
            ("/image", json!("redis@sha256:12"), "image", "sha256"),
            ("/tag", json!("a b"), "image", "a b"),
            ("/pull", json!("now"), "pull", "must be always, missing or never"),
            ("/command", json!("sh -c 'x"), "command", "cannot be split"),
            ("/workdir", json!("work"), "workdir", "\"work\" must be an absolute path"),
            ("/restart", json!("sometimes"), "restart", "must be no, always, unless-stopped or"),
            ("/restart", json!("on-failure:x"), "restart", "must end in a number"),
            ("/environment", json!(["A"]), "environment[0]", "\"A\" must have the form NAME=value"),
            ("/environment", json!(["1A=b"]), "environment", "\"1A\", which is no environment"),
            ("/secret_environment", json!(["a b"]), "secret_environment[0]", "\"a b\""),
            ("/persistent_volumes", json!(["data"]), "persistent_volumes[0]", "absolute path"),
            ("/persistent_volumes", json!(["/a/../b"]), "persistent_volumes[0]", ".. parts"),
            ("/persistent_volumes", json!(["/"]), "persistent_volumes[0]", "below /"),
            ("/persistent_volumes", json!(["/a", "/a/b"]), "volumes", "must not be nested"),
            ("/volumes", json!([{"owner": "1:1"}]), "volumes[0].path", "is missing"),
            ("/volumes", json!(["/data"]), "volumes[0]", "must be a mapping, but is a string"),
            ("/volumes", json!([{"path": "/a", "owner": "redis"}]), "volumes[0].owner", "999:999"),
            ("/volumes", json!([{"path": "/a", "mode": "rwx"}]), "volumes[0].mode", "0700"),
            ("/memory", json!("lots"), "memory", "\"lots\" is not a size such as 134217728"),
            ("/memory", json!("1k"), "memory", "Docker's minimum is 6291456"),
            ("/cpu_shares", json!("half"), "cpu_shares", "must be a whole number"),
            ("/limits", json!({"cpus": "0"}), "limits.cpus", "between 0.01 and 1024"),
            ("/limits", json!({"shm_size": "x"}), "limits.shm_size", "is not a size"),
            ("/hardening", json!({"tmpfs": ["tmp"]}), "hardening.tmpfs[0]", "absolute path"),
            ("/hardening", json!({"read_only": "x"}), "hardening.read_only", "true or false"),
            ("/privileged", json!("x"), "privileged", "must be true or false"),
            ("/stop_timeout", json!("soon"), "stop_timeout", "\"soon\" is not a duration such as"),
            ("/readiness", json!({"timeout": "1y"}), "readiness.timeout", "is not a duration"),
            ("/readiness", json!({"tcp": "x"}), "readiness.tcp[0]", "\"x\""),
            ("/readiness", json!({"tcp": "80"}), "readiness", "80/tcp, which is not among"),
            ("/readiness", json!({"tcp": "53/udp"}), "readiness", "only tcp ports can be checked"),
            ("/readiness", json!({"http": {"path": "/"}}), "readiness.http.port", "is missing"),
            ("/readiness", json!({"exec": []}), "readiness.exec", "must name a command"),
            ("/readiness", json!({"tcp": 6379, "exec": "true"}), "readiness", "one check"),
        ],
    );
    for port in ["70000/tcp", "0", "http", "80/sctp", "80-81"] {
        let mut document = good();
        set(&mut document, "/services/0/plans/0/container/expose_ports/1", json!(port));
        let found = problems(&document);
        assert_eq!(found.len(), 1, "{port}: {found:?}");
        assert!(found[0].path.ends_with("container.expose_ports[1]"), "{}", found[0]);
        assert!(found[0].message.contains(port), "{}", found[0]);
    }
}

#[test]
fn each_mistake_in_the_settings_is_named_with_its_place_and_what_would_be_right() {
    let key = json!(["short"]);
    let registry = |more: Value| {
        let mut registry = json!({"host": "registry.example"});
        registry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([registry])
    };
    check(
        Severity::Error,
        "",
        vec![
            ("/name", json!("a b"), "name", "\"a b\"; it needs 2 to 40 characters"),
            ("/password", json!(""), "password", "must not be empty"),
            ("/password_file", json!("/no/such"), "password_file", "cannot read /no/such"),
            ("/listen_address", json!("here"), "listen_address", "\"here\" is not an IP address"),
            ("/external_ip", json!("host"), "external_ip", "is not an IP address"),
            ("/external_ip", json!("0.0.0.0"), "external_ip", "no client can connect"),
            ("/docker_url", json!("ssh://host"), "docker_url", "must begin with unix://"),
            ("/port", json!(70_000), "port", "must be a whole number from 0 to 65535"),
            ("/host_ports", json!("9-1"), "host_ports", "is not a range such as \"20000-29999\""),
            ("/host_ports", json!(8000), "host_ports", "\"8000\" is not a range"),
            ("/encryption_keys", key, "encryption_keys[0]", "is shorter than 20 characters"),
            ("/encryption_key_file", json!("/no/such"), "encryption_key_file", "cannot read"),
            ("/max_parallel_pulls", json!(0), "max_parallel_pulls", "from 1 to 64"),
            ("/upgrade_snapshot", json!("copy"), "upgrade_snapshot", "must be a mapping"),
            (
                "/upgrade_snapshot",
                json!({"mode": 1}),
                "upgrade_snapshot.mode",
                "copy, reflink or off",
            ),
            ("/upgrade_snapshot", json!({"max_size": "x"}), "upgrade_snapshot.max_size", "x"),
            ("/operation_timeout", json!("x"), "operation_timeout", "is not a duration"),
            ("/max_body_size", json!("x"), "max_body_size", "is not a size"),
            ("/log_format", json!("xml"), "log_format", "\"xml\"; it must be text or json"),
            ("/log_level", json!("broker=nonsense"), "log_level", "is not understood"),
            ("/pull", json!("x"), "pull", "must be always, missing or never"),
            (
                "/images_directory",
                json!("/no/such"),
                "images_directory",
                "/no/such is not a readable directory",
            ),
            ("/fetch_images", json!("x"), "fetch_images", "must be true or false"),
            ("/registries", json!([{}]), "registries[0].host", "is missing"),
            ("/registries", json!([{"host": "https://r"}]), "registries[0].host", "a scheme"),
            ("/registries", json!([{"host": "u:p@r"}]), "registries[0].host", "a login"),
            ("/registries", registry(json!({"username": "u"})), "registries[0].username", "belong"),
            (
                "/registries",
                registry(json!({"ca_certificate": "/no/such"})),
                "registries[0].ca_certificate",
                "cannot read /no/such",
            ),
            ("/services", json!({}), "services", "must be a list, but is a mapping"),
            ("/services", json!(["x"]), "services[0]", "must be a mapping, but is a string"),
        ],
    );
}

#[test]
fn what_has_no_effect_or_looks_mistaken_is_a_warning_with_a_hint() {
    check(
        Severity::Warning,
        "",
        vec![
            ("/max_container", json!(3), "max_container", "is \"max_containers\" meant?"),
            ("/colour", json!(3), "colour", "is not known and has no effect"),
            ("/host_ports", json!("30000-40000"), "host_ports", "from which the kernel takes"),
        ],
    );
    check(
        Severity::Warning,
        "/services/0/plans/0",
        vec![
            ("/container/Memory", json!("1g"), "container.Memory", "is \"memory\" meant?"),
            ("/container/expose-ports", json!([]), "container.expose-ports", "\"expose_ports\""),
            ("/container/privileged", json!(true), "container.privileged", "full access"),
            ("/credentials/uri/uri", json!("x"), "credentials.uri.uri", "is not known"),
            ("/credentials/username", json!({}), "credentials.username.key", "is missing"),
            ("/syslog_drain_port", json!("53/udp"), "syslog_drain_port", "requires: [syslog"),
        ],
    );
}

#[test]
fn an_existing_container_goes_with_nothing_that_would_make_one() {
    let mut document = good();
    set(&mut document, "/services/0/plans/0/container", json!({"existing": "c1"}));
    let credentials = "/services/0/plans/0/credentials";
    set(&mut document, &format!("{credentials}/password"), json!({"value": "p"}));
    assert_eq!(problems(&document), []);
    for (pointer, value, path, says) in [
        ("container/existing", json!("-c1"), "container.existing", "the name of a container"),
        ("container/image", json!("redis"), "container.existing", "makes a container, as image"),
        ("container/limits", json!({}), "container.existing", "as limits would"),
        ("container/hardening", json!({}), "container.existing", "as hardening would"),
        ("container/cpus", json!(1), "container.cpus", "is not known"),
        ("credentials/dbname", json!({"key": "D"}), "credentials.dbname", "needs its value"),
        ("parameters", json!({"a": "A"}), "parameters", "have no effect on a container"),
    ] {
        let mut document = document.clone();
        set(&mut document, &format!("/services/0/plans/0/{pointer}"), value);
        let found = problems(&document);
        let [problem] = found.as_slice() else { panic!("{pointer}: {found:?}") };
        assert_eq!(problem.path, format!("services[0].plans[0].{path}"));
        assert!(problem.message.contains(says), "{problem}");
    }
}

#[test]
fn a_shared_container_needs_hooks_and_a_limit_and_takes_no_environment_of_developers() {
    let mut document = good();
    let plan = "/services/0/plans/0";
    set(&mut document, &format!("{plan}/tenancy"), json!("shared"));
    set(&mut document, &format!("{plan}/max_instances_per_container"), json!(5));
    set(&mut document, &format!("{plan}/lifecycle"), json!({"provision": "a", "deprovision": "b"}));
    assert_eq!(problems(&document), []);
    for (pointer, value, path, says) in [
        ("tenancy", json!("alone"), "tenancy", "must be shared or dedicated"),
        ("tenancy", json!("dedicated"), "max_instances_per_container", "needs tenancy: shared"),
        ("max_instances_per_container", Value::Null, "max_instances_per_container", "is missing"),
        ("max_instances_per_container", json!(0), "max_instances_per_container", "from 1 to"),
        ("lifecycle/deprovision", Value::Null, "lifecycle", "needs provision and deprovision"),
        ("parameters", json!({"a": "A"}), "parameters", "become no environment"),
    ] {
        let mut document = document.clone();
        set(&mut document, &format!("{plan}/{pointer}"), value);
        let found = problems(&document);
        let named = found.iter().find(|one| one.path == format!("services[0].plans[0].{path}"));
        let problem = named.unwrap_or_else(|| panic!("{pointer}: {found:?}"));
        assert!(problem.message.contains(says), "{problem}");
    }
}

#[test]
fn static_credentials_name_published_ports_and_exclude_a_template() {
    for (pointer, value, path, says) in [
        ("static", json!({"a": ["$PORT_53", "$PORT_6380"]}), "static", "$PORT_6380"),
        ("static", json!({"a": "{{#if"}), "static", "cannot be rendered"),
        ("static", json!(["a"]), "static", "must be a mapping"),
        ("template", json!({"a": "b"}), "static", "and template are two documents"),
    ] {
        let mut document = good();
        let credentials = "/services/0/plans/0/credentials";
        set(&mut document, &format!("{credentials}/static"), json!({"a": "$HOST:$PORT"}));
        assert_eq!(problems(&document), []);
        set(&mut document, &format!("{credentials}/{pointer}"), value);
        let found = problems(&document);
        let [problem] = found.as_slice() else { panic!("{pointer}: {found:?}") };
        assert_eq!(problem.path, format!("services[0].plans[0].credentials.{path}"));
        assert!(problem.message.contains(says), "{problem}");
    }
}

#[test]
fn ten_mistakes_are_reported_in_one_go_in_their_order() {
    let mut document = good();
    let plan = document["services"][0]["plans"][0].clone();
    document["services"][0]["plans"].as_array_mut().unwrap().push(plan);
    let container = "/services/0/plans/0/container";
    for (pointer, value) in [
        ("/port".to_owned(), json!("x")),
        ("/services/0/bindable".to_owned(), json!("x")),
        ("/services/0/plans/0/free".to_owned(), json!("x")),
        (format!("{container}/image"), json!("UPPER")),
        (format!("{container}/memory"), json!("x")),
        (format!("{container}/restart"), json!("x")),
        (format!("{container}/environment"), json!(["x"])),
        (format!("{container}/persistent_volumes"), json!(["x"])),
        // The ninth and tenth: id and name of the second plan are those of the first.
    ] {
        set(&mut document, &pointer, value);
    }
    let mut paths: Vec<String> = problems(&document)
        .into_iter()
        .filter(|problem| problem.severity == Severity::Error)
        .map(|problem| problem.path.replace("services[0].", "").replace("plans[0].container", "c"))
        .collect();
    paths.sort();
    let mut expected = [
        "port",
        "bindable",
        "plans[0].free",
        "c.image",
        "c.memory",
        "c.restart",
        "c.environment[0]",
        "c.persistent_volumes[0]",
        "plans[1].id",
        "plans[1].name",
    ];
    expected.sort_unstable();
    assert_eq!(paths, expected);
}
