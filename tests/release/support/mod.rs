//! What the tests of the release share.

pub(crate) mod ops;
pub(crate) mod render;
pub(crate) mod variables;
