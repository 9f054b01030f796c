//! An operator's CA, and the certificates that it signs for service instances.
//!
//! The only room that names rcgen and x509-parser. No I/O: texts in, texts out.

mod authority;
mod key;
mod leaf;

pub use authority::{Authority, AuthorityError, Issued};
pub use leaf::Leaf;
