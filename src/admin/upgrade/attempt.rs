//! One attempt to upgrade one instance, in the words of OSB.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{Job, drive::Attempt};
use crate::api_client::ApiClient;

/// Longest time of one request.
const REQUEST: Duration = Duration::from_mins(1);
const POLL_EVERY: Duration = Duration::from_millis(500);
/// OSB's word for an instance on which another operation runs.
const BUSY: &str = "ConcurrencyError";

/// Asks the broker for the upgrade, and waits for its end for at most `limit`.
pub(super) async fn attempt(client: &ApiClient, job: &Job, limit: Duration) -> Attempt {
    let end = Instant::now() + limit;
    let id = percent_encoding::utf8_percent_encode(&job.id, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("/v2/service_instances/{id}");
    let body = json!({
        "service_id": job.service_id,
        "maintenance_info": { "version": job.version },
    });
    let query = format!("{path}?accepts_incomplete=true");
    let (status, answer) = match send(client, Method::PATCH, &query, Some(&body)).await {
        Ok(answer) => answer,
        // Whether it was accepted is not known; asked again, the broker joins what runs.
        Err(why) => return Attempt::Busy(why),
    };
    match status {
        StatusCode::OK => Attempt::Done,
        StatusCode::ACCEPTED => follow(client, &path, &answer, end, limit).await,
        StatusCode::NOT_FOUND | StatusCode::GONE => Attempt::Gone,
        StatusCode::UNPROCESSABLE_ENTITY if answer["error"] == BUSY => {
            Attempt::Busy(description(status, &answer))
        }
        status if status.is_server_error() => Attempt::Busy(description(status, &answer)),
        status => Attempt::Failed(description(status, &answer)),
    }
}

async fn follow(
    client: &ApiClient,
    path: &str,
    accepted: &Value,
    end: Instant,
    limit: Duration,
) -> Attempt {
    let operation = accepted["operation"].as_str().unwrap_or_default();
    let operation =
        percent_encoding::utf8_percent_encode(operation, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("{path}/last_operation?operation={operation}");
    let mut last = "it is not done".to_owned();
    while Instant::now() < end {
        match send(client, Method::GET, &path, None).await {
            Ok((StatusCode::GONE | StatusCode::NOT_FOUND, _)) => return Attempt::Gone,
            Ok((StatusCode::OK, answer)) => match answer["state"].as_str() {
                Some("succeeded") => return Attempt::Done,
                Some("failed") => {
                    let why = answer["description"].as_str();
                    return Attempt::Failed(why.unwrap_or("it failed without a reason").to_owned());
                }
                _ => "it is not done".clone_into(&mut last),
            },
            Ok((status, answer)) => last = description(status, &answer),
            // The broker may be restarted meanwhile; the operation goes on at its start.
            Err(why) => last = why,
        }
        sleep(POLL_EVERY).await;
    }
    Attempt::Failed(format!("{last} after {} s; it may still be under way", limit.as_secs()))
}

async fn send(
    client: &ApiClient,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value), String> {
    match timeout(REQUEST, client.send(method, path, body)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("the broker: {error:#}")),
        Err(_) => Err("the broker does not answer".to_owned()),
    }
}

/// Only what OSB calls the description: an answer may hold other things.
fn description(status: StatusCode, answer: &Value) -> String {
    let text = answer["description"].as_str().unwrap_or("no description");
    format!("the broker answered {status}: {text}")
}
