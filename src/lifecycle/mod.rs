//! What happens to instances and bindings, and what is left of it when the broker dies.
//!
//! # How an operation runs
//!
//! A verb is *accepted* in one transaction: rules are checked against the rows, and the intent
//! (state, operation, ports, sealed secrets) is committed before any side effect. Then a task of
//! its own *runs* it, tied to no request: a client that goes away changes nothing. Every step is
//! idempotent ("ensure …"), so after a crash [`Broker::recover`] simply runs it again.
//!
//! # Invariants
//!
//! * One running operation per instance, kept by the state machine in `state.rs` and by the schema.
//! * Different instances never wait for one another; no lock is held across a step.
//! * A directory with data is removed only by a deprovision of that very instance, or by undoing
//!   a provision that never succeeded.
//! * A row leaves only after dockerd has confirmed that its container is gone.
//!
//! Knows no HTTP code, no SQL, no type of bollard.

mod bind;
mod binding;
mod binding_work;
mod broker;
mod certificates;
mod container;
mod deprovision;
mod error;
mod existing;
mod expire;
pub mod fault;
mod fetch;
mod guest;
mod hook;
mod hook_input;
mod instance;
mod keys;
mod last_operation;
mod provision;
mod recover;
mod replace;
mod requests;
mod retry;
mod state;
mod tenancy;
mod unbind;
mod update;
mod work;

pub use broker::{Broker, Limits, Status};
pub use error::{InternalError, Refusal};
pub use keys::{Resealed, StartError, use_first_key};
pub use last_operation::Progress;
pub use recover::Recovery;
pub use requests::{
    Accepted, BindRequest, Bound, BoundDocument, DeleteRequest, FetchedInstance, ProvisionRequest,
    RotationRequest, UpdateRequest,
};
pub use state::{Event, InstanceState, Transition};
