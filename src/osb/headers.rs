//! The API version and the two identities.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use rand::RngCore;
use serde_json::Value;

use super::reply::Problem;
use crate::catalog::hex;

const VERSION: HeaderName = HeaderName::from_static("x-broker-api-version");
const REQUEST_IDENTITY: HeaderName = HeaderName::from_static("x-broker-api-request-identity");
const ORIGINATING_IDENTITY: HeaderName =
    HeaderName::from_static("x-broker-api-originating-identity");

/// OSB 2.17, "API Version Header": 400 when it is missing, 412 when the version is not ours.
/// Minor versions only add, so any 2.x is served.
pub(super) fn check_version(headers: &HeaderMap, required: bool) -> Result<(), Problem> {
    let Some(value) = headers.get(&VERSION) else {
        return if required {
            Err(Problem::bad_request(
                "the header X-Broker-API-Version is missing; this broker speaks version 2.17",
            ))
        } else {
            Ok(())
        };
    };
    let parsed = value.to_str().ok().and_then(|text| {
        let (major, minor) = text.trim().split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    match parsed {
        Some((2, _)) => Ok(()),
        Some(_) => Err(Problem::unsupported_version(
            "this X-Broker-API-Version is not supported; use 2.17",
        )),
        None => {
            Err(Problem::bad_request("X-Broker-API-Version must be MAJOR.MINOR, for example 2.17"))
        }
    }
}

/// Who asks, and under which id.
#[derive(Debug)]
pub(super) struct Identity {
    request: Option<HeaderValue>,
    for_log: String,
    originating: Option<Result<String, &'static str>>,
}

impl Identity {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let request = headers.get(&REQUEST_IDENTITY).filter(|value| !value.is_empty()).cloned();
        let for_log = request.as_ref().map_or_else(
            || {
                let mut bytes = [0; 8];
                rand::rng().fill_bytes(&mut bytes);
                hex(&bytes)
            },
            |value| String::from_utf8_lossy(value.as_bytes()).into_owned(),
        );
        Self { request, for_log, originating: headers.get(&ORIGINATING_IDENTITY).map(originating) }
    }

    /// The platform's id of the request, else one of our own.
    pub(super) fn for_log(&self) -> &str {
        &self.for_log
    }

    /// `platform/user`, if the platform says.
    pub(super) fn user(&self) -> Option<&str> {
        self.originating.as_ref()?.as_deref().ok()
    }

    /// What is wrong with the originating identity, if something is.
    pub(super) fn malformed(&self) -> Option<&'static str> {
        self.originating.as_ref()?.as_ref().err().copied()
    }

    /// OSB 2.17, "Request Identity Header": the response has the same; none is invented.
    pub(super) fn echo(&self, mut response: Response<Bytes>) -> Response<Bytes> {
        if let Some(value) = &self.request {
            response.headers_mut().insert(REQUEST_IDENTITY, value.clone());
        }
        response
    }
}

/// `platform base64(json object)`; of the object only an id of the user is kept.
fn originating(value: &HeaderValue) -> Result<String, &'static str> {
    let text = value.to_str().map_err(|_| "it is not ASCII")?;
    let (platform, encoded) = text.split_once(' ').ok_or("it has no value")?;
    let bytes = BASE64_STANDARD.decode(encoded.trim()).map_err(|_| "it is not Base64")?;
    let object: Value = serde_json::from_slice(&bytes).map_err(|_| "it is not JSON")?;
    let object = object.as_object().ok_or("it is not a JSON object")?;
    let user = ["user_id", "uid", "username"].iter().find_map(|key| object.get(*key)?.as_str());
    Ok(format!("{platform}/{}", user.unwrap_or("unknown")))
}
