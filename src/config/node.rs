//! A mapping in a YAML document that is read key by key.
//!
//! serde would stop at the first wrong value; this collects every problem with its path, takes
//! scalars loosely, and at the end names the keys that nobody asked for.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

use super::{problems::Problems, scalars};

/// A mapping, its path, and the keys that were asked for.
pub(super) struct Node<'a> {
    map: &'a Mapping,
    path: String,
    problems: &'a Problems,
    asked: RefCell<BTreeSet<&'static str>>,
}

/// Names the type of a value in the words of YAML.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a tagged value",
    }
}

/// A value in a message. Only truth values and numbers come by here, never a secret.
fn shown(value: &Value) -> String {
    scalar(value).map_or_else(|| kind(value).to_owned(), |text| format!("{text:?}"))
}

/// A scalar as text; lists and mappings are none.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

impl<'a> Node<'a> {
    /// `value` as a mapping; anything else is a problem.
    pub(super) fn new(value: &'a Value, path: String, problems: &'a Problems) -> Option<Self> {
        let Value::Mapping(map) = value else {
            problems.error(path, format!("must be a mapping, but is {}", kind(value)));
            return None;
        };
        Some(Self { map, path, problems, asked: RefCell::default() })
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() || self.path.ends_with(": ") {
            format!("{}{key}", self.path)
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn error(&self, key: &str, message: impl Into<String>) {
        self.problems.error(self.path_of(key), message);
    }

    pub(super) fn warning(&self, key: &str, message: impl Into<String>) {
        self.problems.warning(self.path_of(key), message);
    }

    /// The value of `key`; `null` counts as absent.
    fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Marks a key as known without reading it.
    pub(super) fn ignore(&self, key: &'static str) {
        self.asked.borrow_mut().insert(key);
    }

    pub(super) fn string(&self, key: &'static str) -> Option<String> {
        let value = self.get(key)?;
        let text = scalar(value);
        if text.is_none() {
            self.error(key, format!("must be a string, but is {}", kind(value)));
        }
        text
    }

    /// A string that must be there and not empty.
    pub(super) fn required(&self, key: &'static str) -> String {
        if !self.has(key) {
            self.error(key, "is missing; it is required");
            return String::new();
        }
        match self.string(key) {
            Some(text) if text.trim().is_empty() => {
                self.error(key, "must not be empty");
                String::new()
            }
            Some(text) => text,
            None => String::new(),
        }
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let truth = scalar(value).and_then(|text| scalars::parse_bool(&text));
        if truth.is_none() {
            self.error(key, format!("must be true or false, but is {}", shown(value)));
        }
        truth
    }

    /// A whole number between `min` and `max`, also when written as a string.
    pub(super) fn integer(&self, key: &'static str, min: u64, max: u64) -> Option<u64> {
        let value = self.get(key)?;
        let number = scalar(value).and_then(|text| text.trim().parse::<u64>().ok());
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let shown = shown(value);
            self.error(key, format!("must be a whole number from {min} to {max}, but is {shown}"));
        }
        number
    }

    /// A scalar that `parse` understands.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.string(key)?;
        parse(&text).map_err(|message| self.error(key, message)).ok()
    }

    /// A list of scalars; a single scalar is a list of one.
    pub(super) fn strings(&self, key: &'static str) -> Option<Vec<String>> {
        let value = self.get(key)?;
        let Value::Sequence(items) = value else {
            let one = scalar(value);
            if one.is_none() {
                self.error(key, format!("must be a list of strings, but is {}", kind(value)));
            }
            return one.map(|text| vec![text]);
        };
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match scalar(item) {
                Some(text) => texts.push(text),
                None => self.problems.error(
                    format!("{}[{index}]", self.path_of(key)),
                    format!("must be a string, but is {}", kind(item)),
                ),
            }
        }
        Some(texts)
    }

    /// A list whose items `parse` understands, each problem with the index of its item.
    pub(super) fn parsed_list<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let texts = self.strings(key).unwrap_or_default();
        let mut items = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(item) => items.push(item),
                Err(message) => {
                    self.problems.error(format!("{}[{index}]", self.path_of(key)), message);
                }
            }
        }
        items
    }

    pub(super) fn node(&self, key: &'static str) -> Option<Node<'a>> {
        Node::new(self.get(key)?, self.path_of(key), self.problems)
    }

    /// A list of mappings.
    pub(super) fn nodes(&self, key: &'static str) -> Vec<Node<'a>> {
        match self.get(key) {
            None => Vec::new(),
            Some(Value::Sequence(items)) => items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| {
                    Node::new(item, format!("{}[{index}]", self.path_of(key)), self.problems)
                })
                .collect(),
            Some(other) => {
                self.error(key, format!("must be a list, but is {}", kind(other)));
                Vec::new()
            }
        }
    }

    /// Whatever is there, as JSON.
    pub(super) fn json(&self, key: &'static str) -> Option<Json> {
        let value = self.get(key)?;
        serde_json::to_value(value)
            .map_err(|error| self.error(key, format!("cannot be written as JSON: {error}")))
            .ok()
    }

    /// An object, as JSON.
    pub(super) fn json_object(&self, key: &'static str) -> Option<Json> {
        let value = self.json(key)?;
        if value.is_object() {
            return Some(value);
        }
        self.error(key, "must be a mapping");
        None
    }

    /// The entries of a mapping of scalars.
    pub(super) fn entries(&self, key: &'static str) -> Option<Vec<(String, String)>> {
        let value = self.get(key)?;
        let Value::Mapping(map) = value else {
            self.error(key, format!("must be a mapping, but is {}", kind(value)));
            return None;
        };
        let mut entries = Vec::with_capacity(map.len());
        for (name, value) in map {
            match (scalar(name), scalar(value)) {
                (Some(name), Some(value)) => entries.push((name, value)),
                _ => self.error(key, "must map names to strings"),
            }
        }
        Some(entries)
    }

    pub(super) fn is_list(&self, key: &'static str) -> bool {
        self.get(key).is_some_and(Value::is_sequence)
    }

    pub(super) fn is_mapping(&self, key: &'static str) -> bool {
        self.get(key).is_some_and(Value::is_mapping)
    }

    /// Warns of keys that nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in self.map {
            let Some(name) = scalar(key) else {
                self.problems.warning(&self.path, "has a key that is not a string; it is ignored");
                continue;
            };
            if !asked.contains(name.as_str()) {
                let known = asked.iter().copied().find(|known| alike(known, &name));
                let hint = known.map_or(String::new(), |known| format!("; is {known:?} meant?"));
                self.warning(&name, format!("is not known and has no effect{hint}"));
            }
        }
    }
}

/// Whether two keys differ only in case, `-` for `_`, a plural s, or one swapped, missing or
/// additional letter.
fn alike(known: &str, name: &str) -> bool {
    let plain =
        |text: &str| text.to_ascii_lowercase().replace('-', "_").trim_end_matches('s').to_owned();
    let (a, b) = (plain(known), plain(name));
    if a == b {
        return true;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() < 4 || a.len().abs_diff(b.len()) > 1 {
        return false;
    }
    let prefix = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let suffix = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    prefix + suffix + 2 >= a.len().max(b.len())
}
