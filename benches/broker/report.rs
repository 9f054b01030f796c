//! Figures, their bounds, the table and the JSON file.

use std::{fmt::Write, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What a figure has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) bound: Bound,
    /// What the value was made of.
    pub(crate) detail: String,
}

impl Figure {
    fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost(most) => self.value <= most,
            Bound::AtLeast(least) => self.value >= least,
        }
    }

    fn cells(&self) -> [String; 4] {
        let measured = format!("{} {} ({})", short(self.value), self.unit, self.detail);
        let bound = match self.bound {
            Bound::AtMost(most) => format!("≤ {most} {}", self.unit),
            Bound::AtLeast(least) => format!("≥ {least} {}", self.unit),
        };
        let met = if self.is_met() { "yes" } else { "**missed**" };
        [self.name.clone(), measured, bound, met.to_owned()]
    }

    fn json(&self) -> Value {
        let (relation, bound) = match self.bound {
            Bound::AtMost(most) => ("at most", most),
            Bound::AtLeast(least) => ("at least", least),
        };
        json!({
            "figure": self.name, "value": self.value, "unit": self.unit, "relation": relation,
            "bound": bound, "met": self.is_met(), "detail": self.detail,
        })
    }
}

fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Figure>);

impl Report {
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        (value, unit): (f64, &'static str),
        bound: Bound,
        detail: impl Into<String>,
    ) {
        let (name, detail) = (name.into(), detail.into());
        self.0.push(Figure { name, value, unit, bound, detail });
    }

    pub(crate) fn missed(&self) -> usize {
        self.0.iter().filter(|figure| !figure.is_met()).count()
    }

    /// A Markdown table, its columns aligned.
    pub(crate) fn table(&self) -> String {
        let head = ["Figure", "Measured", "Bound", "Met?"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.0.iter().map(Figure::cells)).collect();
        let widths: [usize; 4] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        let mut text = String::new();
        for (number, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(widths) {
                // Writing to a String cannot fail.
                let _ = write!(text, "| {cell:width$} ");
            }
            text += "|\n";
            if number == 0 {
                text.extend(widths.map(|width| format!("|{}", "-".repeat(width + 2))));
                text += "|\n";
            }
        }
        text
    }

    pub(crate) fn write(&self, path: &Path, machine: &Value) -> Result<()> {
        let figures: Vec<_> = self.0.iter().map(Figure::json).collect();
        let text = serde_json::to_string_pretty(&json!({ "machine": machine, "figures": figures }));
        std::fs::write(path, text? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Times of one kind, in milliseconds, sorted.
#[derive(Debug, Clone)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn of(samples: impl IntoIterator<Item = Duration>) -> Self {
        let mut all: Vec<f64> =
            samples.into_iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// The sample that this many percent of all do not exceed (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    pub(crate) fn max(&self) -> f64 {
        self.percentile(100)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn number(count: usize) -> f64 {
    count as f64
}
