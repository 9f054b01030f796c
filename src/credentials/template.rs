//! Documents with handlebars in their strings, at any depth.

use handlebars::{Handlebars, no_escape};
use serde::Serialize;
use serde_json::Value;

use super::{InstanceSecrets, TokenError};

/// A template that cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("{template:?} cannot be rendered: {reason}")]
pub struct TemplateError {
    template: String,
    reason: String,
}

impl From<TokenError> for TemplateError {
    fn from(error: TokenError) -> Self {
        Self { reason: error.to_string(), template: format!("${}", error.0) }
    }
}

fn engine() -> Handlebars<'static> {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    engine.register_escape_fn(no_escape);
    engine.register_helper("urlencode", Box::new(urlencode));
    engine
}

fn urlencode(
    helper: &handlebars::Helper<'_>,
    _: &Handlebars<'_>,
    _: &handlebars::Context,
    _: &mut handlebars::RenderContext<'_, '_>,
    out: &mut dyn handlebars::Output,
) -> Result<(), handlebars::RenderError> {
    let value =
        helper.param(0).map(handlebars::PathAndJson::value).and_then(Value::as_str).unwrap_or("");
    out.write(&super::binding::encode(value))?;
    Ok(())
}

/// A copy of `template` with every string rendered against `context`.
///
/// # Errors
/// [`TemplateError`] names the string that uses an unknown variable or is malformed.
pub(super) fn render(template: &Value, context: &impl Serialize) -> Result<Value, TemplateError> {
    let context = serde_json::to_value(context).unwrap_or_default();
    walk(&engine(), template, &context)
}

fn walk(
    engine: &Handlebars<'_>,
    template: &Value,
    context: &Value,
) -> Result<Value, TemplateError> {
    Ok(match template {
        Value::String(text) if text.contains("{{") => {
            let rendered =
                engine.render_template(text, context).map_err(|error| TemplateError {
                    template: text.clone(),
                    // The rendering error's own text may hold values; its description does not.
                    reason: error.reason().to_string(),
                })?;
            Value::String(rendered)
        }
        Value::Array(items) => Value::Array(
            items.iter().map(|item| walk(engine, item, context)).collect::<Result<_, _>>()?,
        ),
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| Ok((key.clone(), walk(engine, value, context)?)))
                .collect::<Result<_, TemplateError>>()?,
        ),
        other => other.clone(),
    })
}

/// A text with the credentials of an instance in it: `{{username}}`, `{{password}}`, `{{dbname}}`.
///
/// # Errors
/// [`TemplateError`] when it uses something that the instance does not have.
pub fn render_text(text: &str, secrets: &InstanceSecrets) -> Result<String, TemplateError> {
    let context = serde_json::json!({
        "username": secrets.username, "password": secrets.password, "dbname": secrets.dbname,
    });
    render_document_text(text, &context)
}

/// A text with the entries of a binding's `credentials` in it.
///
/// # Errors
/// [`TemplateError`] when it uses something that they do not have.
pub fn render_document_text(text: &str, credentials: &Value) -> Result<String, TemplateError> {
    let rendered = render(&Value::from(text), credentials)?;
    Ok(rendered.as_str().unwrap_or_default().to_owned())
}

/// Checks the syntax of every string in `template`.
///
/// # Errors
/// [`TemplateError`] names the string that is malformed.
pub fn check_template(template: &Value) -> Result<(), TemplateError> {
    match template {
        Value::String(text) => handlebars::Template::compile(text).map(|_| ()).map_err(|error| {
            TemplateError { template: text.clone(), reason: error.reason().to_string() }
        }),
        Value::Array(items) => items.iter().try_for_each(check_template),
        Value::Object(map) => map.values().try_for_each(check_template),
        _ => Ok(()),
    }
}
