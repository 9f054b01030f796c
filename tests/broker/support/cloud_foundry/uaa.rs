//! UAA API documentation, "Token".

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use super::{ADMIN, Answer, Asked, CLIENT, NOBODY, State};
use crate::support::unique;

/// `POST /oauth/token`.
pub(super) fn token(state: &mut State, asked: &Asked) -> Answer {
    let form_type = asked.header("content-type").starts_with("application/x-www-form-urlencoded");
    if asked.method != http::Method::POST || !form_type || !asked.query.is_empty() {
        state.violations.push(format!("{} /oauth/token: not a POST of a form", asked.method));
        return Answer::json(415, json!({ "error": "unsupported_media_type" }));
    }
    let form: BTreeMap<String, String> = form_urlencoded::parse(&asked.body).into_owned().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let client = basic(asked.header("authorization"));
    let cli = client == Some((String::from("cf"), String::new()));
    match field("grant_type") {
        // "Password Grant"
        "password" if cli => {
            let login = (field("username"), field("password"));
            if login == ADMIN {
                grant(state, "cloud_controller.admin cloud_controller.read openid", true)
            } else if login == NOBODY {
                grant(state, "cloud_controller.read openid", true)
            } else {
                Answer::json(
                    401,
                    json!({ "error": "unauthorized", "error_description": "Bad credentials" }),
                )
            }
        }
        // "Client Credentials Grant"
        "client_credentials" => match client {
            Some((id, secret)) if (id.as_str(), secret.as_str()) == CLIENT => {
                grant(state, "cloud_controller.admin", false)
            }
            _ => Answer::json(
                401,
                json!({ "error": "invalid_client", "error_description": "Bad credentials" }),
            ),
        },
        // "Refresh Token"
        "refresh_token" if cli => {
            let known = state.refresh_tokens.iter().any(|one| one == field("refresh_token"));
            if known && !state.refresh_is_refused {
                grant(state, "cloud_controller.admin cloud_controller.read openid", true)
            } else {
                let description = "Invalid refresh token expired";
                let body = json!({ "error": "invalid_token", "error_description": description });
                Answer::json(401, body)
            }
        }
        other => {
            state.violations.push(format!("/oauth/token: grant_type {other:?}, client {client:?}"));
            Answer::json(400, json!({ "error": "unsupported_grant_type" }))
        }
    }
}

fn basic(header: &str) -> Option<(String, String)> {
    let decoded = BASE64_STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(id, secret)| (id.to_owned(), secret.to_owned()))
}

fn grant(state: &mut State, scope: &str, refresh: bool) -> Answer {
    let access = unique("secret-token-");
    state.tokens.insert(access.clone(), state.requests_per_token.unwrap_or(u32::MAX));
    let mut body = json!({
        "access_token": access, "token_type": "bearer", "expires_in": 599, "scope": scope,
        "jti": unique(""),
    });
    if refresh {
        let token = unique("secret-refresh-");
        state.refresh_tokens.push(token.clone());
        body["refresh_token"] = token.into();
    }
    Answer::json(200, body)
}
