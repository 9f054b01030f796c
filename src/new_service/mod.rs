//! `docker-broker new-service`: a service file to begin with, out of what an image says of itself.
//!
//! What is read off the image is written down as fact; what can only be guessed bears a comment
//! with `CHECK`. The file is good as it is: `check-config` takes it.

mod guess;
mod kinds;
mod text;

use std::sync::Arc;

use anyhow::Context;
use rand::RngCore;

use crate::{
    catalog::{Catalog, ImageReference, hex},
    config::Settings,
    docker::{Images, PullProgress},
    serve,
};

/// A service file for an image, which is pulled if it is not here.
///
/// # Errors
/// When the image cannot be had, or a name cannot be the name of a service.
pub async fn new_service(
    settings: &Settings,
    image: &str,
    name: Option<&str>,
    progress: PullProgress,
) -> anyhow::Result<String> {
    let reference = ImageReference::parse(image, None)
        .map_err(|problem| anyhow::anyhow!("image {image:?} {problem}"))?;
    let name = name.map_or_else(|| guess::default_name(&reference), str::to_owned);
    anyhow::ensure!(
        !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control()),
        "{name:?} cannot be the name of a service: a CLI has to take it as one word"
    );
    let engine = Arc::new(serve::engine(settings));
    let images = Images::new(Arc::clone(&engine), settings, &Catalog::new(Vec::new()), progress);
    images.load_directory().await;
    images.require(&reference).await.context("the image is needed to be looked into")?;
    let description = engine.describe_image(&reference).await?;
    let description =
        description.with_context(|| format!("image {reference} was removed meanwhile"))?;
    let draft = text::Draft {
        image: &reference,
        found: &description,
        kind: kinds::find(description.entrypoint.iter().chain(&description.command)),
        name: &name,
        ids: [guid(), guid()],
    };
    Ok(draft.write())
}

/// A random GUID (RFC 9562, version 4).
fn guid() -> String {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
