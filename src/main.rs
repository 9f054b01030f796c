//! The `docker-broker` command.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::Parser;
use docker_broker::{
    admin, adopt,
    api_client::ApiClient,
    catalog,
    cli::{
        AdoptArgs, Cli, Command, ConfigurationArgs, EXIT_ATTENTION, EXIT_CONFIG, EXIT_RUNTIME,
        InstancesArgs, NewServiceArgs, OrphansArgs, TryArgs, UpgradeAllArgs,
    },
    config::{self, Configuration, Overrides, Severity},
    docker::{Images, PullProgress, prepare_registries},
    new_service::new_service,
    osb::TlsSource,
    progress, rescue, sanity_test, serve, telemetry, try_services, wait,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    outcome.unwrap_or_else(|error| {
        say(&mut io::stderr(), &format!("docker-broker: {error:#}"));
        ExitCode::from(EXIT_RUNTIME)
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => {
            let Some(configuration) = load(&args) else { return Ok(ExitCode::from(EXIT_CONFIG)) };
            start_log(&configuration)?;
            serve::serve(configuration).await?;
        }
        Command::CheckConfig(args) => {
            let Some(configuration) = load(&args) else { return Ok(ExitCode::from(EXIT_CONFIG)) };
            if let Some(tls) = &configuration.settings.tls
                && let Err(error) = TlsSource::open(tls.clone())
            {
                say(&mut io::stderr(), &format!("error: tls: {}", telemetry::Chain(&error)));
                return Ok(ExitCode::from(EXIT_CONFIG));
            }
            let services = configuration.catalog.services();
            let plans: usize = services.iter().map(|service| service.plans.len()).sum();
            let text =
                format!("the configuration is good: {} services, {plans} plans", services.len());
            say(&mut io::stdout(), &text);
        }
        Command::Catalog(args) => {
            let Some(configuration) = load(&args) else { return Ok(ExitCode::from(EXIT_CONFIG)) };
            let document = catalog::document(&configuration.catalog);
            say(&mut io::stdout(), &serde_json::to_string_pretty(&document)?);
        }
        Command::FetchImages(args) => {
            let Some(configuration) = load(&args) else { return Ok(ExitCode::from(EXIT_CONFIG)) };
            return fetch_images(&configuration).await;
        }
        Command::ConvertOps(args) => {
            let (converted, problems) = config::convert_ops(&args.files);
            for problem in &problems {
                say(&mut io::stderr(), &problem.to_string());
            }
            let Some(text) = converted else { return Ok(ExitCode::from(EXIT_CONFIG)) };
            say(&mut io::stdout(), text.trim_end());
        }
        Command::Wait(args) => {
            let broker = match &args.config {
                None => ApiClient::at(&args.url)?,
                Some(file) => match load_from(Some(file), &[], &Overrides::default()) {
                    Some(configuration) => ApiClient::of(&configuration.settings),
                    None => return Ok(ExitCode::from(EXIT_CONFIG)),
                },
            };
            wait::wait(&broker, args.timeout).await?;
        }
        Command::SanityTest(args) => {
            let Some(configuration) = load(&args.configuration) else {
                return Ok(ExitCode::from(EXIT_CONFIG));
            };
            let options = sanity_test::Options { only: args.only, timeout: args.timeout };
            if !sanity_test::run(&configuration, &options, &mut io::stdout()).await? {
                return Ok(ExitCode::from(EXIT_RUNTIME));
            }
        }
        Command::RotateKeys(args) => {
            let Some(configuration) = load(&args) else { return Ok(ExitCode::from(EXIT_CONFIG)) };
            start_log(&configuration)?;
            let done = serve::rotate_keys(&configuration.settings).await?;
            say(&mut io::stdout(), &done);
        }
        Command::Instances(args) => return list_instances(&args).await,
        Command::UpgradeAll(args) => return upgrade_all(args).await,
        Command::Orphans(args) => return orphans(&args).await,
        Command::Adopt(args) => return adopt_legacy(args).await,
        Command::RebuildStore(args) => {
            let Some(configuration) = load(&args) else { return Ok(ExitCode::from(EXIT_CONFIG)) };
            return rebuild_store(&configuration).await;
        }
        Command::NewService(args) => {
            let docker_url = args.docker_url.clone();
            let overrides = Overrides { docker_url, ..Overrides::default() };
            // Without any services: of these there will be one afterwards.
            let (Some(configuration), _) = config::load(None, &[], &overrides) else {
                load_from(None, &[], &overrides);
                return Ok(ExitCode::from(EXIT_CONFIG));
            };
            return write_service(&configuration, &args).await;
        }
        Command::Try(args) => return try_files(args).await,
        Command::Version => {
            say(&mut io::stdout(), concat!("docker-broker ", env!("CARGO_PKG_VERSION")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn rebuild_store(configuration: &Configuration) -> anyhow::Result<ExitCode> {
    start_log(configuration)?;
    Ok(tell(rescue::rebuild_store(&configuration.settings).await?))
}

fn tell((report, outcome): (String, rescue::Outcome)) -> ExitCode {
    say(&mut io::stdout(), report.trim_end());
    match outcome {
        rescue::Outcome::Whole => ExitCode::SUCCESS,
        rescue::Outcome::Partly => ExitCode::from(EXIT_ATTENTION),
        rescue::Outcome::Nothing => ExitCode::from(EXIT_RUNTIME),
    }
}

/// The configuration, with all its problems on standard error; `None` if there are errors.
fn load(args: &ConfigurationArgs) -> Option<Configuration> {
    let password = std::env::var("DOCKER_BROKER_PASSWORD").ok().filter(|text| !text.is_empty());
    let settings_file = args.settings_file().map(PathBuf::as_path);
    load_from(settings_file, args.service_files(), &args.overrides(password))
}

fn load_from(
    settings_file: Option<&Path>,
    service_files: &[PathBuf],
    overrides: &Overrides,
) -> Option<Configuration> {
    let (configuration, problems) = config::load(settings_file, service_files, overrides);
    let mut stderr = io::stderr();
    for problem in &problems {
        say(&mut stderr, &problem.to_string());
    }
    if configuration.is_none() {
        let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
        say(&mut stderr, &format!("docker-broker: the configuration has {errors} errors"));
    }
    configuration
}

fn start_log(configuration: &Configuration) -> anyhow::Result<()> {
    let settings = &configuration.settings;
    telemetry::start(settings.log_format, &settings.log_level).map_err(anyhow::Error::msg)
}

async fn adopt_legacy(args: AdoptArgs) -> anyhow::Result<ExitCode> {
    let Some(configuration) = load(&args.configuration) else {
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    start_log(&configuration)?;
    let options = adopt::Options {
        dry_run: args.dry_run,
        legacy_directory: args.legacy_directory,
        only: args.instance,
    };
    let all = adopt::adopt(&configuration, &options, &mut io::stdout()).await?;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(EXIT_RUNTIME) })
}

async fn write_service(
    configuration: &Configuration,
    args: &NewServiceArgs,
) -> anyhow::Result<ExitCode> {
    let progress: PullProgress =
        if io::stderr().is_terminal() { progress::bars() } else { Arc::new(|_, _| {}) };
    let made = new_service(&configuration.settings, &args.image, args.name.as_deref(), progress);
    let text = made.await?;
    let Some(path) = &args.output else {
        say(&mut io::stdout(), text.trim_end());
        return Ok(ExitCode::SUCCESS);
    };
    // One that is there may have ids that platforms know.
    let file = File::create_new(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    say(
        &mut io::stdout(),
        &format!("wrote {}; read it through where it says CHECK", path.display()),
    );
    Ok(ExitCode::SUCCESS)
}

async fn fetch_images(configuration: &Configuration) -> anyhow::Result<ExitCode> {
    let settings = &configuration.settings;
    let terminal = io::stderr().is_terminal();
    let progress: PullProgress = if terminal { progress::bars() } else { Arc::new(progress::log) };
    if !terminal {
        start_log(configuration)?;
    }
    let engine = Arc::new(serve::engine(settings));
    prepare_registries(&settings.registries, &settings.docker_certificates_directory)?;
    let images = Images::new(engine, settings, &configuration.catalog, progress);
    let broken = images.load_directory().await;
    for error in &broken {
        say(&mut io::stderr(), &format!("docker-broker: {}", telemetry::Chain(error)));
    }
    let failed = images.fetch_all().await;
    for (image, message) in &failed {
        say(&mut io::stderr(), &format!("docker-broker: {image}: {message}"));
    }
    Ok(if broken.is_empty() && failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_RUNTIME)
    })
}

async fn list_instances(args: &InstancesArgs) -> anyhow::Result<ExitCode> {
    let Some(configuration) = load(&args.configuration) else {
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    let options = admin::instances::Options { json: args.json, sizes: args.sizes };
    admin::instances::run(&configuration, options, &mut io::stdout()).await?;
    Ok(ExitCode::SUCCESS)
}

async fn upgrade_all(args: UpgradeAllArgs) -> anyhow::Result<ExitCode> {
    let Some(configuration) = load(&args.configuration) else {
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    let options = admin::upgrade::Options {
        dry_run: args.dry_run,
        canaries: args.canaries,
        max_in_flight: args.max_in_flight,
        continue_on_failure: args.continue_on_failure,
        only: args.only,
        instances: args.instance,
        attempt_interval: args.attempt_interval,
        attempt_limit: args.attempt_limit,
        timeout: args.timeout,
    };
    let well = admin::upgrade::run(&configuration, &options, &mut io::stdout()).await?;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(EXIT_RUNTIME) })
}

async fn orphans(args: &OrphansArgs) -> anyhow::Result<ExitCode> {
    let Some(configuration) = load(&args.configuration) else {
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    if !args.adopt.is_empty() {
        return Ok(tell(rescue::adopt_orphans(&configuration.settings, &args.adopt).await?));
    }
    let out = &mut io::stdout();
    if !args.purge.is_empty() {
        let all = admin::orphans::purge(&configuration, &args.purge, out).await?;
        return Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(EXIT_RUNTIME) });
    }
    let found = admin::orphans::list(&configuration, args.json, out).await?;
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_ATTENTION) })
}

async fn try_files(args: TryArgs) -> anyhow::Result<ExitCode> {
    let overrides = Overrides {
        docker_url: args.docker_url.clone(),
        log_level: Some(args.log_level.clone()),
        ..Overrides::default()
    };
    let Some(configuration) = load_from(None, &args.files, &overrides) else {
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    start_log(&configuration)?;
    let test = sanity_test::Options { only: args.only, timeout: args.timeout };
    let options = try_services::Options { test, host_ports: args.host_ports };
    let tried = try_services::try_services(configuration, &options, &mut io::stdout()).await?;
    Ok(if tried { ExitCode::SUCCESS } else { ExitCode::from(EXIT_RUNTIME) })
}

/// Writes a line; a closed pipe (`| head`) is no error.
fn say(out: &mut impl Write, text: &str) {
    drop(writeln!(out, "{text}"));
}
