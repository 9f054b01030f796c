//! What the tests of the release share.
