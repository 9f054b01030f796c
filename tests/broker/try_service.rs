//! `docker-broker try`: a broker that is there for one test, and then nothing of it is left.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::{
    busybox_service, docker_broker, docker_ok, eventually, redis_yaml, reserve_ports, service_file,
    switch_yaml,
};

/// How it ended.
struct Tried {
    code: Option<i32>,
    text: String,
    /// Name of its broker.
    name: String,
    data: PathBuf,
}

fn command(files: &[&Path], ports: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_docker-broker"));
    command
        .arg("try")
        .args(files)
        .args(["--host-ports", ports, "--log-level", "info"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The log says what the broker is called and where it keeps its data.
fn ended(output: &std::process::Output) -> Tried {
    let log = String::from_utf8_lossy(&output.stderr);
    let start = log.lines().find(|line| line.contains("docker-broker starts"));
    let field = |name: &str| {
        let (_, rest) = start?.split_once(&format!(" {name}="))?;
        Some(rest.split(' ').next()?.trim_matches('"').to_owned())
    };
    let text = format!("{}{log}", String::from_utf8_lossy(&output.stdout));
    let found = |name| field(name).unwrap_or_else(|| panic!("no {name} in {text}"));
    let (name, data) = (found("name"), found("data_directory").into());
    Tried { code: output.status.code(), text, name, data }
}

async fn tried(files: &[&Path]) -> Tried {
    let (first, _ports) = reserve_ports();
    let mut command = command(files, &format!("{first}-{}", first + 99));
    let output = tokio::task::spawn_blocking(move || command.output());
    ended(&output.await.expect("it ends").expect("the command can be started"))
}

fn owned(kind: &[&str], name: &str) -> String {
    let filter = format!("label=io.docker-broker.owner={name}");
    docker_ok(&[kind, &["--filter", &filter]].concat())
}

fn nothing_is_left(tried: &Tried) {
    assert_eq!(owned(&["ps", "-aq"], &tried.name), "", "{}", tried.text);
    assert_eq!(owned(&["network", "ls", "-q"], &tried.name), "", "{}", tried.text);
    assert!(!tried.data.exists(), "{} is left", tried.data.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_of_redis_and_postgres_pass_as_they_are_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let files = ["redis:7", "postgres:17"].map(|image| {
        let file = directory.path().join(format!("{}.yml", image.replace(':', "-")));
        let made = docker_broker(&["new-service", image, "--output", file.to_str().unwrap()]);
        assert_eq!(made.code, Some(0), "{made:?}");
        file
    });
    let tried = tried(&[&files[0], &files[1]]).await;
    assert_eq!(tried.code, Some(0), "{}", tried.text);
    for words in ["postgres17  small  ok", "client command", "redis7      small  ok", "protocol on"]
    {
        assert!(tried.text.contains(words), "{words}: {}", tried.text);
    }
    assert!(tried.text.contains("2 plans tested; all of them work"), "{}", tried.text);
    nothing_is_left(&tried);
}

#[tokio::test(flavor = "multi_thread")]
async fn shipped_files_can_be_tried_by_plan() {
    let (first, _ports) = reserve_ports();
    let file = service_file("op-memcached16.yml");
    let mut command = command(&[&file], &format!("{first}-{}", first + 99));
    command.args(["--only", "memcached16/small"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let tried = ended(&output.unwrap());
    assert_eq!(tried.code, Some(0), "{}", tried.text);
    assert!(tried.text.contains("1 plans tested; all of them work"), "{}", tried.text);
    nothing_is_left(&tried);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_work_is_said_with_the_words_of_its_container() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let container = "      expose_ports: [8080/tcp]\n      restart: 'no'\n";
    fs::write(file.path(), busybox_service("echo out of luck; exit 7", container)).unwrap();
    let tried = tried(&[file.path()]).await;
    assert_eq!(tried.code, Some(1), "{}", tried.text);
    for words in ["busybox-for-tests  plan  FAILED", "exit code 7", "out of luck"] {
        assert!(tried.text.contains(words), "{words}: {}", tried.text);
    }
    nothing_is_left(&tried);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_try_removes_what_it_made() {
    let silent = "    sanity_test: {parameters: {mode: silent}}\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), switch_yaml("300s", silent)).unwrap();
    let (first, _ports) = reserve_ports();
    let mut child = command(&[file.path()], &format!("{first}-{}", first + 99)).spawn().unwrap();
    let name = broker_name(&mut child).await;
    eventually("the container to run", async || {
        let names = owned(&["ps", "-q"], &name);
        if names.is_empty() { Err("there is none".to_owned()) } else { Ok(()) }
    })
    .await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("interrupted by SIGINT; what was made for the test is removed"),
        "{text}"
    );
    assert_eq!(owned(&["ps", "-aq"], &name), "", "{text}");
    assert_eq!(owned(&["network", "ls", "-q"], &name), "", "{text}");
}

/// Reads the log up to the line that has the name of the broker.
async fn broker_name(child: &mut Child) -> String {
    let mut log = child.stderr.take().expect("its log is piped");
    let (name, log) = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        let mut byte = [0];
        while log.read(&mut byte).expect("the log can be read") == 1 {
            text.push(byte[0]);
            let line = String::from_utf8_lossy(&text);
            if byte[0] == b'\n'
                && let Some((_, rest)) = line.split_once(" name=\"")
                && let Some((name, _)) = rest.split_once('"')
            {
                return (name.to_owned(), log);
            }
        }
        panic!("no name in {}", String::from_utf8_lossy(&text))
    })
    .await
    .expect("the log has a name");
    child.stderr = Some(log);
    name
}

#[test]
fn what_cannot_be_tried_is_one_sentence() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), redis_yaml("")).unwrap();
    let path = file.path().to_str().unwrap();
    let gone = docker_broker(&["try", path, "--docker-url", "unix:///nonexistent/docker.sock"]);
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.stderr.contains("services are tried on a Docker engine: "), "{gone:?}");
    let unknown = docker_broker(&["try", path, "--only", "nobody"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("no service or plan \"nobody\""), "{unknown:?}");
    fs::write(file.path(), "services: [{name: x}]").unwrap();
    let wrong = docker_broker(&["try", path]);
    assert_eq!(wrong.code, Some(78), "{wrong:?}");
    fs::write(file.path(), "services: []").unwrap();
    let empty = docker_broker(&["try", path]);
    assert_eq!(empty.code, Some(1), "{empty:?}");
    assert!(empty.stderr.contains("there is no service in these files"), "{empty:?}");
    // Wrong usage.
    assert_eq!(docker_broker(&["try"]).code, Some(2));
    assert_eq!(docker_broker(&["try", path, "--host-ports", "9-1"]).code, Some(2));
}
