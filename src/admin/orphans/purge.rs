//! `orphans --purge NAME...`: removes what was named, and nothing else.

use std::io::Write;

use super::{Finding, Kind, Site, find};
use crate::config::Configuration;

/// Removes these. What is no orphan, or is not this broker's, is refused and left alone. Whether all
/// were removed.
///
/// # Errors
/// When the store, dockerd or the disk cannot be read.
pub async fn purge(
    configuration: &Configuration,
    names: &[String],
    out: &mut (impl Write + Send),
) -> anyhow::Result<bool> {
    let site = Site::open(configuration).await?;
    let mut all = true;
    for name in names {
        // Looked at anew for each: a container may have been what kept a directory.
        let findings = find::findings(&site).await?;
        let ended = match choose(&findings, name) {
            Ok(finding) => remove(&site, finding).await,
            Err(why) => Err(match why {
                Some(why) => why,
                None => explain(&site, name).await?,
            }),
        };
        match ended {
            Ok(done) => writeln!(out, "{name}: {done}")?,
            Err(why) => {
                all = false;
                writeln!(out, "{name}: not removed: {why}")?;
            }
        }
    }
    Ok(all)
}

/// `None` as the reason: there is no such finding.
fn choose<'a>(findings: &'a [Finding], name: &str) -> Result<&'a Finding, Option<String>> {
    let is_meant = |finding: &&Finding| {
        let with_kind = || format!("{}:{}", finding.kind.as_str(), finding.name);
        finding.kind != Kind::Instance
            && (finding.name == name
                || finding.docker_id.as_deref() == Some(name)
                || with_kind() == name)
    };
    let meant: Vec<&Finding> = findings.iter().filter(is_meant).collect();
    match meant[..] {
        [] => Err(None),
        [finding] if finding.purgeable => Ok(finding),
        [finding] => Err(Some(finding.reason.clone())),
        _ => {
            let all: Vec<String> = meant
                .iter()
                .map(|one| match &one.docker_id {
                    Some(id) => id.clone(),
                    None => format!("{}:{}", one.kind.as_str(), one.name),
                })
                .collect();
            Err(Some(format!("it may mean several; say one of {}", all.join(", "))))
        }
    }
}

/// Why something that was named is no orphan.
async fn explain(site: &Site<'_>, name: &str) -> anyhow::Result<String> {
    let instances = site.survey().await?;
    let owns = |one: &&crate::lifecycle::Surveyed| {
        one.name == name || one.id == name || one.container.as_deref() == Some(name)
    };
    if let Some(instance) = instances.iter().find(owns) {
        return Ok(format!("it belongs to instance {}", instance.id));
    }
    let containers = site.engine.list_everything().await?;
    if let Some(found) = containers.iter().find(|one| one.name == name || one.id == name) {
        return Ok(if found.owner.as_deref() == Some(site.engine.owner()) {
            "it is in use".to_owned()
        } else {
            "it is not this broker's".to_owned()
        });
    }
    Ok("there is no orphan of that name".to_owned())
}

/// What was done; or why not.
async fn remove(site: &Site<'_>, finding: &Finding) -> Result<String, String> {
    let failed = |error: anyhow::Error| format!("{error:#}");
    let id = finding.docker_id.as_deref().unwrap_or_default();
    let mut measured = [finding.clone()];
    find::measure(site, &mut measured).await.map_err(failed)?;
    let [finding] = &measured;
    match finding.kind {
        Kind::Container => {
            let found = site.engine.list_everything().await.map_err(|e| failed(e.into()))?;
            let is_ours = |one: &crate::docker::ListedContainer| {
                one.id == id && one.owner.as_deref() == Some(site.engine.owner())
            };
            if !found.iter().any(is_ours) {
                return Err("it is gone, or not this broker's".to_owned());
            }
            // By its id: another one may get its name.
            site.engine.remove_own(id).await.map_err(|e| failed(e.into()))?;
            Ok(format!("container removed{}", size(finding)))
        }
        Kind::Network => {
            site.engine.remove_network(id).await.map_err(|e| failed(e.into()))?;
            Ok("network removed".to_owned())
        }
        Kind::Directory => directory(site, finding).await,
        Kind::Trash => {
            let (disk, name) = (site.disk.clone(), find::in_trash(&finding.name).to_owned());
            let removed = tokio::task::spawn_blocking(move || disk.remove_from_trash(&name)).await;
            removed.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))?;
            Ok(format!("removed{}", size(finding)))
        }
        Kind::Instance => Err("an instance is deleted by its platform".to_owned()),
    }
}

/// First out of the way, in one rename. If an instance of that name was made meanwhile it comes back.
async fn directory(site: &Site<'_>, finding: &Finding) -> Result<String, String> {
    let failed = |error: anyhow::Error| format!("{error:#}");
    // Measuring it may have taken a while.
    if let Some(why) = find::hindrance_of(site, &finding.name).await.map_err(failed)? {
        return Err(why);
    }
    let (disk, name) = (site.disk.clone(), finding.name.clone());
    let buried = tokio::task::spawn_blocking(move || disk.move_to_trash(&name)).await;
    let buried = buried.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))?;
    let Some(grave) = buried else { return Err("it is gone".to_owned()) };
    let owner = site.survey().await.map(|instances| {
        instances.into_iter().find(|one| one.name == finding.name).map(|one| one.id)
    });
    let kept = match owner {
        Ok(None) => None,
        Ok(Some(id)) => Some(format!("it belongs to instance {id}, which was made just now")),
        Err(error) => Some(failed(error)),
    };
    let ended = tokio::task::spawn_blocking(move || match kept {
        None => grave.destroy().map(|()| None),
        Some(why) => grave.restore().map(|()| Some(why)),
    });
    match ended.await.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))? {
        None => Ok(format!("directory removed{}", size(finding))),
        Some(why) => Err(why),
    }
}

fn size(finding: &Finding) -> String {
    finding.bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes ({})", finding.size()))
}
