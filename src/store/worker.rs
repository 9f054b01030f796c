//! A thread that owns a connection and runs jobs on it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{RowError, Rows, StoreError};

pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Jobs that may wait for the thread.
const QUEUE: usize = 1024;
/// Jobs that share one transaction.
const BATCH: usize = 64;

/// Runs inside the transaction and says whether its savepoint is kept; the returned closure sends
/// the answer once the transaction's fate is known.
type Job = Box<dyn FnOnce(&Connection) -> (bool, Answer) + Send>;
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Handle to the thread; the thread ends with the last handle.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
    verb: &'static str,
}

impl Worker {
    pub(super) fn start(name: &str, verb: &'static str, mut connection: Connection) -> Self {
        let (jobs, mut waiting) = mpsc::channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let spawned = thread.spawn(move || {
            let mut batch = Vec::with_capacity(BATCH);
            while waiting.blocking_recv_many(&mut batch, BATCH) > 0 {
                run_batch(&mut connection, verb, std::mem::take(&mut batch));
            }
        });
        if let Err(error) = spawned {
            // Every job will then be answered with `Closed`.
            tracing::error!(%error, "cannot start a thread for the store");
        }
        Self { jobs, verb }
    }

    pub(super) async fn run<T, E>(
        &self,
        job: impl FnOnce(&Rows<'_>) -> Result<Result<T, E>, RowError> + Send + 'static,
    ) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let verb = self.verb;
        let job: Job = Box::new(move |connection| {
            let outcome = catch_unwind(AssertUnwindSafe(|| job(&Rows(connection))));
            let outcome = match outcome {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(RowError(source))) => Err(StoreError::Statement { verb, source }),
                Err(_) => Err(StoreError::Closed),
            };
            let keep = matches!(outcome, Ok(Ok(_)));
            let finish: Answer = Box::new(move |commit| {
                let outcome = match (commit, outcome) {
                    (Err(error), Ok(Ok(_))) => Err(error),
                    (_, outcome) => outcome,
                };
                // Whoever asked may have gone; the transaction is committed all the same.
                drop(reply.send(outcome));
            });
            (keep, finish)
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn run_batch(connection: &mut Connection, verb: &'static str, batch: Vec<Job>) {
    let mut answers = Vec::with_capacity(batch.len());
    let committed = in_transaction(connection, verb, batch, &mut answers);
    let source = committed.err().map(|error| error.to_string());
    for answer in answers {
        answer(match &source {
            None => Ok(()),
            Some(message) => {
                let inner = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
                Err(StoreError::Statement {
                    verb,
                    source: rusqlite::Error::SqliteFailure(inner, Some(message.clone())),
                })
            }
        });
    }
}

fn in_transaction(
    connection: &mut Connection,
    verb: &'static str,
    batch: Vec<Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), rusqlite::Error> {
    if verb == "read" {
        for job in batch {
            answers.push(job(connection).1);
        }
        return Ok(());
    }
    let mut batch = batch.into_iter();
    let outcome = (|| {
        let mut transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for job in batch.by_ref() {
            let mut savepoint = transaction.savepoint()?;
            let (keep, answer) = job(&savepoint);
            answers.push(answer);
            if keep { savepoint.commit()? } else { savepoint.rollback()? }
        }
        transaction.commit()
    })();
    // Jobs that were not reached are dropped, and their askers read `Closed`.
    outcome
}
