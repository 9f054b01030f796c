//! Running a plan's hooks in an instance's container.
//!
//! Docker cannot end what it runs for others. So every process of a hook has a mark in its
//! environment (`OSB_MARK`), and whoever stops waiting for one ends all that have it: the task
//! that ran out of time or was halted, or the next attempt after the broker died.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};

use super::{
    Broker,
    data_version::INTERRUPTED,
    error::{Failure, InternalError},
    hook_input::HookInput,
    host_upgrade::HostChange,
    instance::Instance,
    retry::{FIRST_PAUSE, LONGEST_PAUSE, pause_for},
    tenancy::is_host,
    work::Context,
};
use crate::{
    catalog::{Action, Hook, Script},
    credentials::{Tokens, redact},
    docker::{DockerError, Ended, Program, Ran},
};

/// Most that a hook may print.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// The contract: not ready yet, try again.
const NOT_READY: i64 = 10;
/// The contract: the parameters are no good.
const BAD_PARAMETERS: i64 = 20;
/// Of a program that was killed: its container has ended under it, or the memory did.
const KILLED: i64 = 128 + 9;

/// What a hook did.
#[derive(Debug)]
pub(super) enum Hooked {
    /// The plan has none, or the image lacks it.
    Absent,
    /// It succeeded, and printed an object or nothing.
    Done(Option<Map<String, Value>>),
}

/// How one attempt ended.
enum Attempt {
    Done(Hooked),
    /// It said that it is not ready.
    NotReady,
    /// It was not begun: a copy of the data may come in its place at any moment.
    GoingBack,
    /// Its container does not run, or has ended under it.
    NotRunning,
    /// By SIGKILL. A service that was not ready may have been started again meanwhile.
    Killed,
    /// dockerd went away; it may have begun what it was asked for.
    Unreachable,
}

impl Attempt {
    /// Whether it may have done a part of its work.
    fn is_cut_off(&self) -> bool {
        matches!(self, Self::NotRunning | Self::Killed | Self::Unreachable)
    }
}

/// Whose turn it is in each container.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for a turn; whoever asked first is first.
    async fn take(&self, container: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(container.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

impl Broker {
    /// Runs a hook to its end, again while it says that it is not ready or its container does not
    /// run, and at most for its time. A migration is run again only if it says so itself.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] when it was halted; nothing of it runs then.
    pub(super) async fn run_hook(
        &self,
        hook: &Hook,
        input: &HookInput<'_>,
        context: &Context,
    ) -> Result<Hooked, Failure> {
        self.run_hook_in(&self.container_of(input.instance), hook, input, context).await
    }

    /// Likewise in a container of another name.
    ///
    /// # Errors
    /// As [`Broker::run_hook`].
    pub(super) async fn run_hook_in(
        &self,
        container: &str,
        hook: &Hook,
        input: &HookInput<'_>,
        context: &Context,
    ) -> Result<Hooked, Failure> {
        // Whether something of this operation may still run in the container.
        let mut unsure = context.resumed;
        let ended = self.run_in_turn(container, hook, input, context, &mut unsure).await;
        if ended.is_err() && unsure {
            self.end_hook(container, input).await;
        }
        ended
    }

    async fn run_in_turn(
        &self,
        container: &str,
        hook: &Hook,
        input: &HookInput<'_>,
        context: &Context,
        unsure: &mut bool,
    ) -> Result<Hooked, Failure> {
        let mut end = None;
        let mut pause = FIRST_PAUSE;
        let mut again = false;
        loop {
            let waited = {
                let turn = tokio::select! {
                    () = context.cancel.cancelled() => return Err(Failure::Interrupted),
                    late = context.ended() => return Err(late),
                    turn = self.turns.take(container) => turn,
                };
                let change = self.find_host_change(input.instance).await?;
                if let Some(HostChange::Upgrade(upgrade)) = change {
                    drop(turn);
                    self.wait_for_host(&upgrade, context).await?;
                    end = None;
                    continue;
                }
                // Waiting for a turn is not the hook's time.
                let end = *end.get_or_insert_with(|| Instant::now() + hook.timeout);
                if std::mem::take(unsure) {
                    self.end_hook(container, input).await;
                }
                let attempt = match change {
                    Some(HostChange::WayBack) => Attempt::GoingBack,
                    _ => self.attempt(container, hook, input, end, context).await?,
                };
                if input.action == Action::Migrate && attempt.is_cut_off() {
                    // What it had begun is half done: only the copy leads out of that.
                    return Err(Failure::because(INTERRUPTED));
                }
                match attempt {
                    Attempt::Done(hooked) => return Ok(hooked),
                    Attempt::Killed if again => {
                        "the hook was killed, or its container ended".to_owned()
                    }
                    Attempt::Killed => return Err(failed(input, "failed with exit code 137")),
                    Attempt::NotReady => {
                        format!("the {} hook was not ready", input.action.as_str())
                    }
                    Attempt::GoingBack => {
                        "the shared container has yet to go back to what it was before an upgrade"
                            .to_owned()
                    }
                    Attempt::NotRunning => {
                        "the container of the service instance does not run".to_owned()
                    }
                    Attempt::Unreachable => {
                        *unsure = true;
                        "the Docker engine does not answer".to_owned()
                    }
                }
            };
            let late = end.is_some_and(|end| Instant::now() + pause >= end);
            if late {
                return Err(Failure::because(format!(
                    "{waited}, for {} s",
                    hook.timeout.as_secs_f64()
                )));
            }
            tracing::info!(
                operation.id = input.operation_id,
                instance.id = input.instance.row.id,
                retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                reason = waited,
                "a hook is run again"
            );
            pause_for(&context.cancel, pause).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
            again = true;
        }
    }

    /// Waits for the end of the hooks that run in a container now.
    pub(super) async fn let_hooks_end(
        &self,
        container: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        tokio::select! {
            () = context.cancel.cancelled() => Err(Failure::Interrupted),
            _turn = self.turns.take(container) => Ok(()),
        }
    }

    /// Runs the hook of an action on an instance itself.
    pub(super) async fn run_own_hook(
        &self,
        action: Action,
        instance: &Instance,
        operation_id: &str,
        context: &Context,
    ) -> Result<Hooked, Failure> {
        // What is being made or changed has its plan already; it may not be the catalog's yet.
        let plan = match action {
            Action::Deprovision => self.hooking_plan(instance, action),
            _ => &instance.definition.plan,
        };
        // Those of a shared container's plan are its tenants'.
        if action == Action::Update && is_host(&instance.row.id) {
            return Ok(Hooked::Absent);
        }
        let Some(hook) = plan.lifecycle.hook(action) else { return Ok(Hooked::Absent) };
        context.step("running the hook of the plan");
        let host = &self.limits.external_host;
        let input =
            HookInput { action, instance, plan, host, operation_id, binding: None, versions: None };
        self.run_hook(hook, &input, context).await
    }

    /// The dashboard that a provision hook names: a field of that name, with its tokens replaced.
    pub(super) fn dashboard_url(
        &self,
        instance: &Instance,
        printed: &Map<String, Value>,
    ) -> Option<String> {
        let shape = &instance.definition.plan.credentials;
        let tokens = Tokens::new(shape, &self.limits.external_host, &instance.ports);
        match tokens.render(printed.get("dashboard_url")?) {
            Value::String(url) => Some(url),
            _ => None,
        }
    }

    async fn attempt(
        &self,
        container: &str,
        hook: &Hook,
        input: &HookInput<'_>,
        end: Instant,
        context: &Context,
    ) -> Result<Attempt, Failure> {
        let remaining = end.saturating_duration_since(Instant::now());
        let user = input.plan.lifecycle.user.as_deref();
        let (command, environment, stdin) =
            (command(hook, input), input.environment(), input.document());
        let program = Program {
            container,
            command: &command,
            environment: &environment,
            user,
            stdin: stdin.as_bytes(),
            limit: remaining,
            max_stdout_bytes: MAX_OUTPUT_BYTES,
        };
        let run = async {
            if let Script::Optional(path) = &hook.script
                && !self.docker.has_file(container, path).await?
            {
                return Ok(None);
            }
            self.docker.run(&program).await.map(Some)
        };
        let ran = tokio::select! {
            () = context.cancel.cancelled() => Err(Failure::Interrupted),
            late = context.ended() => Err(late),
            ran = timeout_at(end, run) => Ok(ran.unwrap_or(Ok(Some(Ran::TimedOut)))),
        };
        let ran = match ran {
            Ok(ran) => ran,
            Err(failure) => {
                self.end_hook(container, input).await;
                return Err(failure);
            }
        };
        let failed = |why: String| Err(failed(input, &why));
        match ran {
            Ok(None) => Ok(Attempt::Done(Hooked::Absent)),
            Ok(Some(Ran::Ended(ended))) => judge(&ended, input),
            Ok(Some(Ran::TimedOut)) => {
                self.end_hook(container, input).await;
                failed(format!("did not end within {} s", hook.timeout.as_secs_f64()))
            }
            Ok(Some(Ran::TooMuch)) => {
                self.end_hook(container, input).await;
                failed(format!("printed more than {MAX_OUTPUT_BYTES} bytes"))
            }
            Err(DockerError::NotRunning { .. }) => Ok(Attempt::NotRunning),
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    operation.id = input.operation_id,
                    error = %crate::telemetry::Chain(&error),
                    "a hook could not be run"
                );
                Ok(Attempt::Unreachable)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends whatever still runs of this operation's hook, and says so if that cannot be done.
    async fn end_hook(&self, container: &str, input: &HookInput<'_>) {
        let (mark, user) = (input.mark(), input.plan.lifecycle.user.as_deref());
        let ended = match self.docker.kill_marked(container, user, &mark).await {
            // What does not run has no processes.
            Ok(true) | Err(DockerError::NotRunning { .. }) => return,
            Ok(false) => "its processes could not be found or ended".to_owned(),
            Err(error) => crate::telemetry::Chain(&error).to_string(),
        };
        tracing::warn!(
            operation.id = input.operation_id,
            instance.id = input.instance.row.id,
            hook = input.action.as_str(),
            error = ended,
            "a hook that was given up may still run"
        );
    }
}

/// The contract: no arguments but the dashboard's URL for `/unbind`.
fn command(hook: &Hook, input: &HookInput<'_>) -> Vec<String> {
    match &hook.script {
        Script::Text(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
        Script::Path(path) | Script::Optional(path) => {
            std::iter::once(path.clone()).chain(input.argument().map(str::to_owned)).collect()
        }
    }
}

fn failed(input: &HookInput<'_>, why: &str) -> Failure {
    Failure::because(format!("the {} hook {why}", input.action.as_str()))
}

/// What the end of a hook means.
fn judge(ended: &Ended, input: &HookInput<'_>) -> Result<Attempt, Failure> {
    let action = input.action.as_str();
    let said = redact(&String::from_utf8_lossy(&ended.stderr), input.secrets());
    let said = said.trim();
    if !said.is_empty() {
        tracing::info!(
            operation.id = input.operation_id,
            instance.id = input.instance.row.id,
            hook = action,
            exit_code = ended.code,
            output = said,
            "a hook said"
        );
    }
    let failed = |why: String| Err(failed(input, &why));
    match ended.code {
        0 => match parse(&ended.stdout) {
            Ok(object) => Ok(Attempt::Done(Hooked::Done(object))),
            Err(why) => failed(why),
        },
        NOT_READY => Ok(Attempt::NotReady),
        BAD_PARAMETERS => {
            let line = said.lines().next_back().unwrap_or("the service refuses these parameters");
            Err(Failure::Failed {
                public: line.to_owned(),
                cause: Some(InternalError::HookRefused),
            })
        }
        code @ (126 | 127) => {
            // Then the words are dockerd's, not the hook's.
            let words = String::from_utf8_lossy(&ended.stdout);
            let words = words.trim();
            if words.starts_with("OCI runtime") || words.starts_with("unable to find user") {
                tracing::warn!(operation.id = input.operation_id, error = words, "no hook was run");
            }
            failed(if code == 126 {
                "could not be run: it is missing in the container or not executable, or its user \
                 does not exist (exit code 126)"
                    .to_owned()
            } else {
                "is missing, or calls a program that is (exit code 127)".to_owned()
            })
        }
        KILLED => Ok(Attempt::Killed),
        code => failed(format!("failed with exit code {code}")),
    }
}

/// What a hook printed: nothing, or one object. What is wrong with it is said without showing it.
fn parse(stdout: &[u8]) -> Result<Option<Map<String, Value>>, String> {
    if stdout.trim_ascii().is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice(stdout) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        _ => Err("printed something that is no JSON object".to_owned()),
    }
}
