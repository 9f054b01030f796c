//! What the tests of the release share.

pub(crate) mod render;
