//! Reading bodies: limited in size and time, a JSON object or a clear error.

use std::time::Duration;

use bytes::Buf;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, header};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::reply::Problem;

/// Longest time from the headers to the end of the body.
const READ: Duration = Duration::from_secs(30);

/// The body as a JSON object.
pub(super) async fn object<B: Buf>(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<B, warp::Error>> + Send,
    limit_bytes: u64,
) -> Result<Map<String, Value>, Problem> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    // Not waited for: nothing of it would be used.
    if declared
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: u64| length > limit_bytes)
    {
        return Err(Problem::too_large(limit_bytes));
    }
    let bytes = timeout(READ, read(body, limit_bytes)).await.map_err(|_| Problem::too_slow())??;
    // serde_json refuses more than 128 levels, and anything but UTF-8.
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Problem::bad_request("the body must be a JSON object")),
        Err(error) => Err(Problem::bad_request(format!("the body is not valid JSON: {error}"))),
    }
}

async fn read<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
    limit_bytes: u64,
) -> Result<Vec<u8>, Problem> {
    let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_| Problem::bad_request("the body broke off"))?;
        if chunk.remaining() > limit - bytes.len() {
            return Err(Problem::too_large(limit_bytes));
        }
        let start = bytes.len();
        bytes.resize(start + chunk.remaining(), 0);
        chunk.copy_to_slice(&mut bytes[start..]);
    }
    Ok(bytes)
}
