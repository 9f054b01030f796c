//! Who is tried when: so many at a time, the busy ones again, and when to stop.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// How fast, and what a failure means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// At least 1.
    pub(super) max_in_flight: usize,
    /// Without it nothing is begun after a failure.
    pub(super) continue_on_failure: bool,
    /// Pause before a busy one is tried again.
    pub(super) attempt_interval: Duration,
    /// How often one is tried; at least 1.
    pub(super) attempt_limit: u32,
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Attempt {
    Done,
    /// There is nothing to upgrade any more.
    Gone,
    /// Another attempt may succeed; why this one did not.
    Busy(String),
    /// Another attempt would fail as well; why.
    Failed(String),
}

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Upgraded,
    Gone,
    Failed(String),
    /// It was not waited for.
    UnderWay,
    NotTried,
}

/// Something to tell, by its number.
#[derive(Debug)]
pub(super) enum News<'a> {
    Begun(usize),
    Ended(usize, Duration, &'a Attempt),
    /// Busy for this reason; tried again after this pause.
    Waits(usize, &'a str, Duration),
    /// A signal came while these were under way.
    Stopping(&'static str, Vec<usize>),
}

/// Tries each of `count`, and says what became of each. After the first signal nothing is begun;
/// after the second one nothing is waited for.
///
/// # Errors
/// When `tell` fails.
pub(super) async fn drive<F>(
    count: usize,
    pace: Pace,
    attempt: impl Fn(usize) -> F,
    tell: &mut impl FnMut(News<'_>) -> io::Result<()>,
    signals: &mut mpsc::Receiver<&'static str>,
) -> io::Result<Vec<End>>
where
    F: Future<Output = Attempt>,
{
    let mut ends = vec![End::NotTried; count];
    let mut tries = vec![0_u32; count];
    let mut queue: VecDeque<usize> = (0..count).collect();
    // Earliest first: each waits as long as the others.
    let mut waiting: VecDeque<(Instant, usize)> = VecDeque::new();
    let mut in_flight = FuturesUnordered::new();
    let mut running = BTreeSet::new();
    let (mut stopping, mut signalled) = (false, false);
    loop {
        while !stopping
            && in_flight.len() < pace.max_in_flight
            && let Some(index) = queue.pop_front()
        {
            tries[index] += 1;
            running.insert(index);
            tell(News::Begun(index))?;
            let begun = Instant::now();
            let trying = attempt(index);
            in_flight.push(async move { (index, begun, trying.await) });
        }
        if in_flight.is_empty() && (stopping || waiting.is_empty()) {
            return Ok(ends);
        }
        let has_room = !stopping && in_flight.len() < pace.max_in_flight;
        let next = waiting.front().map(|(at, _)| *at).filter(|_| has_room);
        tokio::select! {
            Some((index, begun, ended)) = in_flight.next(), if !in_flight.is_empty() => {
                running.remove(&index);
                if let Attempt::Busy(why) = &ended
                    && tries[index] < pace.attempt_limit
                {
                    ends[index] = End::Failed(why.clone());
                    waiting.push_back((Instant::now() + pace.attempt_interval, index));
                    tell(News::Waits(index, why, pace.attempt_interval))?;
                    continue;
                }
                tell(News::Ended(index, begun.elapsed(), &ended))?;
                ends[index] = match ended {
                    Attempt::Done => End::Upgraded,
                    Attempt::Gone => End::Gone,
                    Attempt::Busy(why) => {
                        End::Failed(format!("{why} (tried {} times)", tries[index]))
                    }
                    Attempt::Failed(why) => End::Failed(why),
                };
                let failed = matches!(ends[index], End::Failed(_));
                stopping |= failed && !pace.continue_on_failure;
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                queue.extend(waiting.pop_front().map(|(_, index)| index));
            }
            Some(signal) = signals.recv() => {
                if signalled {
                    for index in running {
                        ends[index] = End::UnderWay;
                    }
                    return Ok(ends);
                }
                (stopping, signalled) = (true, true);
                tell(News::Stopping(signal, running.iter().copied().collect()))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::HashMap,
    };

    use super::*;

    const PACE: Pace = Pace {
        max_in_flight: 1,
        continue_on_failure: false,
        attempt_interval: Duration::from_millis(30),
        attempt_limit: 3,
    };

    fn failed(why: &str) -> Attempt {
        Attempt::Failed(why.to_owned())
    }

    async fn run(
        count: usize,
        pace: Pace,
        outcome: impl Fn(usize, u32) -> Attempt,
    ) -> (Vec<End>, usize) {
        let (_sender, mut signals) = mpsc::channel(1);
        let (now, most) = (Cell::new(0_usize), Cell::new(0_usize));
        let tries: RefCell<HashMap<usize, u32>> = RefCell::default();
        let attempt = |index: usize| {
            let (now, most, tries, outcome) = (&now, &most, &tries, &outcome);
            async move {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                tokio::time::sleep(Duration::from_millis(5)).await;
                now.set(now.get() - 1);
                let mut known = tries.borrow_mut();
                let count = known.entry(index).or_default();
                *count += 1;
                outcome(index, *count)
            }
        };
        let ends = drive(count, pace, attempt, &mut |_| Ok(()), &mut signals).await.unwrap();
        (ends, most.get())
    }

    #[tokio::test]
    async fn no_more_are_in_flight_than_allowed() {
        for max_in_flight in [1, 3] {
            let pace = Pace { max_in_flight, ..PACE };
            let (ends, most) = run(7, pace, |_, _| Attempt::Done).await;
            assert_eq!((ends, most), (vec![End::Upgraded; 7], max_in_flight));
        }
    }

    #[tokio::test]
    async fn after_a_failure_those_in_flight_end_and_nothing_is_begun() {
        let outcome = |index, _| if index == 1 { failed("broken") } else { Attempt::Done };
        let pace = Pace { max_in_flight: 2, ..PACE };
        let (ends, _) = run(6, pace, outcome).await;
        assert_eq!(ends[..2], [End::Upgraded, End::Failed("broken".to_owned())]);
        assert_eq!(ends[4..], [End::NotTried, End::NotTried]);
        let pace = Pace { continue_on_failure: true, ..pace };
        let (ends, _) = run(6, pace, outcome).await;
        assert_eq!(ends.iter().filter(|end| **end == End::Upgraded).count(), 5);
    }

    #[tokio::test]
    async fn a_busy_one_is_tried_again_after_the_others_but_not_for_ever() {
        let busy = || Attempt::Busy("busy".to_owned());
        let outcome = |index, tried| if index == 0 && tried < 3 { busy() } else { Attempt::Done };
        let began = Instant::now();
        let (ends, _) = run(3, PACE, outcome).await;
        assert_eq!(ends, vec![End::Upgraded; 3]);
        assert!(began.elapsed() >= 2 * PACE.attempt_interval);
        let (ends, _) =
            run(2, PACE, |index, _| if index == 0 { busy() } else { Attempt::Done }).await;
        assert_eq!(ends, [End::Failed("busy (tried 3 times)".to_owned()), End::Upgraded]);
    }

    #[tokio::test]
    async fn a_signal_lets_those_in_flight_end_and_a_second_one_does_not_wait() {
        for (signals_sent, expected) in [(1, End::Upgraded), (2, End::UnderWay)] {
            let (sender, mut signals) = mpsc::channel(2);
            for _ in 0..signals_sent {
                sender.send("SIGINT").await.unwrap();
            }
            let attempt = |_| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Attempt::Done
            };
            let ends = drive(2, PACE, attempt, &mut |_| Ok(()), &mut signals).await.unwrap();
            assert_eq!(ends, [expected, End::NotTried]);
        }
    }
}
