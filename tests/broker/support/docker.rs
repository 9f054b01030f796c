//! The docker command line, for looking at what the broker made.

use std::process::{Command, Output};

/// Runs `docker ARGS`.
pub(crate) fn docker(args: &[&str]) -> Output {
    Command::new("docker").args(args).output().expect("the docker command line is installed")
}

/// Runs `docker ARGS`, which must succeed; its trimmed output.
pub(crate) fn docker_ok(args: &[&str]) -> String {
    let output = docker(args);
    assert!(
        output.status.success(),
        "docker {args:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Runs a client program of an image on the host's network, as an application would: exit status
/// and everything that it printed. `environment` is for passwords.
pub(crate) fn in_image(
    image: &str,
    environment: &[(&str, &str)],
    command: &[&str],
) -> (bool, String) {
    let output = client_in(image, environment, command, &[]).output();
    let output = output.expect("the docker command line is installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

/// The command that runs a client program of an image on the host's network. Values of the
/// environment are in no argument list, where everybody on the machine could read them.
pub(super) fn client_in(
    image: &str,
    environment: &[(&str, &str)],
    command: &[&str],
    options: &[&str],
) -> Command {
    let mut docker = Command::new("docker");
    docker.args(["run", "--rm", "--network", "host"]).args(options);
    for (name, value) in environment {
        docker.args(["--env", name]).env(name, value);
    }
    docker.args(["--entrypoint", command[0], image]).args(&command[1..]);
    docker
}

/// Removes all containers and networks of a broker. Looks again, because a request of a killed
/// broker may still be carried out.
pub(crate) fn remove_labelled(owner: &str) {
    const PASSES: usize = 5;
    let filter = format!("label=io.docker-broker.owner={owner}");
    let list = |args: &[&str]| -> Vec<String> {
        let output = docker(&[args, &["-q", "--filter", &filter]].concat());
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    };
    let remove = |args: &[&str], ids: &[String]| {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        docker(&[args, &ids].concat())
    };
    for _ in 0..PASSES {
        let (containers, networks) = (list(&["ps", "-a"]), list(&["network", "ls"]));
        if containers.is_empty() && networks.is_empty() {
            return;
        }
        if !containers.is_empty() {
            remove(&["rm", "-f", "-v"], &containers);
        }
        if !networks.is_empty() {
            remove(&["network", "rm"], &networks);
        }
    }
    println!("something of broker {owner} is left in Docker");
}
