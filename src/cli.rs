//! Arguments and exit codes.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{LogFormat, Overrides, PortRange, parse_duration};

/// Exit code of a wrong configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;
/// Exit code of everything else that fails while running. Wrong usage is 2, by clap.
pub const EXIT_RUNTIME: u8 = 1;
/// Exit code for something that an operator has to look after: orphans, records that are damaged.
pub const EXIT_ATTENTION: u8 = 10;

const EXAMPLES: &str = "\
Examples:
  docker-broker serve --services services/op-redis7.yml
      A broker for a look: data below ./docker-broker-data, password generated there.
  docker-broker serve --config /etc/docker-broker/broker.yml
      A broker by its settings file (docs/configuration.md).
  docker-broker check-config --config broker.yml
      Every problem of a configuration at once; exit code 78 if there are errors.
  docker-broker upgrade-all --config /etc/docker-broker/broker.yml --dry-run
      What an upgrade would change, instance by instance (docs/upgrade.md).
  docker-broker new-service redis:7 --output op-redis7.yml
  docker-broker try op-redis7.yml
      A service of your own: a file to begin with, and its test (docs/service-authors.md).
  docker-broker convert-ops op-redis32.yml > op-redis32-new.yml
      An ops file of cf-containers-broker for this release; warnings say what changes.
  docker-broker wait --url http://127.0.0.1:8080 --timeout 2m
      For scripts: returns when the broker is ready.";

/// An Open Service Broker that runs each service instance in a Docker container of its own.
#[derive(Debug, Parser)]
#[command(name = "docker-broker", version, about, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the Open Service Broker API until SIGTERM or Ctrl-C.
    Serve(ConfigurationArgs),
    /// Check the configuration and list everything that is wrong with it.
    CheckConfig(ConfigurationArgs),
    /// Obtain the images of all plans, and say which cannot be had.
    FetchImages(ConfigurationArgs),
    /// Print the OSB catalog as JSON.
    Catalog(ConfigurationArgs),
    /// Wait until a broker is ready: dockerd answers, the store works, recovery is done.
    Wait(WaitArgs),
    /// Turn ops files for the job cf-containers-broker into one for this release, on standard output.
    ConvertOps(ConvertArgs),
    /// Take every plan of the running broker through its whole life: provision, bind, connect,
    /// bind again, unbind, deprovision. Exit code 0 only if all of it works.
    SanityTest(SanityTestArgs),
    /// Seal everything that is stored with the first of the encryption keys, so that the others can
    /// be removed. The broker must be stopped; its next start would do the same.
    RotateKeys(ConfigurationArgs),
    /// List every instance: container, ports, versions, what an upgrade would change, health.
    Instances(InstancesArgs),
    /// Bring every instance of the running broker to what its catalog says: image, environment,
    /// limits, hooks. Run again, it goes on where it stopped. Exit code 0 only if all are up to
    /// date.
    UpgradeAll(UpgradeAllArgs),
    /// List what has no instance (containers, directories, networks, leftovers) and instances that
    /// lack their container or directory. Exit code 10 when there are any.
    Orphans(OrphansArgs),
    /// Take over the containers of cf-containers-broker that are on this machine, and their
    /// directories, without stopping them: same ports, same credentials. The broker must be
    /// stopped meanwhile. Exit code 1 if one of them cannot be taken over.
    Adopt(AdoptArgs),
    /// Make a lost store anew from the records beside the instances' data; for a broker that does
    /// not run
    RebuildStore(ConfigurationArgs),
    /// Write a service file to begin with, out of an image's ports, volumes, user and environment.
    /// The image is pulled if it is not here.
    NewService(NewServiceArgs),
    /// Run the sanity test of service files: on a broker of its own, with a temporary directory and
    /// a free range of ports, of which nothing is left.
    Try(TryArgs),
    /// Print the version.
    Version,
}

/// Where the configuration comes from. Arguments win over the settings file.
#[derive(Debug, Args)]
pub struct ConfigurationArgs {
    /// Settings file (YAML).
    #[arg(long, env = "DOCKER_BROKER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Services: a file, a directory or a glob; a BOSH ops file as it is. May be repeated.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    services: Vec<PathBuf>,
    /// Directory for the store, keys and instance data [default: docker-broker-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name of this broker: prefix of its containers, owner of its labels [default: docker-broker].
    #[arg(long)]
    name: Option<String>,
    /// Address of the API [default: 127.0.0.1].
    #[arg(long, value_name = "IP")]
    listen: Option<IpAddr>,
    /// Port of the API; 0 takes any free one [default: 8080].
    #[arg(long)]
    port: Option<u16>,
    /// User name of the API [default: broker].
    #[arg(long, env = "DOCKER_BROKER_USERNAME")]
    username: Option<String>,
    /// File with the password of the API; or set `DOCKER_BROKER_PASSWORD`. Without either one is
    /// generated and kept in the data directory.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The Docker engine [default: unix:///var/run/docker.sock].
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    docker_url: Option<String>,
    /// Address on which instances' ports are published [default: 127.0.0.1].
    #[arg(long, value_name = "IP")]
    external_ip: Option<IpAddr>,
    /// Host that bindings name instead of the external IP, for example a DNS name.
    #[arg(long, value_name = "HOST")]
    external_host: Option<String>,
    /// Shape of the log.
    #[arg(long, value_enum)]
    log_format: Option<LogFormatArg>,
    /// Level of the log: error, warn, info, debug, or a filter [default: info].
    #[arg(long)]
    log_level: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArg {
    Text,
    Json,
}

/// Arguments of `convert-ops`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Ops files. What they make together is one new ops file.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Where the broker listens (plain HTTP).
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// The broker's settings file, instead of its URL.
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub config: Option<PathBuf>,
    /// How long to wait.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `sanity-test`.
#[derive(Debug, Args)]
pub struct SanityTestArgs {
    /// The configuration of the broker that runs on this machine.
    #[command(flatten)]
    pub configuration: ConfigurationArgs,
    /// Only this service, or this plan of it. May be repeated.
    #[arg(long, value_name = "SERVICE[/PLAN]")]
    pub only: Vec<String>,
    /// Longest time of one operation.
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `instances`.
#[derive(Debug, Args)]
pub struct InstancesArgs {
    /// The configuration of the broker that runs on this machine.
    #[command(flatten)]
    pub configuration: ConfigurationArgs,
    /// As JSON (docs/operations.md).
    #[arg(long)]
    pub json: bool,
    /// With the disk space of each instance, whose directory is walked for that.
    #[arg(long)]
    pub sizes: bool,
}

/// Arguments of `upgrade-all`.
#[derive(Debug, Args)]
pub struct UpgradeAllArgs {
    /// The configuration of the broker that runs on this machine.
    #[command(flatten)]
    pub configuration: ConfigurationArgs,
    /// Only show what would be changed.
    #[arg(long)]
    pub dry_run: bool,
    /// So many instances first, one after the other; if one fails nothing else is begun.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub canaries: usize,
    /// How many upgrades run at the same time, after the canaries.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub max_in_flight: usize,
    /// Go on with the others when one has failed.
    #[arg(long)]
    pub continue_on_failure: bool,
    /// Only instances of this service, or of this plan of it. May be repeated.
    #[arg(long, value_name = "SERVICE[/PLAN]")]
    pub only: Vec<String>,
    /// Only this instance. May be repeated.
    #[arg(long, value_name = "ID")]
    pub instance: Vec<String>,
    /// Pause before an instance on which another operation runs is tried again.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub attempt_interval: Duration,
    /// How often one instance is tried.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub attempt_limit: u32,
    /// Longest time of one upgrade.
    #[arg(long, default_value = "30m", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `orphans`.
#[derive(Debug, Args)]
pub struct OrphansArgs {
    /// The configuration of the broker that runs on this machine.
    #[command(flatten)]
    pub configuration: ConfigurationArgs,
    /// As JSON (docs/operations.md).
    #[arg(long)]
    pub json: bool,
    /// Remove exactly these containers, directories and networks, with the data in them.
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with = "json")]
    pub purge: Vec<String>,
    /// Take the instances of exactly these directories back into the store, out of the records in
    /// them. The broker must be stopped.
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with_all = ["json", "purge"])]
    pub adopt: Vec<String>,
}

/// Arguments of `adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The configuration of the broker that is to have them, with their plans.
    #[command(flatten)]
    pub configuration: ConfigurationArgs,
    /// Only say what would be done. The broker may run.
    #[arg(long)]
    pub dry_run: bool,
    /// Directory of cf-containers-broker.
    #[arg(long, value_name = "DIR", default_value = "/var/vcap/store/cf-containers-broker")]
    pub legacy_directory: PathBuf,
    /// Only this instance. May be repeated.
    #[arg(long, value_name = "GUID")]
    pub instance: Vec<String>,
}

/// Arguments of `new-service`.
#[derive(Debug, Args)]
pub struct NewServiceArgs {
    /// The image, as docker pull takes it.
    pub image: String,
    /// Name of the service [default: that of the image with its major version, such as redis7].
    #[arg(long)]
    pub name: Option<String>,
    /// File to write; it must not be there yet [default: standard output].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The Docker engine [default: unix:///var/run/docker.sock].
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    pub docker_url: Option<String>,
}

/// Arguments of `try`.
#[derive(Debug, Args)]
pub struct TryArgs {
    /// Services: files, directories or globs; BOSH ops files as they are.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Only this service, or this plan of it. May be repeated.
    #[arg(long, value_name = "SERVICE[/PLAN]")]
    pub only: Vec<String>,
    /// Longest time of one operation.
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// Host ports for the instances [default: 100 that are free now].
    #[arg(long, value_name = "FIRST-LAST", value_parser = PortRange::parse)]
    pub host_ports: Option<PortRange>,
    /// The Docker engine [default: unix:///var/run/docker.sock].
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    pub docker_url: Option<String>,
    /// Level of the broker's log: error, warn, info, debug, or a filter.
    #[arg(long, default_value = "warn")]
    pub log_level: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

impl ConfigurationArgs {
    /// The settings file.
    #[must_use]
    pub fn settings_file(&self) -> Option<&PathBuf> {
        self.config.as_ref()
    }

    /// The service files.
    #[must_use]
    pub fn service_files(&self) -> &[PathBuf] {
        &self.services
    }

    /// What wins over the settings file. `password` comes from the environment only: arguments
    /// are visible to everybody on the machine.
    #[must_use]
    pub fn overrides(&self, password: Option<String>) -> Overrides {
        Overrides {
            name: self.name.clone(),
            username: self.username.clone(),
            password,
            password_file: self.password_file.clone(),
            listen_address: self.listen,
            port: self.port,
            data_directory: self.data_dir.clone(),
            docker_url: self.docker_url.clone(),
            external_ip: self.external_ip,
            external_host: self.external_host.clone(),
            log_format: self.log_format.map(|format| match format {
                LogFormatArg::Text => LogFormat::Text,
                LogFormatArg::Json => LogFormat::Json,
            }),
            log_level: self.log_level.clone(),
        }
    }
}

/// Registers a service broker with Cloud Foundry (API v3), and deregisters it.
#[derive(Debug, Parser)]
#[command(name = "broker-registrar", version, about)]
pub struct RegistrarCli {
    /// What to do.
    #[command(subcommand)]
    pub command: RegistrarCommand,
}

/// The commands of `broker-registrar`.
#[derive(Debug, Subcommand)]
pub enum RegistrarCommand {
    /// Create or update the broker, and give access to its plans. May be run again at any time.
    Register(RegistrarArgs),
    /// Delete the broker, unless there are instances (or `purge: true` is set).
    Deregister(RegistrarArgs),
    /// Print the version.
    Version,
}

/// Arguments of both.
#[derive(Debug, Args)]
pub struct RegistrarArgs {
    /// Settings file (docs/cloud-foundry.md); holds passwords, so nobody else should read it.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
        super::RegistrarCli::command().debug_assert();
    }
}
