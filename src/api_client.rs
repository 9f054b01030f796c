//! A client of a broker on this machine, over its plain listener: for `wait` and `sanity-test`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config::Settings;

/// A broker's address and, for the API, the login. Its `Debug` hides the login.
#[derive(Clone)]
pub struct ApiClient {
    host: String,
    port: u16,
    authorization: Option<String>,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiClient({self})")
    }
}

impl std::fmt::Display for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

impl ApiClient {
    /// The broker at a URL.
    ///
    /// # Errors
    /// When it is no `http` URL.
    pub fn at(url: &str) -> anyhow::Result<Self> {
        let uri: http::Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            bail!("{url:?} must begin with http://; the plain listener is always there");
        }
        let host = uri.host().with_context(|| format!("{url:?} has no host"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(80), authorization: None })
    }

    /// The broker that runs on this machine by these settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let address = match settings.listen_address {
            any @ IpAddr::V4(_) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            any @ IpAddr::V6(_) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        Self { host: address.to_string(), port: settings.port, authorization: None }
    }

    /// With a login.
    #[must_use]
    pub fn login(self, username: &str, password: &str) -> Self {
        let login = BASE64_STANDARD.encode(format!("{username}:{password}"));
        Self { authorization: Some(format!("Basic {login}")), ..self }
    }

    /// One request; status and body. A body that is no JSON comes back as a string.
    ///
    /// # Errors
    /// When there is no answer. Neither the request nor the answer is repeated in the error.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let stream = TcpStream::connect((self.host.as_str(), self.port));
        let stream = stream.await.context("cannot connect")?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header("X-Broker-API-Version", "2.17");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let text = body.map(Value::to_string).unwrap_or_default();
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::from(text)))?).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        connection.abort();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Ok((status, body))
    }
}
