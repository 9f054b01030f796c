//! What the release carries, and what becomes of it in a compile.
//!
//! `ci/test` prepares: stand-ins of the blobs (`ci/blobs`), the crates (`ci/vendor`), the stemcell's stand-in
//! (`ci/stemcell`), and the packages compiled in it (`ci/compile-packages --quick`).

#![expect(clippy::unwrap_used, reason = "a test ends with what it did not find")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use tempfile::TempDir;

const CRATES: &str = "docker-broker-crates/docker-broker-crates.tgz";
const STEMCELL: &str = "docker-broker-stemcell";

/// A package's `spec`. A key that is not here would be ignored by `ci/compile-packages` too.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    name: String,
    #[serde(default)]
    dependencies: Vec<String>,
    files: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn specs() -> BTreeMap<String, Spec> {
    let mut specs = BTreeMap::new();
    for entry in fs::read_dir(root().join("packages")).expect("packages/ can be read") {
        let file = entry.expect("packages/ can be read").path().join("spec");
        if file.exists() {
            let spec: Spec = serde_yaml::from_str(&read(&file))
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            specs.insert(file.parent().unwrap().file_name().unwrap().display().to_string(), spec);
        }
    }
    assert!(!specs.is_empty(), "there are no packages");
    specs
}

/// Files below `base` (`src` or `blobs`) that a glob names, as paths below it.
fn matches(base: &str, pattern: &str) -> BTreeSet<PathBuf> {
    let base = root().join(base);
    glob::glob(base.join(pattern).to_str().unwrap())
        .unwrap()
        .map(|path| path.unwrap())
        .filter(|path| path.is_file())
        .map(|path| path.strip_prefix(&base).unwrap().to_owned())
        .collect()
}

/// How a command of `ci/` ended: its exit code, and all that it said.
fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code().expect("it was not ended by a signal"), said.concat())
}

fn ci(command: &str, args: &[&str]) -> (i32, String) {
    run(Command::new(root().join("ci").join(command)).args(args))
}

/// The packages that were compiled for the tests.
fn compiled() -> PathBuf {
    let directory = std::env::var_os("DOCKER_BROKER_COMPILED_PACKAGES")
        .map_or_else(|| root().join("target/release-test/packages"), PathBuf::from);
    assert!(
        directory.join("docker-broker/bin/docker-broker").exists(),
        "{} holds no compiled packages; run ci/test, or ci/compile-packages --quick",
        directory.display()
    );
    directory
}

/// Runs a shell script in a stemcell with the compiled packages and `services/`, without a network.
fn in_stemcell(script: &str) -> (i32, String) {
    run(Command::new("docker")
        .args(["run", "--rm", "--network", "none", "--workdir", "/root"])
        .arg(format!("--volume={}:/var/vcap/packages:ro", compiled().display()))
        .arg(format!("--volume={}:/services:ro", root().join("services").display()))
        .args([STEMCELL, "bash", "-euc", script]))
}

/// A release of one package, `docker`, whose blob has these files.
fn release_with_a_docker_of(files: &[&str]) -> TempDir {
    let release = TempDir::new().unwrap();
    let package = release.path().join("packages/docker");
    let blob = release.path().join("blobs/docker");
    fs::create_dir_all(&package).unwrap();
    fs::create_dir_all(release.path().join("src")).unwrap();
    for file in ["spec", "packaging"] {
        fs::copy(root().join("packages/docker").join(file), package.join(file)).unwrap();
    }
    if !files.is_empty() {
        fs::create_dir_all(blob.join("docker")).unwrap();
        for file in files {
            fs::write(blob.join("docker").join(file), "").unwrap();
        }
        let (code, said) =
            run(Command::new("tar").current_dir(&blob).args(["-czf", "docker.tgz", "docker"]));
        assert_eq!(code, 0, "{said}");
    }
    release
}

// ---- specs ---------------------------------------------------------------------------------------

#[test]
fn every_glob_of_every_spec_matches_a_file() {
    for (package, spec) in specs() {
        assert_eq!(spec.name, package, "packages/{package}/spec");
        for pattern in &spec.files {
            let found = matches("src", pattern).len() + matches("blobs", pattern).len();
            assert!(found > 0, "packages/{package}/spec: {pattern} matches nothing");
        }
        assert!(root().join("packages").join(&package).join("packaging").exists(), "{package}");
    }
}

#[test]
fn every_dependency_is_a_package() {
    let specs = specs();
    for (package, spec) in &specs {
        for dependency in &spec.dependencies {
            assert!(specs.contains_key(dependency), "{package} depends on {dependency}");
        }
    }
}

#[test]
fn the_blob_index_lists_what_the_specs_name_and_nothing_else() {
    let index: BTreeMap<PathBuf, serde_yaml::Value> =
        serde_yaml::from_str(&read("config/blobs.yml")).unwrap();
    let named: BTreeSet<PathBuf> = specs()
        .values()
        .flat_map(|spec| spec.files.iter().flat_map(|pattern| matches("blobs", pattern)))
        .collect();
    assert_eq!(index.keys().cloned().collect::<BTreeSet<_>>(), named);
}

#[test]
fn every_blob_but_the_crates_is_pinned_by_url_and_sum() {
    let pins = read("ci/blobs.pins");
    let lines = pins.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut paths = BTreeSet::from([CRATES.to_owned()]);
    for line in lines {
        let [path, sum, url] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}: not a path, a sum and a URL");
        };
        assert!(sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
        assert!(url.starts_with("https://"), "{line}");
        paths.insert(path.to_owned());
    }
    let index: BTreeMap<String, serde_yaml::Value> =
        serde_yaml::from_str(&read("config/blobs.yml")).unwrap();
    assert_eq!(paths, index.into_keys().collect());
}

#[test]
fn the_pinned_rust_is_the_one_of_ci_and_new_enough() {
    let toolchain = read("ci/lib.sh");
    let toolchain = toolchain.split_once("rust_toolchain=").unwrap().1.split_whitespace().next();
    let pinned = read("ci/blobs.pins");
    let pinned = pinned.split_once("/dist/rust-1").unwrap().1;
    let pinned = format!("1{}", pinned.split_once("-x86_64").unwrap().0);
    assert_eq!(toolchain, Some(pinned.as_str()));
    let wanted = semver::Version::parse(&format!("{}.0", env!("CARGO_PKG_RUST_VERSION"))).unwrap();
    assert!(semver::Version::parse(&pinned).unwrap() >= wanted, "{pinned} is older than {wanted}");
}

#[test]
fn all_of_src_is_in_the_package_of_the_broker() {
    let packed: BTreeSet<PathBuf> =
        specs()["docker-broker"].files.iter().flat_map(|glob| matches("src", glob)).collect();
    assert_eq!(matches("src", "**/*"), packed);
    // What the package has beside it comes out of the crates' tarball.
    assert_eq!(read("Cargo.lock"), fs::read_to_string(compiled_lock()).unwrap());
}

fn compiled_lock() -> PathBuf {
    compiled().join("docker-broker-crates/Cargo.lock")
}

// ---- crates --------------------------------------------------------------------------------------

#[test]
fn packing_the_crates_again_gives_the_same_bytes() {
    let again = TempDir::new().unwrap();
    let (code, said) = ci("vendor", &["--into", again.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let blob = fs::read(root().join("blobs").join(CRATES)).unwrap();
    assert!(
        blob == fs::read(again.path().join("docker-broker-crates.tgz")).unwrap(),
        "two tarballs of the same Cargo.lock differ"
    );
}

#[test]
fn crates_of_other_platforms_are_empty_and_those_of_a_stemcell_are_whole() {
    let crates = compiled().join("docker-broker-crates/crates");
    let source = |name: &str| {
        let found = glob::glob(&format!("{}/{name}-[0-9]*/src/lib.rs", crates.display())).unwrap();
        found.map(|path| fs::metadata(path.unwrap()).unwrap().len()).max()
    };
    assert_eq!(source("windows-sys"), Some(0));
    assert!(source("tokio") > Some(0));
    let locked = read("Cargo.lock").matches("\nsource = ").count();
    assert_eq!(fs::read_dir(&crates).unwrap().count(), locked, "cargo resolves with all of them");
}

// ---- compiling -----------------------------------------------------------------------------------

#[test]
fn a_package_without_its_blob_does_not_compile_and_says_how_to_get_it() {
    let release = release_with_a_docker_of(&[]);
    let output = TempDir::new().unwrap();
    let paths = [release.path().to_str().unwrap(), output.path().to_str().unwrap()];
    let (code, said) = ci("compile-packages", &["--release", paths[0], paths[1]]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("package docker: missing files for pattern 'docker/docker.tgz'"),
        "{said}"
    );
    assert!(said.contains("ci/blobs"), "{said}");
}

#[test]
fn a_bundle_that_lacks_a_program_does_not_compile() {
    let release = release_with_a_docker_of(&["dockerd"]);
    let output = TempDir::new().unwrap();
    let paths = [release.path().to_str().unwrap(), output.path().to_str().unwrap()];
    let (code, said) = ci("compile-packages", &["--release", paths[0], paths[1]]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("docker/docker.tgz has no docker/"), "{said}");
    assert!(!output.path().join("docker").exists(), "there is a package although it failed");
}

#[test]
fn the_compiled_broker_knows_its_version_and_the_shipped_services() {
    let program = "/var/vcap/packages/docker-broker/bin/docker-broker";
    let (code, said) =
        in_stemcell(&format!("{program} version; {program} check-config --services /services"));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(concat!("docker-broker ", env!("CARGO_PKG_VERSION"))), "{said}");
}

#[test]
fn the_compiled_broker_serves_its_catalog() {
    let (code, said) = in_stemcell(
        "/var/vcap/packages/docker-broker/bin/docker-broker serve --services /services \
           --docker-url unix:///none.sock > log 2>&1 & broker=$!
         curl -sS --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:8080/healthz
         curl -sS --fail -u \"broker:$(cat docker-broker-data/broker-password)\" \
           -H 'X-Broker-API-Version: 2.17' http://127.0.0.1:8080/v2/catalog
         kill -TERM $broker
         wait $broker",
    );
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("\"redis7\""), "{said}");
}

#[test]
fn every_program_of_docker_finds_its_libraries_on_a_stemcell() {
    let (code, said) = in_stemcell(
        "cd /var/vcap/packages/docker/bin
         for program in containerd containerd-shim-runc-v2 ctr docker docker-init docker-proxy dockerd runc; do
           if ldd $program 2> /dev/null | grep 'not found'; then echo \"needed by $program\"; exit 1; fi
         done
         for program in containerd ctr docker dockerd docker-init runc; do ./$program --version; done",
    );
    assert_eq!(code, 0, "{said}");
}

// ---- the release ---------------------------------------------------------------------------------

#[test]
fn without_a_bosh_cli_create_release_says_where_to_get_one() {
    let (code, said) = ci("create-release", &["--bosh", "/nonexistent/bosh"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("https://bosh.io/docs/cli-v2-install/"), "{said}");
}

#[test]
fn create_release_gives_the_cli_absolute_paths() {
    let directory = TempDir::new().unwrap();
    let cli = directory.path().join("bosh");
    fs::write(&cli, "#!/bin/sh\necho \"asked: $*\"\n").unwrap();
    let (code, said) = run(Command::new("chmod").arg("+x").arg(&cli));
    assert_eq!(code, 0, "{said}");
    let (code, said) = run(Command::new(root().join("ci/create-release"))
        .current_dir(directory.path())
        .args(["--tarball", "release.tgz", "--bosh", cli.to_str().unwrap()]));
    assert_eq!(code, 0, "{said}");
    let asked = format!(
        "asked: --non-interactive create-release --force --dir {} --tarball {}/release.tgz",
        root().display(),
        fs::canonicalize(directory.path()).unwrap().display()
    );
    assert!(said.contains(&asked), "{said}");
}
