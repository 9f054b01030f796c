//! A broker of one's own per test: unique name, port 0, a data directory of its own, and nothing
//! left of it afterwards.

mod amqp;
mod arguments;
mod broker;
mod client;
mod cloud_foundry;
mod command;
mod daemon;
mod docker;
mod health;
mod hooked;
mod legacy;
mod openapi;
mod operator;
mod raw;
mod redis;
mod registrar;
mod registry;
mod services;
mod session;
mod tls;
mod upgrades;

pub(crate) use amqp::Amqp;
pub(crate) use arguments::Arguments;
pub(crate) use broker::{Builder, TestBroker, reserve_ports};
pub(crate) use client::{Client, Issued, Reply};
pub(crate) use cloud_foundry::{ADMIN, CLIENT, Fault, KnownBroker, NOBODY, Platform, Tls};
pub(crate) use command::{Finished, docker_broker};
pub(crate) use daemon::Daemon;
pub(crate) use docker::{docker, docker_ok, in_image, remove_labelled};
pub(crate) use hooked::{HOOKED, go_on, hooked_yaml, users};
pub(crate) use legacy::{Legacy, Recipe, derived, ephemeral_ports, guid, life};
pub(crate) use openapi::violations;
pub(crate) use raw::Connection;
pub(crate) use redis::Redis;
pub(crate) use registrar::{BROKER, registrar, registrar_settings};
pub(crate) use registry::{PASSWORD, Registry, USERNAME};
pub(crate) use services::{
    REDIS, SWITCH, busybox_service, plan_of, redis_yaml, service_file, switch_yaml,
};
pub(crate) use session::Session;
pub(crate) use tls::{Ca, client, session, shown_certificate};
pub(crate) use upgrades::{
    BY_ENVIRONMENT, Tag, container_id, offered, restart_on, upgrade, upgrade_body, versioned_yaml,
};

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

/// Longest time for anything that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until `attempt` gives something; panics with what it said last.
pub(crate) async fn eventually<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(last) if Instant::now() > end => panic!("waited in vain for {what}: {last}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A short random word for names.
pub(crate) fn unique(prefix: &str) -> String {
    use rand::RngCore;
    format!("{prefix}{:08x}", rand::rng().next_u32())
}
