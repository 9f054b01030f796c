//! Every file of `operators/`.

use std::collections::BTreeSet;

use docker_broker::certificates::Authority;
use serde_yaml::Value;

use super::{declared, files, used};
use crate::support::ops::{self, Variables};

/// A file, the variables that it is given (as YAML), and those that it declares.
pub(super) struct Case {
    pub(super) file: &'static str,
    given: &'static [(&'static str, &'static str)],
    generated: &'static [&'static str],
    not_with: &'static [&'static str],
}

const fn case(file: &'static str, given: &'static [(&'static str, &'static str)]) -> Case {
    Case { file, given, generated: &[], not_with: &[] }
}

pub(super) const CASES: &[Case] = &[
    case(
        "cf-integration.yml",
        &[
            ("cf-api-url", "https://api.sys.example.com"),
            ("cf-admin-username", "admin"),
            ("cf-admin-password", "'12345'"),
        ],
    ),
    Case {
        generated: &["docker-broker-ca", "docker-broker-tls"],
        not_with: &["register-route.yml", "set-external-host.yml"],
        ..case("enable-broker-tls.yml", &[("broker-host", "broker.example.com")])
    },
    Case {
        generated: &["docker-ca", "docker-tls"],
        ..case("enable-docker-tls.yml", &[("docker-tcp-host", "10.0.0.30")])
    },
    Case { generated: &["docker-broker-service-ca"], ..case("enable-service-tls.yml", &[]) },
    Case {
        not_with: &["enable-broker-tls.yml", "set-external-host.yml"],
        ..case(
            "register-route.yml",
            &[
                ("broker-route-host", "docker-broker.sys.example.com"),
                ("cf-deployment", "cf"),
                ("cf-nats-client-certificate", "PEM"),
                ("cf-nats-client-key", "PEM"),
            ],
        )
    },
    case("set-azs.yml", &[("azs", "[z2]")]),
    case("set-binding-host.yml", &[("binding-host", "services.example.com")]),
    Case {
        not_with: &["register-route.yml", "enable-broker-tls.yml"],
        ..case("set-external-host.yml", &[("broker-host", "broker.example.com")])
    },
    case("set-max-containers.yml", &[("max-containers", "20")]),
    case("set-network.yml", &[("network", "services")]),
    Case {
        not_with: &["set-persistent-disk.yml"],
        ..case("set-persistent-disk-type.yml", &[("persistent-disk-type", "ssd")])
    },
    Case {
        not_with: &["set-persistent-disk-type.yml"],
        ..case("set-persistent-disk.yml", &[("persistent-disk", "100000")])
    },
    case("set-vm-type.yml", &[("vm-type", "large")]),
    case("use-dev-release.yml", &[("release-directory", "/src/docker-broker")]),
    case("use-image-tarballs.yml", &[("images-directory", "/var/vcap/packages/service-images")]),
    case("use-noble.yml", &[]),
    case(
        "use-proxy.yml",
        &[("http-proxy", "http://p:1"), ("https-proxy", "http://p:1"), ("no-proxy", "10.0.0.0/8")],
    ),
    case("use-registry-ca.yml", &[("registry-host", "r.example.com:5000"), ("registry-ca", "PEM")]),
    case(
        "use-registry-login.yml",
        &[
            ("registry-host", "r.example.com:5000"),
            ("registry-username", "puller"),
            ("registry-password", "'12345'"),
        ],
    ),
    case("use-registry-mirror.yml", &[("registry-mirror", "https://mirror.example.com")]),
    case("use-static-ip.yml", &[("docker-static-ip", "10.0.0.30")]),
];

impl Case {
    pub(super) fn path(&self) -> String {
        format!("operators/{}", self.file)
    }

    pub(super) fn variables(&self) -> Variables {
        let parse = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), serde_yaml::from_str(value).unwrap())
        };
        self.given.iter().map(parse).collect()
    }

    fn excludes(&self, other: &Case) -> bool {
        self.not_with.contains(&other.file)
    }
}

/// The cases of one ops file each, and of all that go together.
fn together(without: &str) -> Vec<&'static Case> {
    let mut chosen: Vec<&Case> = Vec::new();
    for case in CASES.iter().filter(|case| case.file != without) {
        if !chosen.iter().any(|other| case.excludes(other)) {
            chosen.push(case);
        }
    }
    chosen
}

/// Lists of things with a name sorted by it: their order means nothing.
fn sorted(value: Value) -> Value {
    match value {
        Value::Sequence(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sorted).collect();
            let key = |item: &Value| Some(item.get("name")?.as_str()?.to_owned());
            if items.iter().all(|item| key(item).is_some()) {
                items.sort_by_key(key);
            }
            items.into()
        }
        Value::Mapping(map) => {
            let mut entries: Vec<(Value, Value)> =
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by_key(|(key, _)| key.as_str().map(str::to_owned));
            Value::Mapping(entries.into_iter().collect())
        }
        other => other,
    }
}

#[test]
fn every_file_has_a_case_and_a_row_in_the_readme_that_names_its_variables() {
    let mut cases: Vec<&str> = CASES.iter().map(|case| case.file).collect();
    cases.sort_unstable();
    assert_eq!(cases, files("operators"));
    let readme = std::fs::read_to_string(ops::repository("operators/README.md")).unwrap();
    for case in CASES {
        let begin = format!("| `{}` |", case.file);
        let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with(&begin)).collect();
        assert_eq!(rows.len(), 1, "{}", case.file);
        let names = case.given.iter().map(|(name, _)| name).chain(case.generated);
        for name in names.chain(case.not_with) {
            assert!(rows[0].contains(&format!("`{name}`")), "{}: {name}", case.file);
        }
    }
    let rows = readme.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, CASES.len());
}

#[test]
fn every_file_says_at_its_head_what_it_is_for_needs_excludes_and_introduces() {
    for case in CASES {
        let text = std::fs::read_to_string(ops::repository(&case.path())).unwrap();
        let head = text.split("---\n").next().unwrap();
        assert!(head.lines().all(|line| line.starts_with("# ")), "{}", case.file);
        for part in ["# Purpose: ", "# Needs: ", "# Variables: "] {
            assert_eq!(head.matches(part).count(), 1, "{}: {part}", case.file);
        }
        assert_eq!(head.contains("# Not with: "), !case.not_with.is_empty(), "{}", case.file);
        let (before, variables) = head.split_once("# Variables: ").unwrap();
        for name in case.given.iter().map(|(name, _)| name).chain(case.generated) {
            assert!(variables.contains(name), "{}: {name}", case.file);
        }
        assert!(case.not_with.iter().all(|other| before.contains(other)), "{}", case.file);
    }
}

#[test]
fn every_file_applies_with_just_the_variables_that_it_names() {
    for case in CASES {
        let manifest = ops::manifest(&[&case.path()]).unwrap();
        let given: BTreeSet<String> = case.given.iter().map(|(n, _)| (*n).to_owned()).collect();
        let declared = declared(&manifest);
        for name in case.generated {
            assert!(declared.contains(*name), "{} declares no {name}", case.file);
        }
        assert_eq!(declared.len(), 2 + case.generated.len(), "{}", case.file);
        assert_eq!(used(&manifest), &declared | &given, "{}", case.file);
        ops::deployment(&[&case.path()], &case.variables()).unwrap();
        assert_ne!(manifest, ops::manifest(&[]).unwrap(), "{} changes nothing", case.file);
    }
}

#[test]
fn exclusions_are_mutual() {
    for case in CASES {
        for other in CASES.iter().filter(|other| case.excludes(other)) {
            assert!(other.excludes(case), "{} does not exclude {}", other.file, case.file);
        }
    }
}

#[test]
fn two_files_give_the_same_in_both_orders() {
    for (index, one) in CASES.iter().enumerate() {
        for two in CASES[index + 1..].iter().filter(|two| !one.excludes(two)) {
            let (a, b) = (one.path(), two.path());
            let forwards = ops::manifest(&[&a, &b]).unwrap();
            let backwards = ops::manifest(&[&b, &a]).unwrap();
            assert_eq!(sorted(forwards), sorted(backwards), "{a} {b}");
        }
    }
}

#[test]
fn all_files_that_go_together_give_the_same_forwards_and_backwards() {
    for without in ["", "enable-broker-tls.yml", "set-persistent-disk-type.yml"] {
        let chosen = together(without);
        assert!(chosen.len() > CASES.len() - 4);
        let mut paths: Vec<String> = chosen.iter().map(|case| case.path()).collect();
        paths.extend(files("services").iter().map(|file| format!("services/{file}")));
        let mut paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let variables: Variables = chosen.iter().flat_map(|case| case.variables()).collect();
        let forwards = ops::manifest(&paths).unwrap();
        assert_eq!(used(&forwards), &declared(&forwards) | &variables.keys().cloned().collect());
        ops::deployment(&paths, &variables).unwrap();
        paths.reverse();
        assert_eq!(sorted(forwards), sorted(ops::manifest(&paths).unwrap()));
    }
}

#[test]
fn generated_certificates_are_signed_by_the_ca_beside_them() {
    for case in CASES.iter().filter(|case| !case.generated.is_empty()) {
        let manifest = ops::manifest(&[&case.path()]).unwrap();
        let manifest = ops::substitute(&manifest, &case.variables()).unwrap();
        let variables = crate::support::variables::generate(&manifest).unwrap();
        let (ca, certificate) = match case.generated {
            [ca, certificate] => (ca, certificate),
            // It signs when the broker runs.
            [ca] => {
                let text = |key: &str| variables[*ca][key].as_str().unwrap();
                Authority::new(text("certificate"), text("private_key")).unwrap();
                continue;
            }
            _ => panic!("{}: a CA, and at most one more", case.file),
        };
        assert_eq!(variables[*certificate]["ca"], variables[*ca]["certificate"]);
        assert_ne!(variables[*certificate]["certificate"], variables[*ca]["certificate"]);
    }
}
