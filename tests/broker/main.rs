//! The broker as a platform and its operator see it: the real binary, real dockerd, real servers.

#[expect(dead_code, reason = "each part of the suite uses its own share of it")]
mod support;

mod configuration;
mod configuration_commands;
mod configuration_problems;
mod https;
mod images;
mod images_directory;
mod images_registries;
mod main_path;
mod own_daemon;
mod process;
mod process_start;
