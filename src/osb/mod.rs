//! The Open Service Broker API 2.17 over HTTP and HTTPS.
//!
//! Owns routes, authentication, the version and identity headers, the shapes of requests and
//! replies, and the one match that turns a refusal into a status code. Decides nothing about
//! instances.
//!
//! warp drops a handler when its client disconnects, so whatever changes something runs in a task
//! of its own (`handlers.rs`). Every reply is JSON, whatever went wrong.

mod auth;
mod body;
mod etag;
mod handlers;
mod headers;
mod health;
mod reply;
mod requests;
mod route;
mod server;
mod tls;

use std::{convert::Infallible, sync::Arc, time::Instant};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::{HeaderMap, Method};
use tracing::Instrument;
use warp::{Filter, Reply, filters::path::FullPath};

use crate::{catalog, lifecycle::Broker};
use etag::Catalog;
use headers::Identity;
use reply::{Answer, Problem};
use route::Route;

pub use server::{BoundListener, ServeError, Server};
pub use tls::{TlsError, TlsSource};

/// What a request is served with.
#[derive(Debug)]
pub struct Api {
    broker: Arc<Broker>,
    login: auth::Login,
    catalog: Catalog,
    require_api_version: bool,
    max_body_bytes: u64,
}

impl Api {
    /// The catalog document is made once: it cannot change while the broker runs.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        (username, password): (&str, &str),
        require_api_version: bool,
        max_body_bytes: u64,
    ) -> Self {
        let catalog = Catalog::new(&catalog::document(broker.catalog()));
        Self {
            broker,
            login: auth::Login::new(username, password),
            catalog,
            require_api_version,
            max_body_bytes,
        }
    }
}

/// Everything of a request but its body.
struct Head {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
}

/// The whole API as one warp filter, which never rejects.
pub fn routes(
    api: Arc<Api>,
) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone + Send + Sync + 'static {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::any()
        .map(move || Arc::clone(&api))
        .and(warp::method())
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(async |api: Arc<Api>, method, path: FullPath, query, headers, body| {
            let path = path.as_str().to_owned();
            serve(&api, Head { method, path, query, headers }, body).await.into_response()
        })
        // None of these filters rejects, but their types cannot say so.
        .recover(async |rejection: warp::Rejection| {
            let cause = format!("a request was not routed: {rejection:?}");
            let identity = Identity::of(&HeaderMap::new());
            Ok::<_, Infallible>(Problem::internal(cause).into_response(&identity))
        })
}

/// One request, logged.
async fn serve<B: Buf>(
    api: &Api,
    head: Head,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> http::Response<Bytes> {
    let started = Instant::now();
    let identity = Identity::of(&head.headers);
    let span = tracing::info_span!("request", request.id = identity.for_log());
    async {
        let changes = !matches!(head.method, Method::GET | Method::HEAD);
        let answer = answer(api, &head, &identity, body).await;
        let response = match answer {
            Ok(answer) => answer.into_response(),
            Err(problem) => problem.into_response(&identity),
        };
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = response.status().as_u16();
        let (method, path) = (head.method.as_str(), head.path.as_str());
        if changes || (status >= 500 && head.path != health::READY) {
            tracing::info!(method, path, status, duration_ms, user = identity.user(), "request");
        } else {
            tracing::debug!(method, path, status, duration_ms, "request");
        }
        identity.echo(response)
    }
    .instrument(span)
    .await
}

async fn answer<B: Buf>(
    api: &Api,
    head: &Head,
    identity: &Identity,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Answer, Problem> {
    // Health is for load balancers and monit, which have no password.
    if let Some(answer) = health::answer(api, &head.method, &head.path).await {
        return Ok(answer);
    }
    api.login.check(&head.headers)?;
    let route = Route::parse(&head.method, &head.path)?;
    headers::check_version(&head.headers, api.require_api_version)?;
    if let Some(problem) = identity.malformed() {
        tracing::warn!(problem, "X-Broker-API-Originating-Identity is ignored");
    }
    handlers::handle(api, route, head, body).await
}
