//! docker-broker: an Open Service Broker that runs each service instance in a Docker container of
//! its own, on a directory of its own.
//!
//! The rooms, and the only direction in which they use one another:
//!
//! ```text
//! main, serve -> osb -> lifecycle -> { docker, store, credentials, certificates, disk, catalog }
//! main -> admin -> lifecycle (its survey), store (reading), docker, disk, catalog, api_client
//! main -> sanity_test -> { docker, credentials, catalog }, api_client, probe
//!                config -> catalog
//! ```
//!
//! Only `osb` names warp, only `docker` bollard, only `store` rusqlite, only `credentials`
//! handlebars, only `cli` clap, only `certificates` rcgen. `docs/architecture.md` tells more.

pub mod admin;
pub mod adopt;
pub mod api_client;
pub mod catalog;
pub mod certificates;
pub mod cli;
pub mod cloud_foundry;
pub mod config;
pub mod credentials;
pub mod disk;
pub mod docker;
pub mod lifecycle;
pub mod new_service;
pub mod osb;
pub mod probe;
pub mod progress;
pub mod rescue;
pub mod sanity_test;
pub mod serve;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod try_services;
pub mod wait;
