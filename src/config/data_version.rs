//! `data_version` of a plan: what says the major versions of its data and of its image.

use super::{container, node::Node};
use crate::catalog::{
    ContainerPlan, DataVersion, ImageVersion, Lifecycle, is_environment_name, major,
};

/// Reads the key out of a plan's mapping.
pub(super) fn data_version(
    plan: &Node<'_>,
    container: &ContainerPlan,
    lifecycle: &Lifecycle,
) -> Option<DataVersion> {
    let Some(node) = plan.node("data_version") else {
        if lifecycle.migrate.is_some() && !plan.has("data_version") {
            plan.error("lifecycle.migrate", "needs data_version: nothing says when it is to run");
        }
        return None;
    };
    if !node.has("file") {
        node.error("file", "is missing; it is required");
    }
    let file = node.parsed("file", container::absolute);
    if let Some(file) = &file
        && !container.volumes.iter().any(|volume| is_below(file, &volume.path))
    {
        node.error("file", format!("is {file:?}, which is in none of container.volumes"));
    }
    let after = node.string("after").filter(|text| !text.is_empty());
    let may_be_missing = node.parsed("if_missing", |text| match text {
        "refuse" => Ok(false),
        "allow" => Ok(true),
        other => Err(format!("is {other:?}; it must be refuse or allow")),
    });
    let may_be_missing = may_be_missing.unwrap_or(false);
    let image = image(&node);
    node.finish();
    Some(DataVersion { file: file?, after, may_be_missing, image: image? })
}

/// Whether `file` lies in `directory`; both are absolute.
fn is_below(file: &str, directory: &str) -> bool {
    file.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn image(node: &Node<'_>) -> Option<ImageVersion> {
    let Some(image) = node.node("image") else {
        if !node.has("image") {
            node.error("image", "is missing; it is required");
        }
        return None;
    };
    let given: Vec<_> =
        ["environment", "exec", "value"].into_iter().filter(|key| image.has(key)).collect();
    let version = match given.as_slice() {
        ["environment"] => image
            .parsed("environment", |name| {
                let wrong = || format!("is {name:?}, which is no environment variable name");
                is_environment_name(name).then(|| name.to_owned()).ok_or_else(wrong)
            })
            .map(ImageVersion::Environment),
        ["exec"] => {
            let command = container::words(&image, "exec").unwrap_or_default();
            if command.is_empty() {
                image.error("exec", "must name a command");
            }
            Some(ImageVersion::Exec(command))
        }
        ["value"] => image
            .parsed("value", |text| match major(text) {
                Some(_) => Ok(text.to_owned()),
                None => Err(format!("is {text:?}, in which there is no number")),
            })
            .map(ImageVersion::Value),
        _ => {
            node.error("image", "must have one of environment, exec and value");
            None
        }
    };
    image.finish();
    version
}
