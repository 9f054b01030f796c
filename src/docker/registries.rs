//! Registries that need a CA, or that are insecure.

use std::path::Path;

use super::{DockerError, Engine, engine::QUICK};
use crate::config::Registry;

/// Puts each registry's CA where dockerd looks for it at every pull.
///
/// # Errors
/// [`DockerError::File`] when a CA cannot be written.
pub fn prepare_registries(registries: &[Registry], directory: &Path) -> Result<(), DockerError> {
    for registry in registries {
        let Some(ca) = &registry.ca_certificate else { continue };
        let wrap = |verb, path: &Path| {
            let path = path.display().to_string();
            move |source| DockerError::File { verb, path, source }
        };
        let folder = directory.join(&registry.host);
        let target = folder.join("ca.crt");
        if std::fs::read(&target).is_ok_and(|known| known == ca.as_bytes()) {
            continue;
        }
        std::fs::create_dir_all(&folder).map_err(wrap("make", &folder))?;
        let mut file =
            tempfile::NamedTempFile::new_in(&folder).map_err(wrap("write in", &folder))?;
        std::io::Write::write_all(&mut file, ca.as_bytes()).map_err(wrap("write", &target))?;
        file.persist(&target).map_err(|error| wrap("write", &target)(error.error))?;
    }
    Ok(())
}

/// Registries that the configuration calls insecure while dockerd insists on TLS. Each is a
/// sentence for the operator.
///
/// # Errors
/// [`DockerError`] when dockerd cannot be asked.
pub async fn registry_problems(
    engine: &Engine,
    registries: &[Registry],
) -> Result<Vec<String>, DockerError> {
    if !registries.iter().any(|registry| registry.insecure) {
        return Ok(Vec::new());
    }
    let request = async |docker: &bollard::Docker| docker.info().await;
    let info = engine.call("report", "its settings", QUICK, request).await?;
    let config = info.registry_config.unwrap_or_default();
    let indexes = config.index_configs.unwrap_or_default();
    let networks = config.insecure_registry_cidrs.unwrap_or_default();
    let allowed = |registry: &Registry| {
        let host = registry.host.split(':').next().unwrap_or_default();
        indexes.get(&registry.host).is_some_and(|index| index.secure == Some(false))
            || networks.iter().any(|network| contains(network, host))
    };
    Ok(registries
        .iter()
        .filter(|registry| registry.insecure && !allowed(registry))
        .map(|registry| {
            format!(
                "registry {} is insecure by configuration, but the Docker engine insists on TLS; \
                 add it to the engine's insecure-registries",
                registry.host
            )
        })
        .collect())
}

/// Whether an IPv4 network such as `127.0.0.0/8` contains `host`.
fn contains(network: &str, host: &str) -> bool {
    let Some((base, length)) = network.split_once('/') else { return false };
    let parse = |text: &str| text.parse::<std::net::Ipv4Addr>().ok().map(u32::from);
    let (Some(base), Some(host), Ok(length)) = (parse(base), parse(host), length.parse::<u32>())
    else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
    base & mask == host & mask
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_network_contains_its_hosts_only() {
        assert!(super::contains("127.0.0.0/8", "127.1.2.3"));
        assert!(!super::contains("10.88.0.0/16", "10.89.0.1"));
        assert!(!super::contains("10.88.0.0/16", "registry.example.com"));
    }
}
