//! Secrets: made at random, encrypted at rest, shown in binding documents, kept out of logs.
//!
//! Owns generation, encryption (several keys, the first one encrypts), the shape of the binding
//! document, handlebars templates (strict: an unknown variable is an error), and redaction. Does
//! no I/O.

mod binding;
mod instance;
mod keyring;
mod legacy;
mod redact;
mod template;
mod tokens;

pub use binding::{Facts, binding_document};
pub use instance::{BindingSecrets, InstanceSecrets};
pub use keyring::{FINGERPRINT_BYTES, KeyError, Keyring};
pub use legacy::legacy_secrets;
pub use redact::redact;
pub use template::{TemplateError, check_template, render_document_text, render_text};
pub use tokens::{TokenError, Tokens};
