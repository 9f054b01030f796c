//! Requests to a platform that is busy or away for a moment.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode, header};
use tokio::time::sleep;

use super::{error::CfError, resources::ApiProblems};

const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A platform that asks for more patience than this is told to the operator instead.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// The answer to a request, which is made anew while it gets 429 or 5xx or no answer at all: after
/// as long as the platform says, else after growing pauses. Whoever asks for a change has to be
/// prepared that a lost attempt has done it already.
///
/// # Errors
/// [`CfError::Unreachable`] and [`CfError::GaveUp`]. Any other status is an answer.
pub(super) async fn patiently(
    verb: &str,
    who: &'static str,
    url: &str,
    request: impl Fn() -> RequestBuilder,
) -> Result<Response, CfError> {
    let mut pause = FIRST_PAUSE;
    let mut attempts = 1;
    loop {
        let last = attempts >= ATTEMPTS;
        let wait = match request().send().await {
            Ok(answer) if is_busy(answer.status()) => {
                let asked = retry_after(&answer);
                let wait = asked.unwrap_or(pause);
                if last || wait > LONGEST_PAUSE {
                    return Err(CfError::GaveUp {
                        verb: verb.to_owned(),
                        status: answer.status(),
                        attempts,
                        wait: asked,
                        errors: problems(answer).await,
                    });
                }
                wait
            }
            Ok(answer) => return Ok(answer),
            Err(source) => {
                let error = CfError::Unreachable { who, url: url.to_owned(), source };
                // A certificate does not get better by waiting.
                if last || error.is_about_a_certificate() {
                    return Err(error);
                }
                pause
            }
        };
        sleep(wait).await;
        attempts += 1;
        pause *= 2;
    }
}

fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// In seconds, as the Cloud Controller says it.
fn retry_after(answer: &Response) -> Option<Duration> {
    let text = answer.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// The platform's words; none when its answer is something else, such as a proxy's page.
pub(super) async fn problems(answer: Response) -> Vec<String> {
    let bytes = answer.bytes().await.unwrap_or_default();
    let found: ApiProblems = serde_json::from_slice(&bytes).unwrap_or_default();
    found.errors.into_iter().map(|error| error.detail).filter(|text| !text.is_empty()).collect()
}
