//! What happens in one run: operations of several clients, and faults. All of it comes from the
//! seed, and nothing else does.

use std::time::Duration;

use docker_broker::lifecycle::fault::Step;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::Serialize;

use crate::{proxy::Manner, services::Kind};

/// An operation of a platform. One that does not fit (nothing to unbind) is left out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    Provision(Kind),
    Bind,
    Rotate,
    Unbind,
    Update,
    Deprovision,
}

/// An operation, a while after the one before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) pause: Duration,
    pub(crate) op: Op,
    /// Whether the client takes 202 for an answer where it may choose.
    pub(crate) patient: bool,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// SIGKILL to the broker.
    KillBroker,
    /// The broker is started again such that it kills itself at a step.
    KillBrokerAt(Step),
    /// SIGTERM to the broker.
    StopBroker,
    /// SIGKILL to dockerd; it is away for a while.
    KillDockerd,
    /// SIGTERM to dockerd; it is away for a while.
    StopDockerd,
    /// dockerd's socket, by the proxy.
    Socket(Manner),
    /// Somebody else kills a container.
    KillContainer,
    /// Somebody else removes a container.
    RemoveContainer,
    /// Somebody else pauses a container.
    PauseContainer,
    /// No room where the store is but for so many blocks of 4 KiB: one write or another fails.
    StoreDiskFull(u64),
    /// The same where the instances' directories are.
    DataDiskFull(u64),
    /// The store cannot be written when the broker starts.
    StoreReadOnly,
    /// Another process holds the store's lock.
    StoreLocked,
    /// The clock goes this many hours forward, or back.
    Clock(i64),
}

impl Trouble {
    /// Its kind in the table.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::KillBroker => "broker killed",
            Self::KillBrokerAt(_) => "broker killed at a step",
            Self::StopBroker => "broker stopped",
            Self::KillDockerd => "dockerd killed",
            Self::StopDockerd => "dockerd stopped",
            Self::Socket(Manner::Refuse) => "dockerd answers 500",
            Self::Socket(Manner::Hang) => "dockerd hangs",
            Self::Socket(_) => "dockerd cuts connections",
            Self::KillContainer => "container killed by others",
            Self::RemoveContainer => "container removed by others",
            Self::PauseContainer => "container paused by others",
            Self::StoreDiskFull(_) => "disk of the store full",
            Self::DataDiskFull(_) => "disk of the instances full",
            Self::StoreReadOnly => "store read-only",
            Self::StoreLocked => "store locked",
            Self::Clock(_) => "clock stepped",
        }
    }
}

/// A trouble, when it begins and how long it lasts (if it does not end by itself).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) trouble: Trouble,
}

/// Whose dockerd it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Engine {
    /// The machine's, which is left alone.
    Machine,
    /// One of the suite's, which may be killed.
    Own,
    /// The same, with live-restore.
    OwnLiveRestore,
}

/// One run.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// What it is called in the results.
    pub(crate) name: String,
    pub(crate) engine: Engine,
    pub(crate) clients: Vec<Vec<Timed>>,
    /// Faults of one source each, one after another; sources do not wait for one another.
    pub(crate) faults: Vec<Vec<Fault>>,
    /// Whether the faults wait until every client has an instance with a binding.
    pub(crate) warm: bool,
    /// Whether the broker is started anew before the looks at what is left.
    pub(crate) restart: bool,
}

/// Where the faults of one run come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Broker,
    Dockerd,
    Socket,
    Container,
    Disk,
    Store,
    Clock,
}

/// Operations of a client, at most.
const OPERATIONS: usize = 24;
/// The last fault begins before.
const FAULTS: u64 = 6_000;

fn milliseconds(random: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

impl Schedule {
    /// The schedule of a seed; the same one every time.
    pub(crate) fn of(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        let engine = match random.random_range(0..10) {
            0..2 => Engine::Own,
            2..4 => Engine::OwnLiveRestore,
            _ => Engine::Machine,
        };
        Self::on(seed, engine, random)
    }

    fn on(seed: u64, engine: Engine, random: &mut StdRng) -> Self {
        let mut sources = vec![
            Source::Broker,
            Source::Socket,
            Source::Container,
            Source::Disk,
            Source::Store,
            Source::Clock,
        ];
        let count = random.random_range(1..=3);
        let mut chosen: Vec<Source> = sources.choose_multiple(random, count).copied().collect();
        sources.clear();
        if engine != Engine::Machine {
            chosen.retain(|source| *source != Source::Socket);
            chosen.push(Source::Dockerd);
        }
        let faults: Vec<Vec<Fault>> =
            chosen.into_iter().map(|source| faults_of(source, random)).collect();
        // With eight clients where dockerd dies.
        let clients = if engine == Engine::Machine { random.random_range(2..=4) } else { 8 };
        let clients = (0..clients).map(|_| operations(engine, random)).collect();
        let restart = random.random_bool(0.5);
        let warm = random.random_bool(0.7);
        Self { name: seed.to_string(), engine, clients, faults, warm, restart }
    }

    /// These faults while three clients work, eight on a dockerd that is killed.
    pub(crate) fn with(name: &str, engine: Engine, faults: Vec<Vec<Fault>>) -> Self {
        // Which operations they are does not matter, but they are the same every time.
        let random = &mut StdRng::seed_from_u64(6);
        let clients = if engine == Engine::Machine { 3 } else { 8 };
        let clients = (0..clients).map(|_| operations(Engine::Own, random)).collect();
        Self { name: name.to_owned(), engine, clients, faults, warm: true, restart: false }
    }

    /// Whether any fault is like this.
    pub(crate) fn has(&self, like: impl Fn(Trouble) -> bool) -> bool {
        self.faults.iter().flatten().any(|fault| like(fault.trouble))
    }
}

fn operations(engine: Engine, random: &mut StdRng) -> Vec<Timed> {
    let kind = match random.random_range(0..10) {
        _ if engine != Engine::Machine => Kind::Redis,
        0..7 => Kind::Redis,
        7..9 => Kind::Postgres,
        _ => Kind::Mariadb,
    };
    let mut operations = vec![Op::Provision(kind), Op::Bind];
    while operations.len() < OPERATIONS {
        match random.random_range(0..14) {
            0..4 => operations.push(Op::Bind),
            4..6 => operations.push(Op::Rotate),
            6..9 => operations.push(Op::Unbind),
            9..12 => operations.push(Op::Update),
            _ => operations.extend([Op::Deprovision, Op::Provision(kind), Op::Bind]),
        }
    }
    let time =
        |op| Timed { pause: milliseconds(random, 50..700), patient: random.random_bool(0.7), op };
    operations.into_iter().map(time).collect()
}

fn faults_of(source: Source, random: &mut StdRng) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = milliseconds(random, 200..2_500);
    let end = Duration::from_millis(FAULTS);
    let most = random.random_range(1..=4);
    while at < end && faults.len() < most {
        let trouble = trouble(source, random);
        let lasts = match trouble {
            Trouble::KillBrokerAt(_) => milliseconds(random, 1_500..3_500),
            Trouble::KillDockerd | Trouble::StopDockerd => milliseconds(random, 50..1_500),
            _ => milliseconds(random, 200..2_500),
        };
        faults.push(Fault { at, lasts, trouble });
        at += lasts + milliseconds(random, 300..2_000);
        if source == Source::Dockerd {
            // dockerd itself takes seconds to be back.
            at += Duration::from_secs(3);
        }
    }
    faults
}

fn trouble(source: Source, random: &mut StdRng) -> Trouble {
    const HOURS: [i64; 6] = [1, 25, 8 * 24, 400 * 24, -1, -48];
    let dice = random.random_range(0..10);
    match (source, dice) {
        (Source::Broker, 0..5) => Trouble::KillBroker,
        (Source::Broker, 5..8) => {
            // The keys are changed by nobody here.
            let steps: Vec<Step> =
                Step::ALL.into_iter().filter(|step| *step != Step::KeysChanging).collect();
            Trouble::KillBrokerAt(*steps.choose(random).expect("there are steps"))
        }
        (Source::Broker, _) => Trouble::StopBroker,
        (Source::Dockerd, 0..7) => Trouble::KillDockerd,
        (Source::Dockerd, _) => Trouble::StopDockerd,
        (Source::Socket, 0..3) => Trouble::Socket(Manner::Refuse),
        (Source::Socket, 3..5) => Trouble::Socket(Manner::Hang),
        (Source::Socket, 5..8) => Trouble::Socket(Manner::CutRequest),
        (Source::Socket, _) => Trouble::Socket(Manner::CutAnswer),
        (Source::Container, 0..4) => Trouble::KillContainer,
        (Source::Container, 4..7) => Trouble::RemoveContainer,
        (Source::Container, _) => Trouble::PauseContainer,
        (Source::Disk, 0..5) => Trouble::StoreDiskFull(blocks(random)),
        (Source::Disk, _) => Trouble::DataDiskFull(blocks(random)),
        (Source::Store, 0..6) => Trouble::StoreLocked,
        (Source::Store, _) => Trouble::StoreReadOnly,
        (Source::Clock, _) => Trouble::Clock(*HOURS.choose(random).expect("there are hours")),
    }
}

/// None at all, or a few.
fn blocks(random: &mut StdRng) -> u64 {
    if random.random_bool(0.4) { 0 } else { random.random_range(1..64) }
}
