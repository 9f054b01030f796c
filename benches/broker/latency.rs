//! Requests that need no container, with one instance in the store and with many, in turns.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    load::{self, CLIENTS},
    osb,
    process::Broker,
    report::{Bound, Report, Times},
    seed,
};

const P99_MS: f64 = 5.0;
/// "Flat" in numbers: the median with many instances against the one with one.
const FLAT: f64 = 1.25;

/// How much is measured.
pub(crate) struct Rounds {
    pub(crate) rounds: usize,
    /// Requests of each kind, per store and round.
    pub(crate) requests: usize,
}

/// A store: which instances it has.
#[derive(Clone, Copy)]
pub(crate) struct Stock<'a> {
    pub(crate) broker: &'a Broker,
    /// The instance that was really made.
    pub(crate) real: &'a str,
    /// Beside it.
    pub(crate) seeded: usize,
}

impl Stock<'_> {
    /// Instance of the request with this number: all of them, in no regular order.
    fn instance(&self, number: usize) -> String {
        // A step that is prime to any number of instances here visits each of them.
        const STEP: usize = 7919;
        match number.wrapping_mul(STEP) % (self.seeded + 1) {
            0 => self.real.to_owned(),
            chosen => seed::id(chosen - 1),
        }
    }

    fn request(&self, kind: usize, number: usize) -> Vec<u8> {
        let (instance, binding) = (self.instance(number), format!("b{number}"));
        match kind {
            0 => osb::bind(&instance, &binding),
            1 => osb::fetch(&instance),
            2 => osb::fetch_binding(&instance, &binding),
            _ => osb::last_operation(&instance),
        }
    }
}

const KINDS: [(&str, u16); 4] =
    [("Bind", 201), ("Fetch instance", 200), ("Fetch binding", 200), ("Last operation", 200)];

/// Both at once, so that the machine's noise hits both.
pub(crate) fn measure(stocks: [Stock<'_>; 2], rounds: &Rounds, report: &mut Report) -> Result<()> {
    let mut samples: [[Vec<Duration>; 2]; KINDS.len()] = Default::default();
    for round in 0..rounds.rounds {
        let numbers = round * rounds.requests..(round + 1) * rounds.requests;
        for (kind, (name, status)) in KINDS.into_iter().enumerate() {
            for turn in 0..stocks.len() {
                let which = (round + turn) % stocks.len();
                let stock = stocks[which];
                let all: Vec<_> =
                    numbers.clone().map(|number| stock.request(kind, number)).collect();
                let measured = load::requests(stock.broker.address(), &all, status);
                let measured = measured.with_context(|| name.to_owned())?;
                samples[kind][which].extend(measured.times);
            }
        }
    }
    for ((name, _), samples) in KINDS.into_iter().zip(samples) {
        let times = samples.map(Times::of);
        for (stock, times) in stocks.iter().zip(&times) {
            report.add(
                format!("{name}, p99, {CLIENTS} clients, {} instances", stock.seeded + 1),
                (times.percentile(99), "ms"),
                Bound::AtMost(P99_MS),
                format!(
                    "median {:.2}, max {:.1} ms, n = {}",
                    times.median(),
                    times.max(),
                    times.len()
                ),
            );
        }
        report.add(
            format!("{name}, flat: median with many instances"),
            (times[1].median() / times[0].median(), "x with one"),
            Bound::AtMost(FLAT),
            format!("{:.3} to {:.3} ms", times[1].median(), times[0].median()),
        );
    }
    Ok(())
}
