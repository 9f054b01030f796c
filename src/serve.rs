//! `docker-broker serve`: the rooms put together into a running broker.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use rand::{Rng, distr::Alphanumeric};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Configuration, Settings},
    credentials::Keyring,
    disk::Disk,
    docker::{Engine, EngineOptions, Images, PullProgress, prepare_registries, registry_problems},
    lifecycle::{Broker, Limits, Resealed, bring_records_up_to_date, use_first_key},
    osb::{Api, BoundListener, Server, TlsSource},
    rescue, shutdown,
    store::Store,
    telemetry::Chain,
};

const LOCK_FILE: &str = "lock";
const PASSWORD_FILE: &str = "broker-password";
const KEY_FILE: &str = "encryption-key";
const GENERATED_CHARACTERS: usize = 40;
/// Between two looks whether dockerd is there.
const DOCKER_PAUSE: Duration = Duration::from_millis(500);

/// Serves until a signal.
///
/// # Errors
/// Whatever keeps the broker from starting.
pub async fn serve(configuration: Configuration) -> anyhow::Result<()> {
    let signal = async { shutdown::requested().await.context("cannot wait for signals") };
    serve_until(configuration, signal, |_| {}).await
}

/// Serves until `stop_requested` gives a reason. Tells `listening` the address of the plain listener.
///
/// # Errors
/// Whatever keeps the broker from starting.
pub async fn serve_until(
    configuration: Configuration,
    stop_requested: impl Future<Output = anyhow::Result<&'static str>> + Send,
    listening: impl FnOnce(SocketAddr) + Send,
) -> anyhow::Result<()> {
    let Configuration { settings, catalog } = configuration;
    let data = settings.data_directory.as_path();
    make_private(data)?;
    let _lock = lock(data)?;
    let disk = Disk::open(&settings.host_directory)?;
    rescue::require_store(data, &disk)?;
    let password = password(&settings)?;
    let keys = keyring(&settings)?;
    let store = Store::open(data)?;
    let engine = Arc::new(engine(&settings));
    prepare_registries(&settings.registries, &settings.docker_certificates_directory)?;
    let progress: PullProgress = Arc::new(crate::progress::log);
    let images = Arc::new(Images::new(Arc::clone(&engine), &settings, &catalog, progress));
    let limits = Limits {
        external_host: settings.external_host.clone(),
        service_tls: settings.service_tls.clone(),
        host_ports: settings.host_ports,
        max_instances: settings.max_containers,
        max_parallel_starts: settings.max_parallel_starts,
        operation_timeout: settings.operation_timeout,
        upgrade_snapshot: settings.upgrade_snapshot,
    };
    let services = catalog.services().len();
    let broker = Broker::new(
        catalog,
        store,
        Arc::clone(&engine),
        Arc::clone(&images),
        disk.clone(),
        keys,
        limits,
    )
    .await?;
    let broker = Arc::new(broker);
    let stop = CancellationToken::new();
    let listeners = listeners(&settings, &stop).await?;
    report(&settings, &disk, services);
    for listener in &listeners {
        let url = format!("{}://{}", listener.scheme(), listener.address()?);
        tracing::info!(url, "listening");
    }
    if let Some(plain) = listeners.first() {
        listening(plain.address()?);
    }
    let api = Api::new(
        Arc::clone(&broker),
        (&settings.login.username, &password),
        settings.require_api_version,
        settings.max_body_bytes,
    );
    let server = tokio::spawn(Server::new(api, listeners).run(stop.clone(), shutdown::REQUESTS));
    let background = [
        tokio::spawn(obtain_images(settings.clone(), engine, images)),
        tokio::spawn(recover(Arc::clone(&broker))),
        tokio::spawn(keep_certificates(Arc::clone(&broker))),
        tokio::spawn(keep_recording(Arc::clone(&broker))),
        tokio::spawn(report_mounts(Arc::clone(&broker))),
        tokio::spawn(keep_backing_up(Arc::clone(&broker), settings.clone())),
        tokio::spawn(expire(Arc::clone(&broker))),
        tokio::spawn(reconcile(Arc::clone(&broker), settings.reconcile_interval)),
    ];
    let signal = stop_requested.await?;
    tracing::info!(signal, "stopping; operations under way go on at the next start");
    stop.cancel();
    for task in &background {
        task.abort();
    }
    let end = async { tokio::join!(broker.stop(shutdown::OPERATIONS), server) };
    if tokio::time::timeout(shutdown::BUDGET, end).await.is_err() {
        tracing::warn!("stopped without waiting any longer");
    }
    Ok(())
}

/// `docker-broker rotate-keys`: seals everything that is stored with the first key. What was done,
/// for people.
///
/// # Errors
/// When a broker runs on the data directory, when a key is missing, or when something is damaged.
pub async fn rotate_keys(settings: &Settings) -> anyhow::Result<String> {
    let data = settings.data_directory.as_path();
    if settings.encryption_keys.is_empty() {
        bail!(
            "no encryption_keys are configured; to leave the generated key, configure a new one \
             and behind it the text of {}",
            data.join(KEY_FILE).display()
        );
    }
    if !data.join(crate::store::FILE_NAME).exists() {
        bail!("there is no store in {}; is this the data directory?", data.display());
    }
    let _lock = lock(data).context("a running broker needs no rotate-keys: its start does it")?;
    let disk = Disk::open(&settings.host_directory)?;
    rescue::require_store(data, &disk)?;
    let store = Store::open(data)?;
    let keys = Arc::new(keyring(settings)?);
    let Resealed { resealed, damaged } = use_first_key(&store, &keys).await?;
    let compared = bring_records_up_to_date(&store, &disk, &keys, false).await?;
    if !damaged.is_empty() {
        bail!(
            "{resealed} secrets were sealed with the first of encryption_keys, but {} are damaged \
             and were left alone: {}; keep the old keys while there is hope for them",
            damaged.len(),
            damaged.join(", ")
        );
    }
    let left = compared.left();
    if !left.is_empty() {
        bail!(
            "{resealed} secrets were sealed with the first of encryption_keys, but the records of \
             {} instances were not (the log says why): {}; keep the old keys, and run this again \
             when that is mended",
            left.len(),
            left.join(", ")
        );
    }
    Ok(format!(
        "{resealed} secrets were sealed again; everything is sealed with the first of \
         encryption_keys, and the others may be removed"
    ))
}

/// dockerd by the settings.
#[must_use]
pub fn engine(settings: &Settings) -> Engine {
    Engine::new(EngineOptions {
        url: settings.docker_url.clone(),
        owner: settings.name.clone(),
        instances_per_network: settings.instances_per_network,
        publish_address: settings.external_ip,
    })
}

/// Never ends: an image may be lost at any time.
async fn obtain_images(settings: Settings, engine: Arc<Engine>, images: Arc<Images>) {
    // Recovery waits as well, and says so.
    while engine.ping().await.is_err() {
        sleep(DOCKER_PAUSE).await;
    }
    match registry_problems(&engine, &settings.registries).await {
        Ok(problems) => {
            for problem in problems {
                tracing::error!(problem, "a registry cannot be used");
            }
        }
        Err(error) => tracing::warn!(error = %Chain(&error), "registries could not be checked"),
    }
    for error in images.load_directory().await {
        tracing::error!(error = %Chain(&error), "cannot load images from the images directory");
    }
    images.keep_fetching(settings.fetch_images).await;
}

async fn recover(broker: Arc<Broker>) {
    if let Err(error) = broker.recover().await {
        tracing::error!(error = %Chain(&error), "recovery failed; start the broker again");
    }
}

/// Hooks need containers, so the time of bindings comes when those have been looked after.
async fn expire(broker: Arc<Broker>) {
    broker.recovered().await;
    broker.expire_bindings().await;
}

/// What was there at the start is compared by recovery.
async fn reconcile(broker: Arc<Broker>, interval: Option<Duration>) {
    let Some(interval) = interval else {
        tracing::warn!("reconcile_interval is 0: containers are brought back at a start only");
        return;
    };
    broker.recovered().await;
    broker.reconcile(interval).await;
}

async fn report_mounts(broker: Arc<Broker>) {
    broker.report_mounts().await;
}

async fn keep_backing_up(broker: Arc<Broker>, settings: Settings) {
    if let Some(backup) = settings.store_backup {
        broker.keep_backing_up(&settings.data_directory, backup).await;
    }
}

async fn keep_recording(broker: Arc<Broker>) {
    broker.keep_recording().await;
}

/// A container that is brought back gets its certificate then.
async fn keep_certificates(broker: Arc<Broker>) {
    broker.recovered().await;
    broker.keep_certificates().await;
}

async fn listeners(
    settings: &Settings,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<BoundListener>> {
    let plain = SocketAddr::new(settings.listen_address, settings.port);
    let mut listeners = vec![BoundListener::bind(plain, None).await?];
    if let Some(tls) = &settings.tls {
        let source = Arc::new(TlsSource::open(tls.clone())?);
        let address = SocketAddr::new(tls.listen_address, tls.port);
        listeners.push(BoundListener::bind(address, Some(Arc::clone(&source))).await?);
        let stop = stop.clone();
        tokio::spawn(async move { source.follow(stop).await });
    }
    Ok(listeners)
}

/// What the broker runs on, for whoever reads its log. No secrets.
fn report(settings: &Settings, disk: &Disk, services: usize) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        name = settings.name,
        services,
        username = settings.login.username,
        data_directory = %settings.data_directory.display(),
        host_directory = %disk.root().display(),
        docker = settings.docker_url,
        external_ip = %settings.external_ip,
        external_host = settings.external_host,
        host_ports = format!("{}-{}", settings.host_ports.first, settings.host_ports.last),
        "docker-broker starts"
    );
    if services == 0 {
        tracing::warn!("there are no services; a platform takes a broker only with at least one");
    }
}

pub(crate) fn make_private(directory: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        // It may have been there before, open to everybody.
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot use the data directory {}", directory.display()))
}

/// Two brokers on one store would undo each other's work.
pub(crate) fn lock(data: &Path) -> anyhow::Result<fs::File> {
    let path = data.join(LOCK_FILE);
    let file = fs::File::create(&path)
        .with_context(|| format!("cannot write {}; is the disk full?", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another docker-broker runs on {}; stop it, or use another data directory",
            data.display()
        ),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// The password of a broker that has been started before.
///
/// # Errors
/// When it was to be generated and no file has it.
pub fn known_password(settings: &Settings) -> anyhow::Result<String> {
    if let Some(password) = &settings.login.password {
        return Ok(password.clone());
    }
    let path = settings.data_directory.join(PASSWORD_FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}; start the broker, or configure a password", path.display())
    })?;
    Ok(text.trim().to_owned())
}

/// The keys of a broker that has been started before; nothing is made.
///
/// # Errors
/// When the key was to be generated and no file has it.
pub fn known_keyring(settings: &Settings) -> anyhow::Result<Keyring> {
    if !settings.encryption_keys.is_empty() {
        return Ok(Keyring::new(settings.encryption_keys.iter().map(|key| key.0.as_str()))?);
    }
    let path = settings.data_directory.join(KEY_FILE);
    let key = fs::read_to_string(&path).with_context(|| {
        format!(
            "no encryption_keys are configured, and the generated key {} cannot be read; without \
             the key that the broker used nothing that is sealed can be read (nothing was changed)",
            path.display()
        )
    })?;
    Ok(Keyring::new([key.trim()])?)
}

fn password(settings: &Settings) -> anyhow::Result<String> {
    match &settings.login.password {
        Some(password) => Ok(password.clone()),
        None => generated(&settings.data_directory.join(PASSWORD_FILE), "password"),
    }
}

pub(crate) fn keyring(settings: &Settings) -> anyhow::Result<Keyring> {
    if settings.encryption_keys.is_empty() {
        let key = generated(&settings.data_directory.join(KEY_FILE), "encryption key")?;
        tracing::warn!("no encryption_keys are configured, so the key lies beside the data");
        return Ok(Keyring::new([key.as_str()])?);
    }
    Ok(Keyring::new(settings.encryption_keys.iter().map(|key| key.0.as_str()))?)
}

/// A secret that is made at the first start and kept in a file that only the broker can read.
fn generated(path: &Path, what: &str) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    }
    let secret: String =
        rand::rng().sample_iter(Alphanumeric).take(GENERATED_CHARACTERS).map(char::from).collect();
    // Renamed into place when it is complete: a half-written key would lock its data away.
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .with_context(|| format!("cannot write {}", draft.display()))?;
    file.write_all(format!("{secret}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(file = %path.display(), "generated the {what}");
    Ok(secret)
}
