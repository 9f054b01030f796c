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

mod adopt;
mod adopt_checks;
mod adopted;
mod backup;
mod before_update;
mod bind;
mod binding;
mod binding_work;
mod broker;
mod certificates;
mod compare;
mod container;
mod data_version;
mod deprovision;
mod diagnosis;
mod doubt;
mod error;
mod existing;
mod expire;
pub mod fault;
mod fetch;
mod guard;
mod guest;
mod health;
mod hook;
mod hook_input;
mod host_upgrade;
mod hosts;
mod instance;
mod keys;
mod last_operation;
mod ledger;
mod legacy_environment;
mod provision;
mod rebuild;
mod reconcile;
mod record;
mod recover;
mod replace;
mod requests;
mod retry;
mod room;
mod snapshot;
mod state;
mod stay;
mod strangers;
mod survey;
mod take_back;
mod tenancy;
mod tend;
mod unbind;
mod update;
mod way_back;
mod work;

pub use adopt::{Adopter, Found, Verdict};
pub use adopted::know_adopted;
pub use broker::{Broker, Limits, Status};
pub use compare::{Compared, bring_records_up_to_date};
pub use error::{InternalError, Refusal};
pub use keys::{Resealed, StartError, use_first_key};
pub use last_operation::Progress;
pub use rebuild::{RebuildFailure, Rebuilt, Restored, rebuild_store};
pub use recover::Recovery;
pub use replace::standby_name;
pub use requests::{
    Accepted, BindRequest, Bound, BoundDocument, DeleteRequest, FetchedInstance, ProvisionRequest,
    RotationRequest, UpdateRequest,
};
pub use state::{Event, InstanceState, Transition};
pub use survey::{Home, Surveyed, survey};
pub use take_back::take_back;
