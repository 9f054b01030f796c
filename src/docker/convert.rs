//! From the broker's terms to those of the Docker Engine API.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as DockerMount, MountType,
    PortBinding, ResourcesUlimits, RestartPolicy as DockerRestart, RestartPolicyNameEnum,
};

use super::spec::{ContainerSpec, LOG_MAX_FILES, LOG_MAX_SIZE};
use crate::catalog::RestartPolicy;

/// The body of `POST /containers/create`.
pub(super) fn create_body(spec: &ContainerSpec, network: &str) -> ContainerCreateBody {
    let environment = spec.environment.iter().map(|(name, value)| format!("{name}={value}"));
    ContainerCreateBody {
        hostname: Some(spec.hostname.clone()),
        user: spec.user.clone(),
        exposed_ports: Some(spec.ports.keys().map(ToString::to_string).collect()),
        env: Some(environment.collect()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        entrypoint: spec.entrypoint.clone(),
        image: Some(spec.image.to_string()),
        working_dir: spec.workdir.clone(),
        labels: Some(spec.labels.to_map(&spec.hash())),
        stop_timeout: i64::try_from(spec.stop_timeout.as_secs()).ok(),
        host_config: Some(host_config(spec, network)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &ContainerSpec, network: &str) -> HostConfig {
    let limits = &spec.limits;
    HostConfig {
        memory: limits.memory_bytes,
        memory_swap: limits.memory_swap_bytes,
        cpu_shares: limits.cpu_shares,
        nano_cpus: limits.nano_cpus,
        pids_limit: limits.pids,
        shm_size: limits.shm_size_bytes,
        ulimits: limits.nofile.map(|nofile| {
            vec![ResourcesUlimits {
                name: Some("nofile".to_owned()),
                soft: Some(nofile),
                hard: Some(nofile),
            }]
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), LOG_MAX_SIZE.to_owned()),
                ("max-file".to_owned(), LOG_MAX_FILES.to_owned()),
            ])),
        }),
        network_mode: Some(network.to_owned()),
        port_bindings: Some(port_bindings(spec)),
        restart_policy: Some(restart(&spec.restart)),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        cap_add: (!spec.privileged).then(|| spec.cap_add.clone()),
        cap_drop: (!spec.privileged).then(|| spec.cap_drop.clone()),
        security_opt: spec.no_new_privileges.then(|| vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(spec.read_only),
        privileged: Some(spec.privileged),
        publish_all_ports: Some(false),
        tmpfs: Some(
            spec.tmpfs.iter().map(|tmpfs| (tmpfs.path.clone(), tmpfs.options.clone())).collect(),
        ),
        ..HostConfig::default()
    }
}

fn port_bindings(spec: &ContainerSpec) -> HashMap<String, Option<Vec<PortBinding>>> {
    let address = spec.publish_address.to_string();
    spec.ports
        .iter()
        .map(|(inner, outer)| {
            let binding =
                PortBinding { host_ip: Some(address.clone()), host_port: Some(outer.to_string()) };
            (inner.to_string(), Some(vec![binding]))
        })
        .collect()
}

/// `Mounts`, never `Binds`: those would make a missing directory, and a server would start empty.
fn mount(mount: &super::spec::Mount) -> DockerMount {
    DockerMount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.display().to_string()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..DockerMount::default()
    }
}

pub(super) fn restart(policy: &RestartPolicy) -> DockerRestart {
    let (name, retries) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        RestartPolicy::OnFailure(retries) => {
            (RestartPolicyNameEnum::ON_FAILURE, Some(i64::from(*retries)))
        }
    };
    DockerRestart { name: Some(name), maximum_retry_count: retries }
}
