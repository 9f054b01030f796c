//! The broker's own catalog, as the platform will read it.

use reqwest::{StatusCode, header};
use serde_json::Value;

use super::{error::CfError, patience::patiently, plan::OwnService, settings::Settings, tls};

/// Reads it. The inner error is a sentence why it cannot be had from here, which need not hold for
/// the platform.
///
/// # Errors
/// [`CfError`] when no request can be made at all.
pub(super) async fn own_catalog(
    settings: &Settings,
) -> Result<Result<Vec<OwnService>, String>, CfError> {
    let broker = &settings.broker;
    let http = tls::client(settings)?;
    let asked = patiently("show its catalog", "the broker", &broker.url, || {
        http.get(format!("{}/v2/catalog", broker.url))
            .basic_auth(&broker.username, Some(&broker.password))
            .header("X-Broker-API-Version", "2.17")
            .header(header::ACCEPT, "application/json")
    });
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let status = answer.status();
    if status == StatusCode::UNAUTHORIZED {
        return Ok(Err(
            "it refuses the user and password that the registrar has; deploy both with \
                       the same ones"
                .to_owned(),
        ));
    }
    if !status.is_success() {
        return Ok(Err(format!("it answers {status}")));
    }
    let bytes = answer.bytes().await.unwrap_or_default();
    let catalog: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let Some(services) = catalog["services"].as_array() else {
        return Ok(Err("its answer is no catalog; is this the URL of a broker?".to_owned()));
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Ok(services
        .iter()
        .map(|service| OwnService {
            id: text(&service["id"]),
            name: text(&service["name"]),
            plans: service["plans"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|plan| (text(&plan["id"]), text(&plan["name"])))
                .collect(),
        })
        .collect()))
}
