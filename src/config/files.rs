//! From files to one configuration: the settings file, service files, directories, globs, and
//! BOSH ops files as they are.

use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::{
    Configuration, Overrides, Problem, Severity, node::Node, problems::Problems, services,
    settings, uniqueness,
};
use crate::catalog::{Catalog, Service};

/// Reads the settings file (when there is one) and all services.
///
/// Returns the configuration, unless there are errors, and everything that was found.
#[must_use]
pub fn load(
    settings_file: Option<&Path>,
    service_files: &[PathBuf],
    overrides: &Overrides,
) -> (Option<Configuration>, Vec<Problem>) {
    let problems = Problems::default();
    let mut found = Found::default();
    let empty = Value::Mapping(Mapping::new());
    let (document, prefix) = match settings_file {
        Some(file) => (read(file, &problems), format!("{}: ", file.display())),
        None => (None, String::new()),
    };
    let document = document.unwrap_or(empty);
    let mut settings = None;
    let mut named = !service_files.is_empty();
    if let Some(node) = Node::new(&document, prefix, &problems) {
        settings = Some(settings::settings(&node, overrides));
        for entry in node.nodes("services") {
            found.add(entry);
        }
        let base = settings_file.and_then(Path::parent).unwrap_or(Path::new("."));
        for pattern in node.strings("service_files").unwrap_or_default() {
            found.add_pattern(&base.join(pattern), &problems);
        }
        named |= node.has("services") || node.has("service_files");
        node.finish();
    }
    for pattern in service_files {
        found.add_pattern(pattern, &problems);
    }
    if !named {
        problems.warning("services", "none are configured; give some with --services PATH");
    }
    uniqueness::check(&found.services, &found.places, &problems);
    let catalog = Catalog::new(found.services);
    let problems = problems.into_vec();
    let failed = problems.iter().any(|problem| problem.severity == Severity::Error);
    let configuration = match settings {
        Some(settings) if !failed => Some(Configuration { settings, catalog }),
        _ => None,
    };
    (configuration, problems)
}

/// Reads services alone.
#[must_use]
pub fn load_services(service_files: &[PathBuf]) -> (Option<Catalog>, Vec<Problem>) {
    let (configuration, problems) = load(None, service_files, &Overrides::default());
    (configuration.map(|configuration| configuration.catalog), problems)
}

/// Services and the paths where they were found.
#[derive(Default)]
struct Found {
    services: Vec<Service>,
    places: Vec<String>,
}

impl Found {
    fn add(&mut self, node: Node<'_>) {
        self.places.push(node.path_of("").trim_end_matches(['.', ' ', ':']).to_owned());
        self.services.push(services::service(node));
    }

    /// A file, every `*.yml` and `*.yaml` of a directory, or a glob.
    fn add_pattern(&mut self, pattern: &Path, problems: &Problems) {
        let shown = pattern.display().to_string();
        if pattern.is_dir() {
            return self.add_directory(pattern, problems);
        }
        if pattern.is_file() {
            return self.add_file(pattern, problems);
        }
        let files = match glob::glob(&shown) {
            Ok(paths) => paths,
            Err(error) => return problems.error(shown, format!("is no file or glob: {error}")),
        };
        let mut any = false;
        for file in files {
            any = true;
            match file {
                Ok(file) => self.add_file(&file, problems),
                Err(error) => problems.error(&shown, error.to_string()),
            }
        }
        if !any {
            problems.error(shown, "matches no file");
        }
    }

    fn add_directory(&mut self, directory: &Path, problems: &Problems) {
        let shown = directory.display().to_string();
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()),
            Err(error) => return problems.error(shown, format!("cannot be listed: {error}")),
        };
        let is_yaml = |path: &PathBuf| {
            let extension = path.extension().unwrap_or_default();
            (extension == "yml" || extension == "yaml") && path.is_file()
        };
        let mut files: Vec<PathBuf> = entries.filter(is_yaml).collect();
        files.sort();
        for file in &files {
            self.add_file(file, problems);
        }
        if files.is_empty() {
            problems.error(shown, "is a directory without *.yml or *.yaml files");
        }
    }

    fn add_file(&mut self, file: &Path, problems: &Problems) {
        let Some(document) = read(file, problems) else { return };
        let shown = file.display();
        match &document {
            Value::Sequence(items) if items.iter().any(is_operation) => {
                for (index, item) in items.iter().enumerate().filter(|(_, item)| adds_service(item))
                {
                    let path = format!("{shown}: [{index}].value");
                    if let Some(node) =
                        item.get("value").and_then(|value| Node::new(value, path, problems))
                    {
                        self.add(node);
                    }
                }
                if !items.iter().any(adds_service) {
                    problems.warning(shown.to_string(), "has no operation on /…/services/-");
                }
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Some(node) = Node::new(item, format!("{shown}: [{index}]"), problems) {
                        self.add(node);
                    }
                }
            }
            Value::Mapping(map) if map.contains_key("services") => {
                if let Some(node) = Node::new(&document, format!("{shown}: "), problems) {
                    for entry in node.nodes("services") {
                        self.add(entry);
                    }
                    node.finish();
                }
            }
            Value::Mapping(_) => {
                if let Some(node) = Node::new(&document, format!("{shown}: "), problems) {
                    self.add(node);
                }
            }
            _ => problems.error(shown.to_string(), "holds neither services nor BOSH operations"),
        }
    }
}

/// Whether an item of a list is a BOSH operation rather than a service.
pub(super) fn is_operation(item: &Value) -> bool {
    item.get("path").is_some() && item.get("type").is_some()
}

/// Whether an operation appends to a list of services.
fn adds_service(item: &Value) -> bool {
    let text = |key| item.get(key).and_then(Value::as_str).unwrap_or_default();
    text("type") == "replace" && text("path").ends_with("/services/-")
}

/// A YAML file as one document; `None` after a problem was reported.
pub(super) fn read(file: &Path, problems: &Problems) -> Option<Value> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| problems.error(&shown, format!("cannot be read: {error}")))
        .ok()?;
    let mut value: Value = serde_yaml::from_str(&text)
        .map_err(|error| problems.error(&shown, format!("is not valid YAML: {error}")))
        .ok()?;
    if let Err(error) = value.apply_merge() {
        problems.error(&shown, format!("has a wrong merge key: {error}"));
        return None;
    }
    if value.is_null() {
        problems.warning(&shown, "is empty");
        return None;
    }
    Some(value)
}
