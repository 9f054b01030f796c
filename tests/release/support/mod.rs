//! What the tests of the release share.

#[expect(dead_code, reason = "the tests of the broker use more of it")]
#[path = "../../broker/support/cloud_foundry/mod.rs"]
pub(crate) mod cloud_foundry;
pub(crate) mod ops;
pub(crate) mod render;
pub(crate) mod variables;

/// A short random word for names.
pub(crate) fn unique(prefix: &str) -> String {
    use rand::RngCore;
    format!("{prefix}{:08x}", rand::rng().next_u32())
}
