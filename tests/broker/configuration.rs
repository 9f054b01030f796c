//! Service files as operators have them: loaded as they are, scalars taken loosely.

use std::{fs, path::PathBuf};

use docker_broker::{
    catalog::{ContainerPlan, Parameters, Plan, RestartPolicy},
    config::{Problem, Severity, load_services},
};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/legacy-services")
}

fn names(path: PathBuf) -> Vec<String> {
    let (catalog, problems) = load_services(&[path]);
    let catalog = catalog.unwrap_or_else(|| panic!("{problems:?}"));
    let mut names: Vec<_> = catalog.services().iter().map(|one| one.name.clone()).collect();
    names.sort();
    names
}

fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("services.yml");
    fs::write(&path, text).expect("a file can be written");
    (directory, path)
}

/// The plan of a service whose container says this, and the warnings.
fn plan(container: &str, more: &str) -> (Plan, Vec<Problem>) {
    let text = format!(
        "services:\n- id: s\n  name: s\n  description: s\n  plans:\n  - id: p\n    name: p\n    \
         description: p\n{more}    container:\n      image: frodenas/postgresql\n{container}"
    );
    let (_directory, path) = file(&text);
    let (catalog, problems) = load_services(&[path]);
    let catalog = catalog.unwrap_or_else(|| panic!("{problems:?}"));
    let plan = Plan::clone(&catalog.services()[0].plans[0]);
    (plan, problems)
}

fn container(text: &str) -> ContainerPlan {
    plan(text, "").0.container
}

#[test]
fn every_service_file_of_an_old_deployment_loads_with_two_known_warnings() {
    let (catalog, problems) = load_services(&[fixtures()]);
    let warnings: Vec<String> = problems
        .iter()
        .map(|problem| {
            assert_eq!(problem.severity, Severity::Warning, "{problem}");
            let file = format!("{}/", fixtures().display());
            format!("{}: {}", problem.path.replace(&file, ""), problem.message)
        })
        .collect();
    assert_eq!(
        warnings,
        [
            "consul03.yml: [0].value.plans[0].credentials.uri.uri: is not known and has no effect",
            "neo4j21.yml: [0].value.plans[0].container.privileged: gives the container full \
             access to the machine",
        ]
    );
    let catalog = catalog.expect("warnings do not keep it from loading");
    assert_eq!(catalog.services().len(), 15);
    for offer in catalog.offers() {
        let plan = &offer.plan;
        assert!(matches!(plan.parameters, Parameters::Legacy), "{}", offer.service.name);
    }
}

#[test]
fn a_file_a_directory_and_a_glob_are_service_files() {
    assert_eq!(names(fixtures()).len(), 15);
    assert_eq!(names(fixtures().join("op-redis32.yml")), ["redis32"]);
    assert_eq!(names(fixtures().join("op-*.yml")), ["mysql56", "postgresql96", "redis32"]);
}

#[test]
fn a_directory_gives_both_kinds_of_yaml_files_whatever_its_name() {
    let directory = tempfile::tempdir().unwrap();
    // Characters that mean something in a glob.
    let directory = directory.path().join("services [2026]");
    fs::create_dir(&directory).unwrap();
    for (from, to) in [("op-redis32.yml", "a.yml"), ("op-mysql56.yml", "b.yaml")] {
        fs::copy(fixtures().join(from), directory.join(to)).unwrap();
    }
    fs::write(directory.join("README.md"), "not: yaml: at all").unwrap();
    assert_eq!(names(directory), ["mysql56", "redis32"]);
}

#[test]
fn an_ops_file_gives_its_services_and_its_other_operations_are_passed_over() {
    let service = "{id: s, name: s, description: s, plans: [{id: p, name: p, description: p, \
                   container: {image: redis}}]}";
    let (_directory, path) = file(&format!(
        "- {{type: remove, path: /instance_groups/name=x/jobs/name=y/properties/services/0}}\n\
         - {{type: replace, path: /instance_groups/name=x/jobs/name=y/properties/services/-, \
           value: {service}}}\n\
         - {{type: replace, path: /variables/-, value: {{name: v, type: password}}}}\n"
    ));
    assert_eq!(names(path), ["s"]);
    let (_directory, path) = file("- {type: replace, path: /variables/-, value: {name: v}}\n");
    let (catalog, problems) = load_services(&[path]);
    assert!(catalog.is_some_and(|catalog| catalog.services().is_empty()));
    assert!(problems[0].message.contains("no operation on"), "{problems:?}");
}

#[test]
fn a_bare_service_and_a_bare_list_of_services_are_service_files() {
    let service = "id: s\nname: s\ndescription: s\nplans:\n- {id: p, name: p, description: p, \
                   container: {image: redis}}\n";
    let (_directory, path) = file(service);
    assert_eq!(names(path), ["s"]);
    let (_directory, path) = file(&format!("- {}", service.replace('\n', "\n  ").trim_end()));
    assert_eq!(names(path), ["s"]);
}

#[test]
fn files_that_are_missing_broken_or_empty_are_named() {
    let (directory, broken) = file("services: [\n");
    let empty = directory.path().join("empty.yml");
    fs::write(&empty, "# nothing\n").unwrap();
    let missing = directory.path().join("missing.yml");
    let (catalog, problems) = load_services(&[broken.clone(), empty.clone(), missing.clone()]);
    assert!(catalog.is_none());
    let found: Vec<_> =
        problems.iter().map(|problem| (problem.path.clone(), problem.message.as_str())).collect();
    let expected =
        [(broken, "is not valid YAML"), (empty, "is empty"), (missing, "matches no file")];
    assert_eq!(found.len(), expected.len(), "{problems:?}");
    for ((path, message), (file, words)) in found.iter().zip(expected) {
        assert_eq!(*path, file.display().to_string());
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn scalars_are_taken_as_operators_write_them() {
    let (plan, problems) = plan(
        "      tag: 9.6\n      restart: no\n      memory: 1g\n      memory_swap: 2147483648\n      \
         cpu_shares: '512'\n      privileged: 'no'\n      expose_ports: [5432, '53/udp']\n",
        "    max_containers: '20'\n    free: 'yes'\n",
    );
    assert_eq!(problems, []);
    let container = &plan.container;
    assert_eq!(container.image.to_string(), "frodenas/postgresql:9.6");
    assert_eq!(container.restart, RestartPolicy::No);
    assert_eq!(container.limits.memory_bytes, Some(1_073_741_824));
    assert_eq!(container.limits.memory_swap_bytes, Some(2_147_483_648));
    assert_eq!(container.limits.cpu_shares, Some(512));
    assert!(!container.hardening.privileged);
    let ports: Vec<String> = container.expose_ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["5432/tcp", "53/udp"]);
    assert_eq!(plan.max_instances, Some(20));
    assert!(plan.free);
}

#[test]
fn null_is_the_same_as_no_key() {
    let keys = [
        "backend",
        "tag",
        "command",
        "entrypoint",
        "workdir",
        "restart",
        "environment",
        "memory",
        "expose_ports",
        "persistent_volumes",
        "user",
        "memory_swap",
        "cpu_shares",
        "privileged",
        "cap_adds",
        "cap_drops",
        "limits",
        "readiness",
        "stop_timeout",
        "volumes",
        "hardening",
    ];
    let nulls = format!("      {}: ~\n", keys.join(": ~\n      "));
    let keys = ["credentials", "metadata", "max_containers", "schemas", "syslog_drain_port"];
    let more = format!("    {}:\n", keys.join(":\n    "));
    let (with_nulls, problems) = plan(&nulls, &more);
    assert_eq!(problems, []);
    let json = |plan: &Plan| serde_json::to_value(plan).unwrap();
    assert_eq!(json(&with_nulls), json(&plan("", "").0));
}

#[test]
fn an_environment_value_keeps_its_equals_signs_and_may_be_a_mapping() {
    let list = container("      environment: ['A=b=c', 'EMPTY=', 'SPACE= x ']\n");
    let pairs = [("A", "b=c"), ("EMPTY", ""), ("SPACE", " x ")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(list.environment, pairs);
    let mapping = container("      environment: {A: b=c, PORT: 80, ON: true}\n");
    let pairs = [("A", "b=c"), ("PORT", "80"), ("ON", "true")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(mapping.environment, pairs);
}

#[test]
fn a_command_honours_quotes_or_is_a_list() {
    let line = container("      command: --name \"two words\" 'it''s' plain\n");
    assert_eq!(line.command, ["--name", "two words", "its", "plain"]);
    let list = container("      command: [sh, -c, 'echo \"a b\"', 5]\n");
    assert_eq!(list.command, ["sh", "-c", "echo \"a b\"", "5"]);
    assert_eq!(
        container("      entrypoint: /bin/run -x\n").entrypoint.unwrap(),
        ["/bin/run", "-x"]
    );
    assert_eq!(container("      entrypoint: ''\n").entrypoint, None);
}

#[test]
fn anchors_and_merge_keys_work() {
    let (plan, problems) =
        plan("      <<: &limits {memory: 64m}\n      limits: {cpus: '0.5', pids: 10}\n", "");
    assert_eq!(problems, []);
    assert_eq!(plan.container.limits.memory_bytes, Some(64 << 20));
    assert_eq!(plan.container.limits.nano_cpus, Some(500_000_000));
    assert_eq!(plan.container.limits.pids, Some(10));
}
