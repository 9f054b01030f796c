//! Tokens from UAA (UAA API documentation, "Token": password, client credentials, refresh).

use reqwest::{Client, StatusCode};
use serde::Deserialize;

use super::{error::CfError, patience::patiently, settings::Login};

/// The client that UAA gives to command lines; its secret is empty.
const CLI_CLIENT: (&str, &str) = ("cf", "");
/// What registering a broker for everybody takes.
const ADMIN: &str = "cloud_controller.admin";

/// A token, and the one for the next.
#[derive(Deserialize)]
pub(super) struct Token {
    #[serde(rename = "access_token")]
    pub(super) access: String,
    #[serde(rename = "refresh_token")]
    refresh: Option<String>,
    #[serde(default)]
    scope: String,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

/// Logs in as an administrator.
pub(super) async fn log_in(http: &Client, uaa: &str, login: &Login) -> Result<Token, CfError> {
    let token = match login {
        Login::User { name, password } => {
            let form = [
                ("grant_type", "password"),
                ("username", name.as_str()),
                ("password", password.as_str()),
            ];
            ask(http, uaa, CLI_CLIENT, &form, login).await?
        }
        Login::Client { id, secret } => {
            let form = [("grant_type", "client_credentials")];
            ask(http, uaa, (id, secret), &form, login).await?
        }
    };
    if token.scope.split_whitespace().any(|scope| scope == ADMIN) {
        Ok(token)
    } else {
        Err(CfError::NotAdmin { who: login.name().to_owned() })
    }
}

/// A new token after the old one has expired.
pub(super) async fn renew(
    http: &Client,
    uaa: &str,
    login: &Login,
    old: &Token,
) -> Result<Token, CfError> {
    if let Some(refresh) = &old.refresh {
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
        match ask(http, uaa, CLI_CLIENT, &form, login).await {
            // It has expired as well.
            Err(CfError::Login { .. }) => {}
            other => return other,
        }
    }
    log_in(http, uaa, login).await
}

async fn ask(
    http: &Client,
    uaa: &str,
    client: (&str, &str),
    form: &[(&str, &str)],
    login: &Login,
) -> Result<Token, CfError> {
    let url = format!("{uaa}/oauth/token");
    let unreachable =
        |source: reqwest::Error| CfError::Unreachable { who: "UAA", url: url.clone(), source };
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let answer = patiently("log in", "UAA", &url, || {
        http.post(&url)
            .basic_auth(client.0, Some(client.1))
            .header(reqwest::header::ACCEPT, "application/json")
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body.clone())
    });
    let answer = answer.await?;
    let status = answer.status();
    let bytes = answer.bytes().await.map_err(unreachable)?;
    let verb = || "log in".to_owned();
    match status {
        StatusCode::OK => serde_json::from_slice(&bytes).map_err(|error| CfError::Malformed {
            verb: verb(),
            // The error's own text may hold a token.
            problem: format!("line {} column {}", error.line(), error.column()),
        }),
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let refusal: Refusal = serde_json::from_slice(&bytes).unwrap_or_default();
            let message = match (refusal.error_description.is_empty(), refusal.error.is_empty()) {
                (false, _) => refusal.error_description,
                (true, false) => refusal.error,
                (true, true) => status.to_string(),
            };
            Err(CfError::Login { who: login.name().to_owned(), message })
        }
        _ => Err(CfError::Refused { verb: verb(), status, errors: Vec::new() }),
    }
}
