#![expect(clippy::unwrap_used, reason = "a test ends with what it did not find")]
#![expect(clippy::print_stdout, reason = "the log of a broker is shown when its test fails")]
//! The broker as a platform and its operator see it: the real binary, real dockerd, real servers.

#[expect(dead_code, reason = "each part of the suite uses its own share of it")]
mod support;

mod bad_connections;
mod bad_input;
mod binding_users;
mod binding_users_brokers;
mod binding_users_mariadb;
mod binding_users_postgres;
mod binding_users_redis;
mod bindings;
mod bindings_async;
mod bindings_expire;
mod catalog;
mod concurrency;
mod configuration;
mod configuration_commands;
mod configuration_problems;
mod deprovision;
mod disk_full;
mod dockerd_away;
mod existing_containers;
mod headers;
mod hooks;
mod hooks_of_image;
mod hooks_unbind;
mod https;
mod ids;
mod images;
mod images_directory;
mod images_registries;
mod isolation;
mod keys;
mod kill_at_every_step;
mod main_path;
mod new_service;
mod openapi;
mod own_daemon;
mod parameters;
mod process;
mod process_start;
mod provision;
mod recovery;
mod registrar;
mod registrar_faults;
mod sanity_test;
mod service_tls;
mod service_tls_settings;
mod shared_containers;
mod shared_databases;
mod shipped_services;
mod static_credentials;
mod try_service;
mod update;
