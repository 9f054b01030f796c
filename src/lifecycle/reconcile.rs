//! Keeps what is there as it has to be, while nobody asks for anything.
//!
//! dockerd's events say where to look at once; at intervals, and whenever the stream of events
//! begins anew, everything is compared: one listing of the containers and one of the rows,
//! whatever their number. Only an instance that does not look right costs requests of its own
//! (`tend.rs`).
//!
//! An instance that does not stay well is tried again after ever longer pauses, so one that cannot
//! be helped costs next to nothing.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use rand::Rng;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Broker, InstanceState,
    diagnosis::diagnose,
    error::InternalError,
    health::WATCHED,
    retry::{FIRST_PAUSE, LONGEST_PAUSE, pause_for},
    tend::{History, Outcome},
};
use crate::{
    docker::{ContainerEvent, Events, OwnedContainer},
    store::WatchedRow,
    telemetry::Chain,
};

/// Instances that are put back at the same time.
const SIDE_BY_SIDE: usize = 8;
/// What somebody does to a container comes as several events: the first is not the last.
const SETTLE: Duration = Duration::from_millis(300);
/// dockerd starts its containers itself when it comes back.
const GRACE: Duration = Duration::from_secs(5);
/// When an instance is looked at again on which an operation runs.
const BUSY: Duration = Duration::from_secs(2);
/// The second try comes this much after the first, the third twice as much later, and so on.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// An instance that has been well for so long is as good as any other.
const TRUSTED: Duration = Duration::from_mins(10);
/// A process that ends so often within [`CRASH_SPAN`] is not all right, though dockerd starts it
/// again each time.
const CRASHES: usize = 4;
const CRASH_SPAN: Duration = Duration::from_mins(2);
/// Longer than the pauses between so many ends: a process that has run for so long crashes no more.
const STEADY: Duration = Duration::from_secs(45);
/// Longest time between two looks at an instance that may come up by itself: only one request.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// An instance that was not well.
#[derive(Debug)]
struct Case {
    history: History,
    /// Since when it has not been well.
    since: Instant,
    /// Looks that found it on its way.
    looks: u32,
    /// When its process ended of late.
    ends: VecDeque<Instant>,
    /// When to look at it; `None`: when something happens.
    next: Option<Instant>,
    /// Never before.
    not_before: Instant,
    /// A task looks at it.
    running: bool,
    /// Since when it has been well.
    well: Option<Instant>,
}

impl Case {
    fn new(now: Instant) -> Self {
        Self {
            history: History::default(),
            since: now,
            looks: 0,
            ends: VecDeque::new(),
            next: None,
            not_before: now,
            running: false,
            well: None,
        }
    }

    fn look_at(&mut self, when: Instant) {
        let when = when.max(self.not_before);
        self.next = Some(self.next.map_or(when, |known| known.min(when)));
    }

    fn ended(&mut self, now: Instant) {
        self.ends.push_back(now);
        self.forget_old_ends(now);
    }

    fn forget_old_ends(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|end| now.duration_since(*end) > CRASH_SPAN) {
            self.ends.pop_front();
        }
        let lately = |end: &Instant| now.duration_since(*end) < STEADY;
        self.history.crashing = self.ends.len() >= CRASHES && self.ends.back().is_some_and(lately);
    }

    /// What is known when a look at it begins.
    fn begin(&mut self, now: Instant) -> History {
        self.next = None;
        self.running = true;
        self.forget_old_ends(now);
        // What begins now has not lasted yet.
        self.history.ill_for =
            if self.well.is_some() { Duration::ZERO } else { now.duration_since(self.since) };
        self.history
    }

    /// Takes in how a look went.
    fn end(&mut self, history: History, outcome: Outcome, now: Instant) {
        self.running = false;
        self.history.recreated = history.recreated;
        match outcome {
            Outcome::Well | Outcome::Released => {
                self.well.get_or_insert(now);
                self.looks = 0;
            }
            Outcome::PutBack => {
                self.tried(now);
                self.well = Some(now);
                self.looks = 0;
                self.history.stuck = false;
            }
            Outcome::Busy => self.look_at(now + BUSY),
            Outcome::Waiting => {
                self.unwell(now);
                self.looks += 1;
                self.look_at(now + pause(self.looks).min(LONGEST_WAIT));
            }
            Outcome::Treated | Outcome::Failed { .. } => {
                self.unwell(now);
                self.tried(now);
                self.history.stuck = outcome == Outcome::Failed { stuck: true };
                self.look_at(self.not_before);
            }
        }
    }

    fn unwell(&mut self, now: Instant) {
        if self.well.take().is_some() {
            self.since = now;
        }
    }

    fn tried(&mut self, now: Instant) {
        self.history.tries += 1;
        self.not_before = now + pause(self.history.tries);
    }

    fn is_closed(&self, now: Instant) -> bool {
        let trusted = |since: Instant| {
            // Without a try there is nothing to remember but when it ended.
            let enough = if self.history.tries == 0 { CRASH_SPAN } else { TRUSTED };
            now.duration_since(since) > enough
        };
        !self.running && self.next.is_none() && self.well.is_some_and(trusted)
    }
}

/// The pause after this many tries, never quite the same: others may have to wait as well.
fn pause(tries: u32) -> Duration {
    let doubled = BACKOFF.saturating_mul(1 << tries.min(16)).min(LONGEST_BACKOFF);
    doubled.mul_f64(rand::rng().random_range(0.8..1.0))
}

/// Why following ended.
enum Ended {
    Stopping,
    Lost,
}

type Looks = JoinSet<(String, History, Outcome)>;

impl Broker {
    /// Keeps instances as they have to be, until the broker stops. Everything is compared every
    /// `interval`.
    pub async fn reconcile(self: &Arc<Self>, interval: Duration) {
        let mut cases = HashMap::new();
        let mut looks = JoinSet::new();
        let mut grace = Duration::ZERO;
        while let Some(events) = self.connect().await {
            if pause_for(&self.stopping, grace).await.is_err() {
                return;
            }
            grace = GRACE;
            match self.follow(events, interval, &mut cases, &mut looks).await {
                Ended::Stopping => return,
                Ended::Lost => {
                    tracing::info!("the Docker engine's events have to be followed anew");
                }
            }
        }
    }

    /// `None` when the broker stops first.
    async fn connect(&self) -> Option<Events<'_>> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.docker.follow_events().await {
                Ok(events) => return Some(events),
                Err(error) => tracing::debug!(error = %Chain(&error), "no events from dockerd"),
            }
            pause_for(&self.stopping, pause).await.ok()?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn follow(
        self: &Arc<Self>,
        mut events: Events<'_>,
        interval: Duration,
        cases: &mut HashMap<String, Case>,
        looks: &mut Looks,
    ) -> Ended {
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let mut compare = Instant::now();
        loop {
            let now = Instant::now();
            if now >= compare {
                if let Err(error) = self.compare(cases).await {
                    tracing::warn!(error = %Chain(&error), "instances could not be compared");
                }
                compare = now + interval.mul_f64(rand::rng().random_range(0.9..1.1));
            }
            for (id, case) in cases.iter_mut() {
                if !case.running && case.next.is_some_and(|next| next <= now) {
                    let history = case.begin(now);
                    self.look(looks, &places, id.clone(), history);
                }
            }
            cases.retain(|_, case| !case.is_closed(now));
            let due = cases.values().filter(|case| !case.running).filter_map(|case| case.next);
            let wake = due.min().map_or(compare, |due| due.min(compare));
            tokio::select! {
                () = self.stopping.cancelled() => return Ended::Stopping,
                event = events.next() => match event {
                    Some(Ok(event)) => self.hear(event, cases),
                    Some(Err(error)) => {
                        tracing::debug!(error = %Chain(&error), "dockerd's events have ended");
                        return Ended::Lost;
                    }
                    None => return Ended::Lost,
                },
                Some(Ok((id, history, outcome))) = looks.join_next() => {
                    let now = Instant::now();
                    if outcome == Outcome::Released {
                        cases.remove(&id);
                    } else if let Some(case) = cases.get_mut(&id) {
                        case.end(history, outcome, now);
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn hear(&self, event: ContainerEvent, cases: &mut HashMap<String, Case>) {
        let now = Instant::now();
        // Whoever works on an instance makes most of its events.
        let held = self.works.is_held(&event.instance_id);
        let case = cases.entry(event.instance_id).or_insert_with(|| Case::new(now));
        if event.exit_code.is_some() && !held {
            case.ended(now);
        }
        case.look_at(now + SETTLE);
    }

    /// Finds what does not look right.
    async fn compare(&self, cases: &mut HashMap<String, Case>) -> Result<(), InternalError> {
        let owned = self.docker.list_owned().await?;
        let rows = self.store.read(|rows| rows.list_watched(WATCHED)).await?;
        let by_name: HashMap<&str, &OwnedContainer> =
            owned.iter().map(|one| (one.name.as_str(), one)).collect();
        let now = Instant::now();
        for row in rows {
            let found = by_name.get(self.container_name(&row.name).as_str()).copied();
            if !is_right(&row, found) {
                cases.entry(row.id).or_insert_with(|| Case::new(now)).look_at(now);
            }
        }
        Ok(())
    }

    fn look(
        self: &Arc<Self>,
        looks: &mut Looks,
        places: &Arc<Semaphore>,
        id: String,
        mut history: History,
    ) {
        let (broker, places) = (Arc::clone(self), Arc::clone(places));
        looks.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            let look = AssertUnwindSafe(broker.tend(&id, &mut history)).catch_unwind().await;
            let outcome = look.unwrap_or(Outcome::Failed { stuck: false });
            (id, history, outcome)
        });
    }
}

/// Whether an instance needs no closer look.
pub(super) fn is_right(row: &WatchedRow, found: Option<&OwnedContainer>) -> bool {
    let Some(found) = found.filter(|found| found.labels.instance_id == row.id) else {
        return false;
    };
    let ports = row.ports.iter().copied();
    let seen = (found.labels.generation, found.condition, &found.reach);
    !row.unwell
        && row.state == InstanceState::Ready.as_str()
        && diagnose(seen, row.generation, ports).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        assert!(pause(1) <= 2 * BACKOFF && pause(1) >= BACKOFF);
        assert!(pause(4) > pause(1) * 4);
        for tries in [10, 20, u32::MAX] {
            assert!(pause(tries) <= LONGEST_BACKOFF && pause(tries) >= LONGEST_BACKOFF / 2);
        }
    }

    #[test]
    fn an_instance_that_is_put_back_again_and_again_waits_longer_each_time_until_it_is_trusted() {
        let start = Instant::now();
        let mut case = Case::new(start);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..4 {
            let history = case.begin(now);
            case.end(history, Outcome::PutBack, now);
            assert_eq!(case.next, None);
            // It is killed at once.
            case.look_at(now);
            let next = case.next.unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits.windows(2).all(|pair| pair[1] > pair[0]), "{waits:?}");
        case.begin(now);
        case.end(case.history, Outcome::Well, now);
        assert!(!case.is_closed(now + TRUSTED / 2));
        let later = case.begin(now + TRUSTED / 2);
        assert_eq!(later.ill_for, Duration::ZERO, "it was well until now");
        case.end(later, Outcome::Well, now + TRUSTED / 2);
        assert!(case.is_closed(now + TRUSTED * 2));
    }

    #[test]
    fn a_process_that_ends_often_within_a_short_time_crashes() {
        let start = Instant::now();
        let mut case = Case::new(start);
        for second in 0..3 {
            case.ended(start + Duration::from_secs(second));
        }
        assert!(!case.history.crashing);
        case.ended(start + Duration::from_secs(200));
        assert!(!case.history.crashing, "those of long ago do not count");
        for second in 201..=204 {
            case.ended(start + Duration::from_secs(second));
        }
        assert!(case.history.crashing);
        assert!(case.begin(start + Duration::from_mins(4)).crashing);
        assert!(!case.begin(start + Duration::from_secs(250)).crashing, "it has become steady");
    }
}
