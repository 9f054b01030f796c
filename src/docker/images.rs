//! Which images are here, which are on their way, and which cannot be had.
//!
//! Each reference is pulled once, however many plans use it, a few at a time, and tried again with
//! growing pauses for as long as it fails. A plan whose image cannot be had is not offered new
//! instances; nothing else is affected.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bollard::models::ImageInspect;
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};

use super::{DockerError, Engine, PullEvent, PullProgress};
use crate::{
    catalog::{Catalog, ContainerPort, ImageReference, PullPolicy},
    config::{Registry, Settings},
};

const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_mins(5);

/// What the broker needs to know of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// dockerd's id.
    pub id: String,
    /// Ports that it exposes.
    pub ports: Vec<ContainerPort>,
    /// Volumes that it declares.
    pub volumes: Vec<String>,
    /// Its environment, `NAME=value`.
    pub environment: Vec<String>,
}

impl ImageFacts {
    /// A variable of its environment.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        let values = self.environment.iter().filter_map(|pair| pair.split_once('='));
        values.filter(|(known, _)| *known == name).map(|(_, value)| value).next_back()
    }
}

impl From<ImageInspect> for ImageFacts {
    fn from(found: ImageInspect) -> Self {
        let config = found.config.unwrap_or_default();
        let ports = config.exposed_ports.unwrap_or_default();
        // A protocol that cannot be published (sctp) is none of ours.
        let mut ports: Vec<_> =
            ports.iter().filter_map(|port| ContainerPort::parse(port).ok()).collect();
        ports.sort();
        let mut volumes = config.volumes.unwrap_or_default();
        volumes.sort();
        Self {
            id: found.id.unwrap_or_default(),
            ports,
            volumes,
            environment: config.env.unwrap_or_default(),
        }
    }
}

/// Why an image cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    /// Fit for operators and users.
    pub message: String,
    /// dockerd does not answer, so nothing is known of the image itself.
    pub is_transient: bool,
}

impl From<DockerError> for ImageError {
    fn from(error: DockerError) -> Self {
        let message = crate::telemetry::Chain(&error).to_string();
        Self { message, is_transient: error.is_transient() }
    }
}

/// State of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageStatus {
    /// Not looked for yet, or being pulled.
    Pending,
    /// Here.
    Ready(ImageFacts),
    /// Cannot be had at the moment; says why.
    Failed(String),
}

struct Entry {
    policy: PullPolicy,
    status: watch::Sender<ImageStatus>,
    /// One fetch of a reference at a time; whoever waited finds its result.
    turn: tokio::sync::Mutex<()>,
}

/// Tarballs of a directory, in the order of their names.
fn tarballs(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut tarballs = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if [".tar", ".tgz", ".tar.gz"].iter().any(|end| name.ends_with(end)) {
            tarballs.push(path);
        }
    }
    tarballs.sort();
    Ok(tarballs)
}

/// All images of the configuration.
pub struct Images {
    engine: Arc<Engine>,
    entries: Mutex<BTreeMap<ImageReference, Arc<Entry>>>,
    registries: Vec<Registry>,
    default_policy: Option<PullPolicy>,
    directory: Option<PathBuf>,
    /// No image is looked for before the directory's tarballs are loaded.
    loaded: watch::Sender<bool>,
    pulls: Semaphore,
    progress: PullProgress,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").finish_non_exhaustive()
    }
}

impl Images {
    /// Knows the images of `catalog`, but does nothing yet.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        settings: &Settings,
        catalog: &Catalog,
        progress: PullProgress,
    ) -> Self {
        let images = Self {
            engine,
            entries: Mutex::default(),
            registries: settings.registries.clone(),
            default_policy: settings.pull,
            loaded: watch::Sender::new(settings.images_directory.is_none()),
            directory: settings.images_directory.clone(),
            pulls: Semaphore::new(settings.max_parallel_pulls),
            progress,
        };
        for offer in catalog.offers().filter(|offer| offer.plan.container.existing.is_none()) {
            images.entry(&offer.plan.container.image, offer.plan.container.pull);
        }
        images
    }

    /// The first plan with an image says when it is pulled.
    fn entry(&self, image: &ImageReference, policy: Option<PullPolicy>) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(image.clone()).or_insert_with(|| {
            let policy = policy.or(self.default_policy).unwrap_or_default();
            let status = watch::Sender::new(ImageStatus::Pending);
            Arc::new(Entry { policy, status, turn: tokio::sync::Mutex::default() })
        });
        Arc::clone(entry)
    }

    fn references(&self) -> BTreeSet<ImageReference> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.keys().cloned().collect()
    }

    /// The status of an image now.
    #[must_use]
    pub fn status(&self, image: &ImageReference) -> ImageStatus {
        self.entry(image, None).status.borrow().clone()
    }

    /// Every image and its status.
    #[must_use]
    pub fn statuses(&self) -> Vec<(ImageReference, ImageStatus)> {
        self.references().into_iter().map(|image| (image.clone(), self.status(&image))).collect()
    }

    /// Loads the tarballs of the images directory, if there is one. Returns what could not be
    /// loaded; everything else is here then.
    pub async fn load_directory(&self) -> Vec<DockerError> {
        let failed = match &self.directory {
            Some(directory) => self.load_tarballs(directory).await,
            None => Vec::new(),
        };
        self.loaded.send_replace(true);
        failed
    }

    /// Whether the tarballs of the images directory are loaded, as far as they can be.
    #[must_use]
    pub fn is_directory_loaded(&self) -> bool {
        *self.loaded.borrow()
    }

    async fn load_tarballs(&self, directory: &Path) -> Vec<DockerError> {
        let tarballs = match tarballs(directory) {
            Ok(tarballs) => tarballs,
            Err(source) => {
                let path = directory.display().to_string();
                return vec![DockerError::File { verb: "list", path, source }];
            }
        };
        let mut failed = Vec::new();
        for tarball in tarballs {
            match self.engine.load_images(&tarball).await {
                Ok(()) => tracing::info!(file = %tarball.display(), "loaded images"),
                Err(error) => failed.push(error),
            }
        }
        failed
    }

    /// Obtains every image once, side by side with a bound. Returns those that cannot be had.
    pub async fn fetch_all(&self) -> Vec<(ImageReference, String)> {
        let fetches =
            self.references().into_iter().map(async |image| match self.fetch(&image).await {
                Ok(_) => None,
                Err(error) => Some((image, error.message)),
            });
        futures_util::future::join_all(fetches).await.into_iter().flatten().collect()
    }

    /// Obtains every image (with `eagerly` off: only those that a provision asked for in vain), and
    /// tries again for as long as one fails: its plans come back by themselves. Goes on for ever,
    /// as an image may be lost at any time.
    pub async fn keep_fetching(&self, eagerly: bool) {
        let wanted = |status: &ImageStatus| match status {
            ImageStatus::Ready(_) => false,
            ImageStatus::Pending => eagerly,
            ImageStatus::Failed(_) => true,
        };
        let fetches = self.references().into_iter().map(async |image| {
            let mut status = self.entry(&image, None).status.subscribe();
            // Its sender lives as long as the entry, which is never removed.
            while status.wait_for(wanted).await.is_ok() {
                self.fetch_until_here(&image).await;
            }
        });
        futures_util::future::join_all(fetches).await;
    }

    async fn fetch_until_here(&self, image: &ImageReference) {
        let mut pause = FIRST_RETRY;
        while let Err(error) = self.fetch(image).await {
            let wait = if error.is_transient { FIRST_RETRY } else { pause };
            tracing::warn!(
                %image, error = error.message, retry_in_s = wait.as_secs(),
                "cannot obtain an image; its plans make no new instances"
            );
            sleep(wait).await;
            pause = (wait * 2).min(LONGEST_RETRY);
        }
        if self.statuses().iter().all(|(_, status)| matches!(status, ImageStatus::Ready(_))) {
            tracing::info!("all images are here");
        }
    }

    /// The facts of an image, obtained now if need be: what a provision waits for.
    ///
    /// # Errors
    /// [`ImageError`] says why it cannot be had.
    pub async fn require(&self, image: &ImageReference) -> Result<ImageFacts, ImageError> {
        let entry = self.entry(image, None);
        if let ImageStatus::Ready(facts) = &*entry.status.borrow() {
            return Ok(facts.clone());
        }
        self.fetch(image).await
    }

    /// The facts of an image, when it is here.
    pub async fn wait_for(&self, image: &ImageReference) -> ImageFacts {
        let mut status = self.entry(image, None).status.subscribe();
        loop {
            if let ImageStatus::Ready(facts) = &*status.borrow_and_update() {
                return facts.clone();
            }
            if status.changed().await.is_err() {
                // The sender lives as long as the entry, which is never removed.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What is behind a reference on this host now, without obtaining it; `None`: nothing.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn look(&self, image: &ImageReference) -> Result<Option<ImageFacts>, DockerError> {
        let found = self.engine.inspect_image(image).await?;
        if let Some(facts) = &found {
            // The tag may have moved since it was looked at.
            self.entry(image, None).status.send_if_modified(|status| match status {
                ImageStatus::Ready(known) if known != facts => {
                    known.clone_from(facts);
                    true
                }
                _ => false,
            });
        }
        Ok(found)
    }

    /// Takes back that an image is here, after dockerd said that it is not.
    pub fn forget(&self, image: &ImageReference) {
        self.entry(image, None).status.send_replace(ImageStatus::Pending);
    }

    /// One attempt to obtain an image.
    async fn fetch(&self, image: &ImageReference) -> Result<ImageFacts, ImageError> {
        let mut loaded = self.loaded.subscribe();
        // Cannot fail: the sender lives as long as `self`.
        drop(loaded.wait_for(|loaded| *loaded).await);
        let entry = self.entry(image, None);
        let _turn = entry.turn.lock().await;
        let known = entry.status.borrow().clone();
        if let ImageStatus::Ready(facts) = known {
            return Ok(facts);
        }
        // The semaphore is never closed.
        let _permit = self.pulls.acquire().await;
        let obtained = self.obtain(image, entry.policy).await;
        let (status, event) = match &obtained {
            Ok(facts) => (ImageStatus::Ready(facts.clone()), PullEvent::Ready),
            Err(error) if error.is_transient => {
                (ImageStatus::Pending, PullEvent::Failed(error.message.clone()))
            }
            Err(error) => {
                let message = error.message.clone();
                (ImageStatus::Failed(message.clone()), PullEvent::Failed(message))
            }
        };
        (self.progress)(image, &event);
        entry.status.send_replace(status);
        obtained
    }

    async fn obtain(
        &self,
        image: &ImageReference,
        policy: PullPolicy,
    ) -> Result<ImageFacts, ImageError> {
        let refused = |message| ImageError { message, is_transient: false };
        match (policy, self.engine.inspect_image(image).await?) {
            (PullPolicy::Missing | PullPolicy::Never, Some(facts)) => return Ok(facts),
            (PullPolicy::Never, None) => {
                return Err(refused(format!(
                    "{image} is not on this host and its plan says pull: never (load it with \
                     docker load, or put a tarball into the images directory)"
                )));
            }
            (PullPolicy::Missing, None) | (PullPolicy::Always, _) => {}
        }
        self.engine.pull(image, self.registry(image), &self.progress).await?;
        let facts = self.engine.inspect_image(image).await?;
        facts.ok_or_else(|| refused(format!("{image} is not here although it was pulled")))
    }

    fn registry(&self, image: &ImageReference) -> Option<&Registry> {
        let host = image.registry().unwrap_or("docker.io");
        self.registries.iter().find(|registry| registry.host == host)
    }
}
