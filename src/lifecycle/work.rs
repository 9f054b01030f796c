//! Tasks that run accepted operations.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Accepted, Broker, Refusal,
    error::{Failure, InternalError},
    retry::{FIRST_PAUSE, LONGEST_PAUSE, pause_for},
};
use crate::{
    catalog::Plan,
    store::{OperationRow, RowError, Rows},
    telemetry::Chain,
};

/// An operation that a task works on.
#[derive(Debug, Clone)]
struct Work {
    /// Empty for work that nobody asked for: bringing an instance back after a start.
    operation_id: String,
    cancel: CancellationToken,
    done: watch::Receiver<bool>,
    step: Arc<Mutex<&'static str>>,
}

/// What a task works on: an instance, or a binding of one.
type Key = (String, Option<String>);

fn key(operation: &OperationRow) -> Key {
    (operation.instance_id.clone(), operation.binding_id.clone())
}

/// All of them, by what they work on.
#[derive(Debug, Default)]
pub(super) struct Works {
    by_key: Mutex<HashMap<Key, Work>>,
    /// Counts operations that ended; whoever waits for one looks again when it changes.
    ended: watch::Sender<u64>,
}

/// What a task that runs an operation is given.
#[derive(Debug, Clone)]
pub(super) struct Context {
    /// Cancelled when the broker stops or a deletion overtakes the operation.
    pub(super) cancel: CancellationToken,
    /// Until when dockerd may be unreachable.
    pub(super) deadline: Instant,
    /// When the platform stops polling, if the plan says so.
    pub(super) end: Option<Instant>,
    /// An earlier broker had begun it: something of it may still run.
    pub(super) resumed: bool,
    step: Arc<Mutex<&'static str>>,
}

impl Context {
    /// A context for work that belongs to no operation.
    pub(super) fn unattended(cancel: CancellationToken, deadline: Instant) -> Self {
        Self { cancel, deadline, end: None, resumed: false, step: Arc::default() }
    }

    /// The same with its full time again, for taking back what ran out of it.
    pub(super) fn renewed(&self, limit: Duration) -> Self {
        Self { deadline: Instant::now() + limit, end: None, ..self.clone() }
    }

    /// The same for an operation on this plan, which has to end while the platform still polls
    /// (OSB, `maximum_polling_duration`): some of the time is kept for taking it back.
    pub(super) fn for_plan(&self, plan: &Plan) -> Self {
        let polled = plan.maximum_polling_duration_seconds.map(Duration::from_secs);
        Self { end: polled.map(|polled| Instant::now() + polled * 4 / 5), ..self.clone() }
    }

    /// Returns when the platform is about to stop polling; never, if it does not.
    pub(super) async fn ended(&self) -> Failure {
        match self.end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
        Failure::because("it took longer than the plan's maximum_polling_duration allows")
    }

    /// Tells whoever polls what is being done.
    pub(super) fn step(&self, text: &'static str) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

impl Works {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Work>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the operation is doing now.
    pub(super) fn step_of(&self, operation: &OperationRow) -> Option<&'static str> {
        let works = self.lock();
        let work = works.get(&key(operation))?;
        let step = *work.step.lock().unwrap_or_else(PoisonError::into_inner);
        (work.operation_id == operation.id && !step.is_empty()).then_some(step)
    }

    /// Takes hold of an instance, or of a binding, that no task works on, for work that nobody
    /// asked for. An operation that comes meanwhile cancels it, and waits for its end.
    pub(super) fn hold(
        self: &Arc<Self>,
        instance_id: &str,
        binding_id: Option<&str>,
        cancel: CancellationToken,
    ) -> Option<Hold> {
        let key = (instance_id.to_owned(), binding_id.map(str::to_owned));
        let mut works = self.lock();
        if works.contains_key(&key) {
            return None;
        }
        let (done, on_done) = watch::channel(false);
        let work =
            Work { operation_id: String::new(), cancel, done: on_done, step: Arc::default() };
        works.insert(key.clone(), work);
        Some(Hold { works: Arc::clone(self), key, done })
    }

    /// Whether a task works on an instance.
    pub(super) fn is_held(&self, instance_id: &str) -> bool {
        self.lock().contains_key(&(instance_id.to_owned(), None))
    }

    fn end(&self, key: &Key, operation_id: &str) {
        let mut works = self.lock();
        if works.get(key).is_some_and(|work| work.operation_id == operation_id) {
            works.remove(key);
        }
    }

    /// Asks the task of an operation that `overtaking` has ended to stop after its present step.
    pub(super) fn halt(&self, overtaking: &OperationRow, operation_id: &str) {
        if let Some(work) = self.lock().get(&key(overtaking))
            && work.operation_id == operation_id
        {
            work.cancel.cancel();
        }
    }
}

/// An instance or binding in the hands of work that nobody asked for, until it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    works: Arc<Works>,
    key: Key,
    done: watch::Sender<bool>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.works.end(&self.key, "");
        self.done.send_replace(true);
    }
}

impl Broker {
    /// Starts the task of an accepted operation. It begins when an earlier one on the same
    /// instance or binding has ended, and one on an instance when those on its bindings have. It
    /// ends at once if the operation is not in progress any more.
    pub(super) fn launch(self: &Arc<Self>, operation: OperationRow) {
        self.launch_as(operation, false);
    }

    /// Likewise for one that an earlier broker had begun, or whose hook may still run.
    pub(super) fn resume(self: &Arc<Self>, operation: OperationRow) {
        self.launch_as(operation, true);
    }

    fn launch_as(self: &Arc<Self>, operation: OperationRow, resumed: bool) {
        let cancel = self.stopping.child_token();
        let (done, on_done) = watch::channel(false);
        let step = Arc::default();
        let context = Context {
            cancel: cancel.clone(),
            deadline: Instant::now() + self.limits.operation_timeout,
            end: None,
            resumed,
            step: Arc::clone(&step),
        };
        let work_key = key(&operation);
        let work = Work { operation_id: operation.id.clone(), cancel, done: on_done, step };
        let earlier = {
            let mut works = self.works.lock();
            // Accepted just before recovery listed what runs: one task is enough.
            if works.get(&work_key).is_some_and(|known| known.operation_id == operation.id) {
                return;
            }
            let mut earlier = Vec::from_iter(works.insert(work_key.clone(), work));
            if work_key.1.is_none() {
                // What is being done for a binding makes no sense any more.
                let of_bindings =
                    works.iter().filter(|((of, id), _)| *of == work_key.0 && id.is_some());
                earlier.extend(of_bindings.map(|(_, work)| {
                    work.cancel.cancel();
                    work.clone()
                }));
            }
            earlier
        };
        let broker = Arc::clone(self);
        self.tasks.spawn(async move {
            for mut earlier in earlier {
                if earlier.operation_id.is_empty() {
                    earlier.cancel.cancel();
                }
                // An error means that the task is gone, which is what is waited for.
                drop(earlier.done.wait_for(|done| *done).await);
            }
            broker.run_logged(&operation, &context).await;
            broker.works.end(&work_key, &operation.id);
            done.send_replace(true);
            broker.works.ended.send_modify(|count| *count += 1);
        });
    }

    async fn run_logged(self: &Arc<Self>, operation: &OperationRow, context: &Context) {
        let started = Instant::now();
        let outcome = AssertUnwindSafe(self.run(operation, context)).catch_unwind().await;
        let mut outcome = outcome.unwrap_or_else(|_| Err(InternalError::Panic.into()));
        if operation.kind == "update"
            && let Err(failure) = outcome
        {
            let ended = self.end_update(operation, context, failure);
            let ended = AssertUnwindSafe(ended).catch_unwind().await;
            outcome = Err(ended.unwrap_or_else(|_| InternalError::Panic.into()));
        }
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(()) => {
                self.is_well(&operation.instance_id).await;
                tracing::info!(
                    operation.id,
                    instance.id = operation.instance_id,
                    operation.kind,
                    duration_ms,
                    "operation succeeded"
                );
            }
            Err(Failure::Interrupted) => tracing::info!(
                operation.id,
                instance.id = operation.instance_id,
                operation.kind,
                duration_ms,
                "operation interrupted"
            ),
            Err(Failure::Failed { public, cause }) => {
                let refused = matches!(cause, Some(InternalError::HookRefused));
                let cause = cause.map_or_else(String::new, |cause| Chain(&cause).to_string());
                tracing::error!(
                    operation.id,
                    instance.id = operation.instance_id,
                    operation.kind,
                    duration_ms,
                    reason = public,
                    error = cause,
                    "operation failed"
                );
                let recorded = match &operation.binding_id {
                    Some(binding) => self.fail_binding(operation, binding, &public).await,
                    None => self.fail(operation, &public, refused).await,
                };
                if let Err(error) = recorded {
                    tracing::error!(
                        operation.id, error = %Chain(&error),
                        "cannot record the failure; the operation runs again at the next start"
                    );
                }
            }
        }
    }

    async fn run(
        self: &Arc<Self>,
        operation: &OperationRow,
        context: &Context,
    ) -> Result<(), Failure> {
        let id = operation.id.clone();
        let current = self.store.read(move |rows| rows.find_operation(&id)).await?;
        if current.is_none_or(|row| row.state != super::last_operation::IN_PROGRESS) {
            return Err(Failure::Interrupted);
        }
        if self.is_outdated(&operation.instance_id) && operation.kind != "deprovision" {
            // What is newer than the store may be the end of this very operation.
            tracing::warn!(
                operation.id,
                instance.id = operation.instance_id,
                operation.kind,
                "an operation is left as it is: the store knows an older state of its instance \
                 than there was"
            );
            return Err(Failure::Interrupted);
        }
        self.settle(&operation.instance_id, &context.cancel, context.deadline).await?;
        if let Some(binding) = &operation.binding_id {
            return match operation.kind.as_str() {
                "bind" => self.run_bind(operation, binding, context).await,
                "unbind" => self.run_unbind(operation, binding, context).await,
                other => Err(unknown_kind(operation, other).into()),
            };
        }
        match operation.kind.as_str() {
            "provision" => self.run_provision(operation, context).await,
            "update" => self.run_update(operation, context).await,
            "deprovision" => self.run_deprovision(operation, context).await,
            other => Err(unknown_kind(operation, other).into()),
        }
    }

    /// Repeats a transaction that ends something until it is written: a full disk may have room
    /// again, and nobody would ask for this one a second time.
    pub(super) async fn conclude<T, E, J>(
        &self,
        cancel: &CancellationToken,
        job: impl Fn() -> J,
    ) -> Result<Result<T, E>, Failure>
    where
        T: Send + 'static,
        E: Send + 'static,
        J: FnOnce(&Rows<'_>) -> Result<Result<T, E>, RowError> + Send + 'static,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.store.write(job()).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => tracing::error!(
                    error = %Chain(&error),
                    "the end of an operation cannot be recorded; it is tried again"
                ),
            }
            pause_for(cancel, pause).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits for the end of an operation, for clients that do not poll.
    ///
    /// # Errors
    /// [`Refusal::OperationFailed`] with its reason, [`Refusal::Stopping`] when the broker stops
    /// first.
    pub(super) async fn wait_for(&self, operation_id: &str) -> Result<(), Refusal> {
        let mut ended = self.works.ended.subscribe();
        loop {
            ended.mark_unchanged();
            let id = operation_id.to_owned();
            let row = self.store.read(move |rows| rows.find_operation(&id)).await?;
            match row {
                Some(row) if row.state == super::last_operation::IN_PROGRESS => {}
                Some(row) if row.state == super::last_operation::SUCCEEDED => {
                    return Ok(self.store.settle(&row.instance_id).await?);
                }
                Some(row) if row.refused => {
                    return Err(Refusal::Invalid(row.description.unwrap_or_default()));
                }
                Some(row) => {
                    return Err(Refusal::OperationFailed(row.description.unwrap_or_default()));
                }
                None => return Err(Refusal::NotFound("the operation is not known".to_owned())),
            }
            tokio::select! {
                changed = ended.changed() => {
                    if changed.is_err() { return Err(Refusal::Stopping); }
                }
                () = self.stopping.cancelled() => return Err(Refusal::Stopping),
            }
        }
    }

    /// An accepted operation as the answer for this kind of client.
    pub(super) async fn answer(
        &self,
        operation: String,
        accepts_incomplete: bool,
        when_done: Accepted,
    ) -> Result<Accepted, Refusal> {
        if accepts_incomplete {
            return Ok(Accepted::InProgress { operation });
        }
        self.wait_for(&operation).await.map(|()| when_done)
    }
}

fn unknown_kind(operation: &OperationRow, kind: &str) -> InternalError {
    InternalError::Damaged {
        what: format!("operation {}", operation.id),
        why: format!("its kind is {kind:?}"),
    }
}
