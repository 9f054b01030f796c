//! Properties: specs, templates and docs/properties.md say the same.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, ensure};
use serde_yaml::Value;

use super::JOBS;
use crate::support::render::root;

fn spec(job: &str) -> anyhow::Result<Value> {
    let text = fs::read_to_string(root().join("jobs").join(job).join("spec"))?;
    serde_yaml::from_str(&text).with_context(|| format!("the spec of {job}"))
}

/// Name and definition of each property, in the order of the spec.
fn properties(spec: &Value) -> anyhow::Result<Vec<(String, &Value)>> {
    let properties = spec["properties"].as_mapping().context("properties")?;
    properties
        .iter()
        .map(|(name, definition)| Ok((name.as_str().context("a name")?.to_owned(), definition)))
        .collect()
}

/// The text of each template of the job, and monit.
fn templates(job: &str, spec: &Value) -> anyhow::Result<BTreeMap<String, String>> {
    let directory = root().join("jobs").join(job);
    let names = spec["templates"].as_mapping().context("templates")?.keys();
    let mut texts =
        BTreeMap::from([("monit".into(), fs::read_to_string(directory.join("monit"))?)]);
    for name in names {
        let name = name.as_str().context("a file")?;
        let text = fs::read_to_string(directory.join("templates").join(name));
        texts.insert(name.to_owned(), text.with_context(|| format!("{job}: {name}"))?);
    }
    Ok(texts)
}

/// Names and defaults in the table below `## job`, with the meaning.
fn documented(job: &str) -> anyhow::Result<Vec<[String; 3]>> {
    let text = fs::read_to_string(root().join("docs/properties.md"))?;
    let section = text.split(&format!("\n## {job}\n")).nth(1).context("a section for each job")?;
    let table = section.split("\n\n").find(|part| part.trim_start().starts_with("| property |"));
    let cells = |row: &str| {
        let cells: Vec<_> = row.trim_matches('|').splitn(3, '|').map(str::trim).collect();
        let [name, default, meaning] = cells[..] else { anyhow::bail!("{row}") };
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        Ok([plain(name), plain(default), meaning.to_owned()])
    };
    table.context("a table of properties")?.trim().lines().skip(2).map(cells).collect()
}

#[test]
fn the_reference_has_every_property_with_its_default_and_description() -> anyhow::Result<()> {
    for job in JOBS {
        let spec = spec(job)?;
        let properties = properties(&spec)?;
        let rows = documented(job)?;
        let names: Vec<_> = properties.iter().map(|(name, _)| name).collect();
        assert_eq!(rows.iter().map(|row| &row[0]).collect::<Vec<_>>(), names, "{job}");
        for ((name, definition), [_, default, meaning]) in properties.iter().zip(&rows) {
            let default: Value = serde_yaml::from_str(default)?;
            let expected = definition.get("default").cloned().unwrap_or(Value::Null);
            assert_eq!(default, expected, "{job}: default of {name}");
            let description = definition["description"].as_str().context("a description")?;
            assert_eq!(meaning, description.trim(), "{job}: meaning of {name}");
        }
    }
    Ok(())
}

#[test]
fn a_property_is_described_in_sentences_and_has_an_example_if_it_is_a_list() -> anyhow::Result<()> {
    for job in JOBS {
        let spec = spec(job)?;
        for (name, definition) in properties(&spec)? {
            let description = definition["description"].as_str().context(name.clone())?.trim();
            ensure!(description.ends_with('.'), "{job}: {name}: {description}");
            let list =
                definition.get("default").is_some_and(|it| it.is_sequence() || it.is_mapping());
            ensure!(!list || definition.get("example").is_some(), "{job}: {name} has no example");
        }
    }
    Ok(())
}

#[test]
fn a_credential_has_no_default() -> anyhow::Result<()> {
    let words = ["password", "username", "key", "certificate", "tls_"];
    let mut credentials = 0;
    for job in JOBS {
        let spec = spec(job)?;
        for (name, definition) in properties(&spec)? {
            if words.iter().any(|word| name.contains(word)) {
                credentials += 1;
                ensure!(definition.get("default").is_none(), "{job}: {name} has a default");
            }
        }
    }
    ensure!(credentials >= 8, "only {credentials} were found");
    Ok(())
}

#[test]
fn every_property_is_used_by_a_template_or_the_link() -> anyhow::Result<()> {
    for job in JOBS {
        let spec = spec(job)?;
        let templates = templates(job, &spec)?;
        let linked: Vec<_> = spec["provides"]
            .as_sequence()
            .into_iter()
            .flatten()
            .flat_map(|link| link["properties"].as_sequence().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        for (name, _) in properties(&spec)? {
            let quoted = format!("'{name}'");
            let used = templates.values().any(|text| text.contains(&quoted));
            ensure!(used || linked.contains(&name.as_str()), "{job}: nobody uses {name}");
        }
        for name in linked {
            ensure!(spec["properties"].get(name).is_some(), "{job}: the link has {name}");
        }
    }
    Ok(())
}

#[test]
fn templates_use_no_property_that_the_spec_does_not_have() -> anyhow::Result<()> {
    for job in JOBS {
        let spec = spec(job)?;
        for (template, text) in templates(job, &spec)? {
            // Those of links are somebody else's.
            let text = text.replace("link.p('", "").replace("link.if_p('", "");
            // `p('name'` and `if_p('name'`; names in variables are in the list of the test above.
            for found in text.split("p('").skip(1) {
                let name = found.split('\'').next().context("a name")?;
                let known = spec["properties"].get(name).is_some();
                ensure!(known, "{job}: {template} uses {name}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_template_is_in_the_spec() -> anyhow::Result<()> {
    for job in JOBS {
        let spec = spec(job)?;
        let mut listed: Vec<_> = templates(job, &spec)?.into_keys().collect();
        listed.retain(|name| name != "monit");
        let mut there = Vec::new();
        for entry in fs::read_dir(root().join("jobs").join(job).join("templates"))? {
            there.push(entry?.file_name().to_string_lossy().into_owned());
        }
        there.sort();
        assert_eq!(listed, there, "{job}");
        assert_eq!(spec["name"], job);
    }
    Ok(())
}

#[test]
fn the_links_are_those_that_others_know() -> anyhow::Result<()> {
    let link = |job: &str, name: &str| -> anyhow::Result<(String, Vec<String>)> {
        let spec = spec(job)?;
        let link = spec["provides"].as_sequence().context("links")?;
        let link = link.iter().find(|link| link["name"] == name).context("the link")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let properties = link["properties"].as_sequence().context("properties")?;
        Ok((text(&link["type"]), properties.iter().map(text).collect()))
    };
    let (kind, properties) = link("docker-broker", "docker-broker")?;
    assert_eq!(kind, "servicebroker");
    let known =
        ["username", "password", "port", "external_host", "ssl_enabled", "name", "services"];
    assert_eq!(properties[..known.len()], known);
    assert_eq!(properties[known.len()..], ["tls.ca"]);

    let (kind, properties) = link("docker", "docker")?;
    assert_eq!(kind, "docker-tcp");
    assert_eq!(properties, ["tcp_port", "tls_cacert", "tls_cert", "tls_key"]);
    Ok(())
}
