//! The connection to dockerd.

use std::{
    collections::HashMap,
    future::Future,
    net::IpAddr,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error};
use tokio::{sync::OnceCell, time::timeout};

use super::{
    DockerError, Labels,
    labels::{LEGACY_INSTANCE, OWNER},
    networks::Networks,
};

/// Time limit of quick requests.
pub(super) const QUICK: Duration = Duration::from_secs(30);
/// Time limit of requests that make or remove something; a loaded dockerd takes its time.
pub(super) const SLOW: Duration = Duration::from_mins(2);
const PING: Duration = Duration::from_secs(3);
/// Longest time without an answer that bollard's own timer allows.
const TRANSPORT_TIMEOUT_SECONDS: u64 = 900;

/// How to reach dockerd and how to name what is made there.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// `unix:///…` or `tcp://host:port`.
    pub url: String,
    /// Name of the broker: owner label and prefix of names.
    pub owner: String,
    /// Most instances on one bridge (a Linux bridge takes 1,023 ports).
    pub instances_per_network: usize,
    /// Address on which ports are published.
    pub publish_address: IpAddr,
}

/// dockerd, as far as the broker needs it.
#[derive(Debug)]
pub struct Engine {
    pub(super) options: EngineOptions,
    pub(super) networks: Networks,
    /// What the labels of adopted containers would say, by the containers' ids: Docker cannot
    /// change the labels of a container that is there.
    adopted: RwLock<HashMap<String, Labels>>,
    client: OnceCell<Docker>,
}

impl Engine {
    /// Does not connect yet: dockerd may come later than the broker.
    #[must_use]
    pub fn new(options: EngineOptions) -> Self {
        let networks = Networks::new(&options.owner, options.instances_per_network);
        Self { options, networks, adopted: RwLock::default(), client: OnceCell::new() }
    }

    /// From now on the container of this id, which somebody else has made, counts as one with
    /// these labels. By its id, so no other container is ever meant.
    pub fn adopt(&self, container_id: &str, labels: Labels) {
        let mut adopted = self.adopted.write().unwrap_or_else(PoisonError::into_inner);
        adopted.insert(container_id.to_owned(), labels);
    }

    /// What the labels of the container of this id would say, if it was adopted.
    pub(super) fn adopted_labels(&self, id: &str) -> Option<Labels> {
        self.adopted.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// The label that all containers of this broker have. With adopted ones it is a label that
    /// others may have as well, so what comes of such a filter has to be looked at.
    pub(super) fn label_filter(&self) -> String {
        if self.adopted.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            format!("{OWNER}={}", self.owner())
        } else {
            LEGACY_INSTANCE.to_owned()
        }
    }

    /// Name of the broker.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.options.owner
    }

    /// Address on which ports are published.
    #[must_use]
    pub fn publish_address(&self) -> IpAddr {
        self.options.publish_address
    }

    /// Whether dockerd answers now.
    ///
    /// # Errors
    /// [`DockerError`] when it does not.
    pub async fn ping(&self) -> Result<(), DockerError> {
        self.call("answer", &self.options.url, PING, async |docker| docker.ping().await).await?;
        Ok(())
    }

    /// A connected client. The API version is negotiated once, downwards from what bollard knows.
    pub(super) async fn client(&self) -> Result<&Docker, DockerError> {
        let connect = async || {
            let docker = self.connect()?;
            timeout(PING, docker.negotiate_version())
                .await
                .map_err(|_| Error::RequestTimeoutError)?
        };
        self.client
            .get_or_try_init(connect)
            .await
            .map_err(|source| DockerError::Unreachable { url: self.options.url.clone(), source })
    }

    fn connect(&self) -> Result<Docker, Error> {
        let url = self.options.url.as_str();
        if url.starts_with("tcp://") || url.starts_with("http://") {
            Docker::connect_with_http(url, TRANSPORT_TIMEOUT_SECONDS, API_DEFAULT_VERSION)
        } else {
            Docker::connect_with_unix(url, TRANSPORT_TIMEOUT_SECONDS, API_DEFAULT_VERSION)
        }
    }

    /// One request with a time limit, its failure sorted out.
    pub(super) async fn call<'a, T, F>(
        &'a self,
        verb: &'static str,
        object: &str,
        limit: Duration,
        request: impl FnOnce(&'a Docker) -> F,
    ) -> Result<T, DockerError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let docker = self.client().await?;
        match timeout(limit, request(docker)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(DockerError::new(&self.options.url, verb, object, source)),
            Err(_) => Err(DockerError::Timeout { verb, object: object.to_owned() }),
        }
    }
}
