//! Pulling and loading images, with progress.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use bollard::{
    auth::DockerCredentials,
    errors::Error,
    query_parameters::{CreateImageOptionsBuilder, ImportImageOptionsBuilder},
};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{DockerError, Engine, ImageFacts, error::status};
use crate::{catalog::ImageReference, config::Registry};

/// Longest silence of dockerd in the middle of a pull; it retries a lost registry for 107 s.
const SILENCE: Duration = Duration::from_mins(3);
/// Longest pull.
const PULL: Duration = Duration::from_hours(1);

/// Something that happened while an image is obtained.
#[derive(Debug, Clone)]
pub enum PullEvent {
    /// The pull begins.
    Started,
    /// Bytes of all layers that are known so far.
    Progress {
        /// Bytes that are here.
        current_bytes: u64,
        /// Bytes of the layers that are known.
        total_bytes: u64,
    },
    /// It is here.
    Ready,
    /// It was refused or broke off.
    Failed(String),
}

/// Told of what happens to each image.
pub type PullProgress = Arc<dyn Fn(&ImageReference, &PullEvent) + Send + Sync>;

impl Engine {
    /// Pulls an image. The stream is read to its end: dockerd reports failures in the middle of
    /// an answer that began with 200.
    ///
    /// # Errors
    /// [`DockerError::Pull`] with dockerd's words; [`DockerError::Unreachable`].
    pub async fn pull(
        &self,
        image: &ImageReference,
        registry: Option<&Registry>,
        progress: &PullProgress,
    ) -> Result<(), DockerError> {
        let docker = self.client().await?;
        progress(image, &PullEvent::Started);
        let options = CreateImageOptionsBuilder::new()
            .from_image(image.name())
            .tag(image.tag_or_digest())
            .build();
        let failed = |message: String| DockerError::Pull { image: image.clone(), message };
        let follow = async {
            let mut stream = docker.create_image(Some(options), None, credentials(registry));
            let mut layers: HashMap<String, (u64, u64)> = HashMap::new();
            loop {
                let next = timeout(SILENCE, stream.next()).await;
                let next = next.map_err(|_| failed("the engine fell silent".to_owned()))?;
                let Some(event) = next else { return Ok(()) };
                let event = event.map_err(|error| self.sorted(image, error))?;
                if let (Some(id), Some(detail)) = (event.id, event.progress_detail)
                    && let (Some(current), Some(total)) = (detail.current, detail.total)
                {
                    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
                    layers.insert(id, (bytes(current), bytes(total)));
                    let sum = layers.values().fold((0, 0), |(a, b), (c, t)| (a + c, b + t));
                    let (current_bytes, total_bytes) = sum;
                    progress(image, &PullEvent::Progress { current_bytes, total_bytes });
                }
            }
        };
        timeout(PULL, follow).await.map_err(|_| failed("it took longer than an hour".to_owned()))?
    }

    fn sorted(&self, image: &ImageReference, error: Error) -> DockerError {
        let message = match &error {
            Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
            Error::DockerStreamError { error } => error.clone(),
            _ => return DockerError::new(&self.options.url, "pull", &image.to_string(), error),
        };
        DockerError::Pull { image: image.clone(), message: explained(&message) }
    }

    /// What is known of an image that is here; `None` when it is not.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn inspect_image(
        &self,
        image: &ImageReference,
    ) -> Result<Option<ImageFacts>, DockerError> {
        let name = image.to_string();
        let request = async |docker: &bollard::Docker| match docker.inspect_image(&name).await {
            Err(error) if status(&error) == Some(404) => Ok(None),
            other => other.map(Some),
        };
        let found =
            self.call("inspect", &format!("image {image}"), super::engine::QUICK, request).await?;
        Ok(found.map(ImageFacts::from))
    }

    /// Loads a tarball of `docker save`.
    ///
    /// # Errors
    /// [`DockerError::File`] when it cannot be read; [`DockerError`] when dockerd refuses it.
    pub async fn load_images(&self, tarball: &Path) -> Result<(), DockerError> {
        let shown = tarball.display().to_string();
        let file = tokio::fs::File::open(tarball).await.map_err(|source| DockerError::File {
            verb: "open",
            path: shown.clone(),
            source,
        })?;
        let docker = self.client().await?;
        let chunks = tokio_util::io::ReaderStream::with_capacity(file, 1 << 20);
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let follow = async {
            let mut stream = docker.import_image_stream(options, chunks, None);
            while let Some(event) = stream.next().await {
                event?;
            }
            Ok::<(), Error>(())
        };
        match timeout(PULL, follow).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DockerError::new(&self.options.url, "load", &shown, error)),
            Err(_) => Err(DockerError::Timeout { verb: "load", object: shown }),
        }
    }
}

fn credentials(registry: Option<&Registry>) -> Option<DockerCredentials> {
    let registry = registry?;
    let (username, password) = registry.login.clone()?;
    Some(DockerCredentials {
        username: Some(username),
        password: Some(password),
        serveraddress: Some(registry.host.clone()),
        ..DockerCredentials::default()
    })
}

/// dockerd's words, and what to do about them where that is known.
fn explained(message: &str) -> String {
    let hints = [
        ("manifest unknown", "check image and tag"),
        ("no basic auth credentials", "add the registry with username and password to registries"),
        ("unauthorized", "check username and password of the registry in registries"),
        (
            "certificate signed by unknown authority",
            "give the registry's ca_certificate in registries",
        ),
        (
            "server gave HTTP response to HTTPS client",
            "allow it as an insecure registry in dockerd",
        ),
        ("connection refused", "check that the registry runs and can be reached from this host"),
        ("no such host", "check the registry's name and the host's DNS"),
        ("network is unreachable", "check the host's network, or load the image from a tarball"),
        ("no space left on device", "make room on the disk that holds Docker's data"),
        ("toomanyrequests", "log in to the registry, or wait"),
    ];
    let hint = hints.iter().find(|(known, _)| message.contains(known));
    hint.map_or_else(|| message.to_owned(), |(_, hint)| format!("{message} ({hint})"))
}
