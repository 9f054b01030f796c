//! The manifest with every ops file of `operators/` and `services/`.

mod basics;
