//! `docker-broker wait`: asks `/readyz` until it says ready.

use std::time::Duration;

use anyhow::bail;
use http::Method;
use tokio::time::{Instant, sleep, timeout};

use crate::api_client::ApiClient;

const PAUSE: Duration = Duration::from_millis(100);
const ATTEMPT: Duration = Duration::from_secs(5);

/// Returns when the broker is ready.
///
/// # Errors
/// After `limit`, with what it said last.
pub async fn wait(broker: &ApiClient, limit: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    loop {
        let last = match timeout(ATTEMPT, broker.send(Method::GET, "/readyz", None)).await {
            Ok(Ok((status, _))) if status.is_success() => return Ok(()),
            Ok(Ok((_, body))) => body.to_string(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "it does not answer".to_owned(),
        };
        if Instant::now() + PAUSE >= end {
            bail!("the broker at {broker} is not ready after {} s: {last}", limit.as_secs());
        }
        sleep(PAUSE).await;
    }
}
