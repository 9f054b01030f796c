//! The catalog document with its entity tag (OSB 2.17, "Catalog Management"; RFC 9110, 13).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::reply::Answer;
use crate::catalog::hex;

/// The document as bytes, made once.
#[derive(Debug)]
pub(super) struct Catalog {
    body: Bytes,
    etag: HeaderValue,
}

impl Catalog {
    pub(super) fn new(document: &Value) -> Self {
        let body = Bytes::from(document.to_string());
        let tag = format!("\"{}\"", &hex(&Sha256::digest(&body))[..32]);
        let etag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""));
        Self { body, etag }
    }

    /// 304 when the client has it already, else the whole document.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Answer {
        let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| self.matches(value));
        let answer = if known {
            Answer::bytes(StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            Answer::bytes(StatusCode::OK, self.body.clone())
        };
        answer.with_etag(self.etag.clone())
    }

    /// Weak comparison, as If-None-Match wants it.
    fn matches(&self, value: &HeaderValue) -> bool {
        let Ok(text) = value.to_str() else { return false };
        let mine = self.etag.as_bytes();
        text.split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == mine)
    }
}
