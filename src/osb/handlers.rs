//! One handler per endpoint: parse, ask `lifecycle`, shape the reply.

use std::{future::Future, sync::Arc};

use bytes::Buf;
use futures_util::Stream;
use http::StatusCode;
use serde_json::{Map, Value, json};
use tracing::Instrument;

use super::{
    Api, Head, body,
    reply::{Answer, Problem, empty},
    requests::{Fields, Query},
    route::Route,
};
use crate::lifecycle::{Accepted, Bound, BoundDocument, Progress, Refusal};

/// How soon a platform should ask again while an operation runs.
const RETRY_AFTER_SECONDS: u32 = 1;

pub(super) async fn handle<B: Buf>(
    api: &Api,
    route: Route,
    head: &Head,
    stream: impl Stream<Item = Result<B, warp::Error>> + Send,
) -> Result<Answer, Problem> {
    let query = Query::parse(&head.query);
    let broker = Arc::clone(&api.broker);
    let fields = async || body::object(&head.headers, stream, api.max_body_bytes).await.map(Fields);
    match route {
        Route::Catalog => Ok(api.catalog.answer(&head.headers)),
        Route::Provision(id) => {
            let request = fields().await?.provision(id, &query)?;
            let done = detached(async move { broker.provision(request).await }).await?;
            Ok(accepted(done, StatusCode::CREATED))
        }
        Route::Update(id) => {
            let request = fields().await?.update(id, &query)?;
            let done = detached(async move { broker.update(request).await }).await;
            done.map(|done| accepted(done, StatusCode::OK)).map_err(Problem::of_failed_update)
        }
        Route::Deprovision(id) => {
            let request = query.delete(id)?;
            let done = detached(async move { broker.deprovision(request).await }).await?;
            Ok(accepted(done, StatusCode::OK))
        }
        Route::FetchInstance(id) => {
            let found = broker.fetch_instance(&id).await?;
            let mut reply = json!({
                "service_id": found.service_id,
                "plan_id": found.plan_id,
                "parameters": found.parameters,
            });
            if let Some(version) = found.maintenance_version {
                reply["maintenance_info"] = json!({ "version": version });
            }
            if let Some(url) = found.dashboard_url {
                reply["dashboard_url"] = url.into();
            }
            Ok(Answer::json(StatusCode::OK, &reply))
        }
        Route::LastOperation(id) => {
            Ok(progress(broker.last_operation(&id, query.get("operation")).await?))
        }
        Route::LastBindingOperation(id, binding) => {
            let named = query.get("operation");
            Ok(progress(broker.last_binding_operation(&id, &binding, named).await?))
        }
        Route::Bind(id, binding) => {
            let fields = fields().await?;
            let bound = if let Some(request) = fields.rotation(&id, &binding, &query)? {
                detached(async move { broker.rotate(request).await }).await?
            } else {
                let request = fields.bind(id, binding, &query)?;
                detached(async move { broker.bind(request).await }).await?
            };
            Ok(made(bound))
        }
        Route::FetchBinding(id, binding) => Ok(fetched(broker.fetch_binding(&id, &binding).await?)),
        Route::Unbind(id, binding) => {
            let request = query.delete(id)?;
            let done = detached(async move { broker.unbind(request, binding).await }).await?;
            Ok(accepted(done, StatusCode::OK))
        }
    }
}

/// Runs a verb that changes something to its end, even if the client goes away meanwhile.
async fn detached<T: Send + 'static>(
    verb: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(verb.in_current_span()).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => Err(Problem::internal(format!("a request's task failed: {error}"))),
    }
}

fn accepted(done: Accepted, created: StatusCode) -> Answer {
    match done {
        Accepted::Done => Answer::json(created, &empty()),
        Accepted::Already => Answer::json(StatusCode::OK, &empty()),
        Accepted::InProgress { operation } => {
            Answer::json(StatusCode::ACCEPTED, &json!({ "operation": operation }))
        }
    }
}

fn made(bound: Bound) -> Answer {
    match bound {
        Bound::Document(bound) => {
            let status = if bound.created { StatusCode::CREATED } else { StatusCode::OK };
            Answer::json(status, &bound.document)
        }
        Bound::InProgress { operation } => {
            Answer::json(StatusCode::ACCEPTED, &json!({ "operation": operation }))
        }
    }
}

fn progress(progress: Progress) -> Answer {
    let mut reply = Map::new();
    let running = progress.state == "in progress";
    reply.insert("state".to_owned(), progress.state.into());
    if let Some(description) = progress.description {
        reply.insert("description".to_owned(), description.into());
    }
    if let Some(usable) = progress.instance_usable {
        reply.insert("instance_usable".to_owned(), usable.into());
        reply.insert("update_repeatable".to_owned(), true.into());
    }
    let answer = Answer::json(StatusCode::OK, &Value::Object(reply));
    if running { answer.retry_after_seconds(RETRY_AFTER_SECONDS) } else { answer }
}

fn fetched(bound: BoundDocument) -> Answer {
    let mut reply = bound.document;
    if let Some(map) = reply.as_object_mut() {
        map.insert("parameters".to_owned(), Value::Object(bound.parameters));
    }
    Answer::json(StatusCode::OK, &reply)
}
