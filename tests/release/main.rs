//! Tests of the BOSH release: what a director renders, applies, packs and runs.
//!
//! * `jobs`: each template of each job, rendered as BOSH renders it.
//! * `manifests`: the manifest with every ops file of `operators/` and `services/`.
//! * `packages`: what the release carries, compiled without a network.
//! * `vm`: a container that plays a BOSH VM (started by `ci/test-vm`).

mod jobs;
mod manifests;
mod packages;
mod support;
mod vm;
