//! Replies, and the one match that gives a refusal its status code.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::headers::Identity;
use crate::{lifecycle::Refusal, telemetry::Chain};

/// A successful reply.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Bytes,
    etag: Option<HeaderValue>,
    retry_after_seconds: Option<u32>,
}

impl Answer {
    pub(super) fn json(status: StatusCode, body: &Value) -> Self {
        Self::bytes(status, Bytes::from(body.to_string()))
    }

    pub(super) fn bytes(status: StatusCode, body: Bytes) -> Self {
        Self { status, body, etag: None, retry_after_seconds: None }
    }

    pub(super) fn with_etag(mut self, etag: HeaderValue) -> Self {
        self.etag = Some(etag);
        self
    }

    pub(super) fn retry_after_seconds(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        // 304 has no body whose type could be told (RFC 9110, 15.4.5).
        if self.status != StatusCode::NOT_MODIFIED {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(etag) = self.etag {
            headers.insert(header::ETAG, etag);
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A reply that reports a problem.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    /// OSB "Service Broker Errors": a single word in camel case.
    error: Option<&'static str>,
    description: String,
    header: Option<(header::HeaderName, HeaderValue)>,
    /// For the log only.
    cause: Option<String>,
    fields: Map<String, Value>,
}

impl Problem {
    fn new(
        status: StatusCode,
        error: Option<&'static str>,
        description: impl Into<String>,
    ) -> Self {
        Self {
            status,
            error,
            description: description.into(),
            header: None,
            cause: None,
            fields: Map::new(),
        }
    }

    pub(super) fn bad_request(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, description)
    }

    pub(super) fn unauthorized() -> Self {
        let mut problem = Self::new(
            StatusCode::UNAUTHORIZED,
            None,
            "user name or password is missing or wrong; use HTTP basic authentication with the \
             broker's credentials",
        );
        let realm = HeaderValue::from_static("Basic realm=\"docker-broker\", charset=\"UTF-8\"");
        problem.header = Some((header::WWW_AUTHENTICATE, realm));
        problem
    }

    pub(super) fn no_such_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, None, "there is no such endpoint in the OSB API 2.17")
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let mut problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            None,
            format!("this endpoint knows only the methods {allow}"),
        );
        problem.header = Some((header::ALLOW, HeaderValue::from_static(allow)));
        problem
    }

    pub(super) fn unsupported_version(description: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, None, description)
    }

    pub(super) fn too_large(limit_bytes: u64) -> Self {
        Self::closing(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {limit_bytes} bytes"),
        )
    }

    pub(super) fn too_slow() -> Self {
        Self::closing(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
    }

    /// The rest of the body was not read, so the connection cannot be used again.
    fn closing(status: StatusCode, description: impl Into<String>) -> Self {
        let mut problem = Self::new(status, None, description);
        problem.header = Some((header::CONNECTION, HeaderValue::from_static("close")));
        problem
    }

    pub(super) fn internal(cause: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, None, "");
        problem.cause = Some(cause.into());
        problem
    }

    /// OSB: only errors of updates carry these.
    pub(super) fn of_failed_update(mut self) -> Self {
        if self.status.is_server_error() {
            self.fields.insert("update_repeatable".to_owned(), Value::Bool(true));
        }
        self
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub(super) fn into_response(self, identity: &Identity) -> Response<Bytes> {
        let mut description = self.description;
        if let Some(cause) = &self.cause {
            tracing::error!(error = cause, "internal error");
            description = format!(
                "the broker could not do this because of an internal error; the operator finds \
                 its cause in the broker's log under {}",
                identity.for_log()
            );
        }
        let mut body = self.fields;
        if let Some(error) = self.error {
            body.insert("error".to_owned(), error.into());
        }
        body.insert("description".to_owned(), description.into());
        let mut response = Answer::json(self.status, &Value::Object(body)).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<Refusal> for Problem {
    /// The one place where refusals get their codes. OSB 2.17, "Service Broker Errors" and the
    /// tables of each endpoint.
    fn from(refusal: Refusal) -> Self {
        let description = refusal.to_string();
        let unprocessable =
            |error| Self::new(StatusCode::UNPROCESSABLE_ENTITY, error, description.clone());
        match refusal {
            Refusal::Invalid(_) | Refusal::InvalidId(_) => Self::bad_request(description),
            Refusal::NotFound(_) => Self::new(StatusCode::NOT_FOUND, None, description),
            Refusal::Gone(_) => Self::new(StatusCode::GONE, None, description),
            Refusal::Conflict(_) => Self::new(StatusCode::CONFLICT, None, description),
            Refusal::Concurrency(_) => unprocessable(Some("ConcurrencyError")),
            Refusal::MaintenanceInfoConflict(_) => unprocessable(Some("MaintenanceInfoConflict")),
            // A 5xx would make the platform clean up what was never made.
            Refusal::CapacityReached(_) => unprocessable(Some("CapacityReached")),
            Refusal::ImageUnavailable(_) => unprocessable(Some("ImageUnavailable")),
            Refusal::Unprocessable(_) => unprocessable(None),
            Refusal::OperationFailed(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, None, description)
            }
            Refusal::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, None, description),
            Refusal::Internal(cause) => Self::internal(Chain(&cause).to_string()),
        }
    }
}

/// `{}`, the body of replies with nothing to say.
pub(super) fn empty() -> Value {
    json!({})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Refusal::*;

    #[test]
    fn every_refusal_has_the_status_and_error_code_of_this_table() {
        let text = || "why".to_owned();
        for (refusal, status, error) in [
            (Invalid(text()), 400, None),
            (NotFound(text()), 404, None),
            (Gone(text()), 410, None),
            (Conflict(text()), 409, None),
            (Concurrency(text()), 422, Some("ConcurrencyError")),
            (MaintenanceInfoConflict(text()), 422, Some("MaintenanceInfoConflict")),
            (CapacityReached(text()), 422, Some("CapacityReached")),
            (ImageUnavailable(text()), 422, Some("ImageUnavailable")),
            (Unprocessable(text()), 422, None),
            (OperationFailed(text()), 500, None),
            (Stopping, 503, None),
        ] {
            let problem = Problem::from(refusal);
            assert_eq!((problem.status(), problem.error), (status, error));
            assert!(!problem.description.is_empty());
        }
    }
}
