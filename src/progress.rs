//! How obtaining images is shown: bars on a terminal, log lines elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    catalog::ImageReference,
    docker::{PullEvent, PullProgress},
};

/// A log line per event that tells something new.
pub fn log(image: &ImageReference, event: &PullEvent) {
    match event {
        PullEvent::Started => tracing::info!(%image, "pulling"),
        PullEvent::Ready => tracing::info!(%image, "the image is here"),
        PullEvent::Progress { current_bytes, total_bytes } => {
            tracing::debug!(%image, current_bytes, total_bytes, "pulling");
        }
        // Whoever tries again reports it, with the time of the next attempt.
        PullEvent::Failed(_) => {}
    }
}

/// A bar per image on standard error.
#[must_use]
pub fn bars() -> PullProgress {
    let all = MultiProgress::new();
    let bars: Mutex<HashMap<ImageReference, ProgressBar>> = Mutex::default();
    Arc::new(move |image, event| {
        let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(image.clone()).or_insert_with(|| {
            let style = ProgressStyle::with_template(
                "{msg:40!} {bar:30} {bytes:>10}/{total_bytes:10} {elapsed}",
            );
            let bar = all.add(ProgressBar::new(0));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(image.to_string());
            bar
        });
        match event {
            PullEvent::Started => {}
            PullEvent::Progress { current_bytes, total_bytes } => {
                bar.set_length(*total_bytes);
                bar.set_position(*current_bytes);
            }
            PullEvent::Ready => bar.finish_with_message(format!("{image} is here")),
            PullEvent::Failed(_) => bar.abandon_with_message(format!("{image} failed")),
        }
    })
}
