//! `GET /healthz` (the process serves) and `GET /readyz` (dockerd, store and recovery as well).

use http::{Method, StatusCode};
use serde_json::json;

use super::{Api, reply::Answer};
use crate::lifecycle::Recovery;

/// Path that says whether the broker can do its work.
pub(super) const READY: &str = "/readyz";

/// Instances that are named in an answer.
const NAMED: usize = 20;

/// The answer, if the path is one of these.
pub(super) async fn answer(api: &Api, method: &Method, path: &str) -> Option<Answer> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    match path {
        "/healthz" => Some(Answer::json(StatusCode::OK, &json!({ "status": "ok" }))),
        READY => Some(ready(api).await),
        _ => None,
    }
}

/// Says what is not ready, but no addresses or paths: anybody may ask.
async fn ready(api: &Api) -> Answer {
    let status = api.broker.status().await;
    let recovery = match &status.recovery {
        Recovery::Waiting => "waiting for docker",
        Recovery::Running => "recovering",
        Recovery::Done => "done",
    };
    let (docker, store) = (status.docker.is_none(), status.store.is_none());
    let recovered = status.recovery == Recovery::Done;
    let ready = docker && store && recovered && status.images_loaded;
    let word = |ok: bool| if ok { "ok" } else { "unavailable" };
    let body = json!({
        "status": if ready { "ready" } else { "not ready" },
        "docker": word(docker),
        "store": word(store),
        "store_backup": if status.store_backup.is_none() { "ok" } else { "failing" },
        "recovery": recovery,
        "images_directory": if status.images_loaded { "loaded" } else { "loading" },
        "unwell_instances": status.unwell.len(),
        // Enough to know where to look; `docker-broker instances` has them all.
        "unwell": status.unwell.iter().take(NAMED).collect::<Vec<_>>(),
    });
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::json(code, &body)
}
