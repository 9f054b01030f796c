//! The broker as a platform and its operator see it: the real binary, real dockerd, real servers.

#[expect(dead_code, reason = "each part of the suite uses its own share of it")]
mod support;

mod bad_connections;
mod bad_input;
mod bindings;
mod catalog;
mod concurrency;
mod deprovision;
mod headers;
mod ids;
mod main_path;
mod openapi;
mod parameters;
mod provision;
mod update;
