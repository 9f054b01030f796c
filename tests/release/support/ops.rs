//! BOSH ops files and variables, as `bosh interpolate` applies them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde_yaml::{Mapping, Value};

/// Values of `((variables))` by name.
pub(crate) type Variables = BTreeMap<String, Value>;

/// A file of this repository.
pub(crate) fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// A YAML file of this repository.
pub(crate) fn yaml(file: &str) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(repository(file)).context(file.to_owned())?;
    serde_yaml::from_str(&text).context(file.to_owned())
}

/// The manifest with ops files of this repository applied in order, before its variables are
/// filled in.
pub(crate) fn manifest(ops_files: &[&str]) -> anyhow::Result<Value> {
    let mut manifest = yaml("manifests/docker-broker.yml")?;
    for file in ops_files {
        apply(&mut manifest, &yaml(file)?).context((*file).to_owned())?;
    }
    Ok(manifest)
}

/// The manifest as a director deploys it: ops files applied, `given` variables filled in, the
/// others generated as its `variables` say.
pub(crate) fn deployment(ops_files: &[&str], given: &Variables) -> anyhow::Result<Value> {
    let manifest = substitute(&manifest(ops_files)?, given)?;
    let mut variables = super::variables::generate(&manifest)?;
    variables.extend(given.clone());
    interpolate(&manifest, &variables)
}

/// Applies the operations of one ops file.
pub(crate) fn apply(document: &mut Value, ops: &Value) -> anyhow::Result<()> {
    let operations = ops.as_sequence().context("an ops file is a list of operations")?;
    for (index, operation) in operations.iter().enumerate() {
        apply_one(document, operation).with_context(|| format!("operation {index}"))?;
    }
    Ok(())
}

fn apply_one(document: &mut Value, operation: &Value) -> anyhow::Result<()> {
    let keys = operation.as_mapping().context("an operation is a mapping")?;
    for key in keys.keys() {
        let known = ["type", "path", "value"].map(Value::from);
        ensure!(known.contains(key), "unknown key {key:?} of an operation");
    }
    let path = operation["path"].as_str().context("an operation has a path")?;
    let tokens = tokens(path)?;
    let value = keys.get("value");
    match (operation["type"].as_str(), value) {
        (Some("replace"), Some(value)) => replace(document, &tokens, value),
        (Some("replace"), None) => bail!("replace of {path} has no value"),
        (Some("remove"), None) => remove(document, &tokens),
        (Some("remove"), Some(_)) => bail!("remove of {path} has a value"),
        (other, _) => bail!("type {other:?} of {path} is neither replace nor remove"),
    }
    .with_context(|| path.to_owned())
}

/// A step of a path.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Index(i64),
    /// `-`: behind the last item.
    End,
    /// `name=docker`: the item whose `name` is `docker`.
    Match {
        key: String,
        value: String,
        optional: bool,
    },
    Key {
        key: String,
        optional: bool,
    },
}

/// The steps of a path. After the first `?` all steps may be missing.
fn tokens(path: &str) -> anyhow::Result<Vec<Token>> {
    let rest = path.strip_prefix('/').context("a path begins with /")?;
    let mut optional = false;
    let mut tokens = Vec::new();
    for part in rest.split('/').filter(|_| !rest.is_empty()) {
        ensure!(!part.contains(':'), "{part}: positions such as :before are not known here");
        let name = part.strip_suffix('?');
        optional |= name.is_some();
        let name = name.unwrap_or(part).replace("~1", "/").replace("~0", "~");
        tokens.push(if name == "-" {
            Token::End
        } else if let Ok(index) = name.parse() {
            Token::Index(index)
        } else if let Some((key, value)) = name.split_once('=') {
            Token::Match { key: key.to_owned(), value: value.to_owned(), optional }
        } else {
            Token::Key { key: name, optional }
        });
    }
    Ok(tokens)
}

fn replace(document: &mut Value, tokens: &[Token], value: &Value) -> anyhow::Result<()> {
    let Some((token, rest)) = tokens.split_first() else {
        *document = value.clone();
        return Ok(());
    };
    match token {
        Token::End => {
            ensure!(rest.is_empty(), "- is not the last step");
            list(document)?.push(value.clone());
            Ok(())
        }
        Token::Index(index) => replace(item(document, *index)?, rest, value),
        Token::Match { key, value: wanted, optional } => {
            let items = list(document)?;
            let at = match (position(items, key, wanted)?, optional) {
                (Some(at), _) => at,
                (None, false) => bail!("no item with {key}={wanted}"),
                (None, true) => {
                    let made = Mapping::from_iter([(key.as_str().into(), wanted.as_str().into())]);
                    items.push(made.into());
                    items.len() - 1
                }
            };
            replace(&mut items[at], rest, value)
        }
        Token::Key { key, optional } => {
            let map = document.as_mapping_mut().with_context(|| format!("no mapping at {key}"))?;
            if !map.contains_key(key) {
                ensure!(*optional, "no key {key}; {key}? would add it");
                map.insert(key.as_str().into(), made_for(rest.first()));
            }
            replace(&mut map[key.as_str()], rest, value)
        }
    }
}

/// What an optional step makes so that the next one finds its place.
fn made_for(next: Option<&Token>) -> Value {
    match next {
        Some(Token::Key { .. }) => Mapping::new().into(),
        Some(_) => Value::Sequence(Vec::new()),
        None => Value::Null,
    }
}

fn remove(document: &mut Value, tokens: &[Token]) -> anyhow::Result<()> {
    let (token, rest) = tokens.split_first().context("the whole document cannot be removed")?;
    let last = rest.is_empty();
    match token {
        Token::End => bail!("- names no item to remove"),
        Token::Index(index) if last => {
            let at = at(list(document)?, *index)?;
            list(document)?.remove(at);
            Ok(())
        }
        Token::Index(index) => remove(item(document, *index)?, rest),
        Token::Match { key, value, optional } => {
            let items = list(document)?;
            match position(items, key, value)? {
                None if *optional => Ok(()),
                None => bail!("no item with {key}={value}"),
                Some(at) if last => {
                    items.remove(at);
                    Ok(())
                }
                Some(at) => remove(&mut items[at], rest),
            }
        }
        Token::Key { key, optional } => {
            let map = document.as_mapping_mut().with_context(|| format!("no mapping at {key}"))?;
            match map.get_mut(key) {
                None if *optional => Ok(()),
                None => bail!("no key {key}"),
                Some(_) if last => {
                    map.remove(key);
                    Ok(())
                }
                Some(inner) => remove(inner, rest),
            }
        }
    }
}

fn list(value: &mut Value) -> anyhow::Result<&mut Vec<Value>> {
    value.as_sequence_mut().context("no list here")
}

fn at(items: &[Value], index: i64) -> anyhow::Result<usize> {
    let length = i64::try_from(items.len())?;
    let at = if index < 0 { length + index } else { index };
    ensure!((0..length).contains(&at), "no item {index} in a list of {length}");
    Ok(usize::try_from(at)?)
}

fn item(value: &mut Value, index: i64) -> anyhow::Result<&mut Value> {
    let items = list(value)?;
    let at = at(items, index)?;
    Ok(&mut items[at])
}

/// Where the one item with `key: wanted` is.
fn position(items: &[Value], key: &str, wanted: &str) -> anyhow::Result<Option<usize>> {
    let found: Vec<usize> = (0..items.len())
        .filter(|at| items[*at].get(key).and_then(Value::as_str) == Some(wanted))
        .collect();
    ensure!(found.len() < 2, "{} items with {key}={wanted}", found.len());
    Ok(found.first().copied())
}

/// Fills in every variable; one without a value is an error.
pub(crate) fn interpolate(document: &Value, variables: &Variables) -> anyhow::Result<Value> {
    let filled = substitute(document, variables)?;
    let missing = used(&filled);
    ensure!(missing.is_empty(), "variables without a value: {missing:?}");
    Ok(filled)
}

/// Fills in the variables that have a value and leaves the others.
pub(crate) fn substitute(document: &Value, variables: &Variables) -> anyhow::Result<Value> {
    Ok(match document {
        Value::String(text) => fill(text, variables)?,
        Value::Sequence(items) => items
            .iter()
            .map(|item| substitute(item, variables))
            .collect::<anyhow::Result<Vec<_>>>()?
            .into(),
        Value::Mapping(map) => map
            .iter()
            .map(|(key, value)| Ok((key.clone(), substitute(value, variables)?)))
            .collect::<anyhow::Result<Mapping>>()?
            .into(),
        other => other.clone(),
    })
}

/// Names of all variables in a document, without the part behind the dot.
pub(crate) fn used(document: &Value) -> BTreeSet<String> {
    match document {
        Value::String(text) => references(text)
            .into_iter()
            .map(|(_, name)| name.split('.').next().unwrap_or(name).to_owned())
            .collect(),
        Value::Sequence(items) => items.iter().flat_map(used).collect(),
        Value::Mapping(map) => map.values().flat_map(used).collect(),
        _ => BTreeSet::new(),
    }
}

/// `((name))` and the name of each reference in a text.
fn references(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find("((") {
        let Some(length) = rest[begin..].find("))") else { break };
        let name = &rest[begin + 2..begin + length];
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        if !name.is_empty() && name.chars().all(plain) {
            found.push((&rest[begin..begin + length + 2], name));
            rest = &rest[begin + length + 2..];
        } else {
            rest = &rest[begin + 2..];
        }
    }
    found
}

/// A text that is one variable becomes its value; one that holds variables, a text.
fn fill(text: &str, variables: &Variables) -> anyhow::Result<Value> {
    let (mut filled, mut rest) = (String::new(), text);
    for (reference, name) in references(text) {
        let mut parts = name.split('.');
        let Some(mut value) = parts.next().and_then(|root| variables.get(root)) else { continue };
        for part in parts {
            value = value.get(part).with_context(|| format!("(({name})): no {part}"))?;
        }
        if reference == text {
            return Ok(value.clone());
        }
        let part = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(bool) => bool.to_string(),
            _ => bail!("(({name})) is no text and stands inside of one: {text}"),
        };
        let (before, after) = rest.split_once(reference).context("a reference is in its text")?;
        filled.extend([before, &part]);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled.into())
}
