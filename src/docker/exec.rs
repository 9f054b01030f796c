//! Running a program in a container that runs.

use std::time::Duration;

use bollard::{
    container::LogOutput,
    errors::Error,
    exec::{CreateExecOptions, StartExecResults},
    query_parameters::ContainerArchiveInfoOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::{
    DockerError, Engine,
    engine::QUICK,
    error::{not_running, status},
};

/// Most that is kept of what a program says about its failure: the end of it.
const STDERR_BYTES: usize = 64 << 10;
/// How often dockerd is asked for the exit code of a program that has closed its output.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long that may take.
const EXIT: Duration = Duration::from_secs(10);
/// How long ending what a program has left may take.
const KILL: Duration = Duration::from_secs(10);

/// Kills every process whose environment holds the text of the first argument, and what is in
/// their process groups; asks again until there is none. Environments of another user's
/// processes cannot be read.
const KILL_MARKED: &str = r#"
for round in 1 2 3 4 5; do
  found=
  for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    [ "$pid" = "$$" ] && continue
    case "$(cat "$process/environ" 2>/dev/null)" in
      *"$1"*) found=1; kill -9 -- "-$pid" 2>/dev/null; kill -9 "$pid" 2>/dev/null ;;
    esac
  done
  [ -z "$found" ] && exit 0
done
exit 1
"#;

/// A program to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// Name of the container.
    pub container: &'a str,
    /// Program and arguments: no secrets, because everybody on the machine sees them.
    pub command: &'a [String],
    /// `NAME=value` besides the container's own environment.
    pub environment: &'a [String],
    /// User in the container; `None`: the container's.
    pub user: Option<&'a str>,
    /// What it reads.
    pub stdin: &'a [u8],
    /// How long it may take.
    pub limit: Duration,
    /// How much it may print.
    pub max_stdout_bytes: usize,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i64,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// The end of what it said about failures.
    pub stderr: Vec<u8>,
}

/// What became of a program.
#[derive(Debug)]
pub enum Ran {
    /// It ended.
    Ended(Ended),
    /// It took too long; it may still run.
    TimedOut,
    /// It printed too much; it may still run.
    TooMuch,
}

impl Engine {
    /// Runs a program with something to read, and returns what it printed, each stream apart.
    ///
    /// Docker cannot end such a program: whoever stops waiting calls [`Engine::kill_marked`].
    ///
    /// # Errors
    /// [`DockerError::NotRunning`]; any other [`DockerError`].
    pub async fn run(&self, program: &Program<'_>) -> Result<Ran, DockerError> {
        let object = format!("container {}", program.container);
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(program.command.to_vec()),
            env: Some(program.environment.to_vec()),
            user: program.user.map(str::to_owned),
            ..CreateExecOptions::default()
        };
        let create =
            async |docker: &bollard::Docker| docker.create_exec(program.container, options).await;
        let id = match self.call("run a program in", &object, QUICK, create).await {
            Err(DockerError::Refused { object, source, .. }) if not_running(&source) => {
                return Err(DockerError::NotRunning { object });
            }
            created => created?.id,
        };
        let docker = self.client().await?;
        let failed =
            |error| DockerError::new(&self.options.url, "run a program in", &object, error);
        match timeout(program.limit, attend(docker, &id, program)).await {
            Err(_) => Ok(Ran::TimedOut),
            Ok(Err(error)) if not_running(&error) => Err(DockerError::NotRunning { object }),
            Ok(Err(error)) => Err(failed(error)),
            Ok(Ok(None)) => Ok(Ran::TooMuch),
            Ok(Ok(Some((stdout, stderr)))) => match timeout(EXIT, exit_code(docker, &id)).await {
                // dockerd forgets what ran in a container that has ended.
                Ok(Err(error)) if not_running(&error) => Err(DockerError::NotRunning { object }),
                Ok(code) => Ok(Ran::Ended(Ended { code: code.map_err(failed)?, stdout, stderr })),
                // Its output is closed, but it runs.
                Err(_) => Ok(Ran::TimedOut),
            },
        }
    }

    /// Ends all processes in a container whose environment has `NAME=value`, as far as `user` may;
    /// whether none is left.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn kill_marked(
        &self,
        container: &str,
        user: Option<&str>,
        mark: &str,
    ) -> Result<bool, DockerError> {
        let command = ["/bin/sh", "-c", KILL_MARKED, "sh", mark].map(str::to_owned);
        let program = Program {
            container,
            command: &command,
            environment: &[],
            user,
            stdin: &[],
            limit: KILL,
            max_stdout_bytes: STDERR_BYTES,
        };
        let ran = self.run(&program).await?;
        Ok(matches!(ran, Ran::Ended(Ended { code: 0, .. })))
    }

    /// Whether a container has a file of this path. It need not run.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn has_file(&self, container: &str, path: &str) -> Result<bool, DockerError> {
        let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
        let request = async |docker: &bollard::Docker| match docker
            .get_container_archive_info(container, Some(options))
            .await
        {
            Err(error) if status(&error) == Some(404) => Ok(false),
            other => other.map(|_| true),
        };
        let object = format!("container {container}");
        let found = self.call("look into", &object, QUICK, request).await?;
        // dockerd says the same of a container that is missing.
        if !found && self.inspect(container).await?.is_none() {
            return Err(DockerError::NotRunning { object });
        }
        Ok(found)
    }
}

/// Feeds a program and reads it to its end; `None` when it prints too much.
async fn attend(
    docker: &bollard::Docker,
    id: &str,
    program: &Program<'_>,
) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let StartExecResults::Attached { mut output, mut input } = docker.start_exec(id, None).await?
    else {
        return Ok(Some((stdout, stderr)));
    };
    // A program need not read what it is given, nor read it before it prints.
    let feed = async {
        if input.write_all(program.stdin).await.is_ok() {
            drop(input.shutdown().await);
        }
        std::future::pending::<()>().await;
    };
    let read = async {
        while let Some(chunk) = output.next().await {
            match chunk? {
                LogOutput::StdErr { message } => {
                    stderr.extend_from_slice(&message);
                    drop_surplus(&mut stderr);
                }
                other => {
                    stdout.extend_from_slice(&other.into_bytes());
                    if stdout.len() > program.max_stdout_bytes {
                        return Ok(false);
                    }
                }
            }
        }
        Ok::<bool, Error>(true)
    };
    let whole = tokio::select! {
        whole = read => whole?,
        () = feed => false,
    };
    Ok(whole.then_some((stdout, stderr)))
}

/// Keeps whole lines: half a secret could not be recognised as one.
fn drop_surplus(text: &mut Vec<u8>) {
    let surplus = text.len().saturating_sub(STDERR_BYTES);
    if surplus > 0 {
        let end_of_line = text[surplus..].iter().position(|byte| *byte == b'\n');
        text.drain(..end_of_line.map_or(text.len(), |end| surplus + end + 1));
    }
}

/// dockerd closes the output a moment before it knows the exit code.
async fn exit_code(docker: &bollard::Docker, id: &str) -> Result<i64, Error> {
    loop {
        let found = docker.inspect_exec(id).await?;
        if let (Some(false), Some(code)) = (found.running, found.exit_code) {
            return Ok(code);
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_long_complaint_begins_with_a_whole_line() {
        let mut text = b"secret".repeat(STDERR_BYTES / 6 + 1);
        text.extend_from_slice(b"secret\nlast line");
        drop_surplus(&mut text);
        assert_eq!(text, b"last line");
        let mut endless = vec![b'x'; STDERR_BYTES + 1];
        drop_surplus(&mut endless);
        assert_eq!(endless, b"");
        let mut short = b"short".to_vec();
        drop_surplus(&mut short);
        assert_eq!(short, b"short");
    }
}
