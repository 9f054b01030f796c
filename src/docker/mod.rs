//! dockerd: images, containers, networks, readiness.
//!
//! Owns the only connection to the Docker Engine API and the names and labels by which the broker
//! knows its own objects. Objects without the broker's owner label are never touched. Retry policy
//! and persistence belong to `lifecycle`.
//!
//! Invariants: every call has a time limit; every verb is idempotent ("already so" is success);
//! [`spec::container_spec`] is a pure function, so the same instance always gets the same
//! container.

mod condition;
mod containers;
mod convert;
mod describe;
mod engine;
mod error;
mod events;
mod exec;
mod images;
mod inventory;
mod labels;
mod legacy;
mod networks;
mod one_off;
mod published;
mod pull;
mod readiness;
mod registries;
pub mod spec;

pub use condition::{Condition, Reach};
pub use containers::{ContainerFacts, OwnedContainer};
pub use describe::{DeclaredVolume, ImageDescription};
pub use engine::{Engine, EngineOptions};
pub use error::DockerError;
pub use events::{ContainerEvent, Events};
pub use exec::{Ended, Program, Ran};
pub use images::{ImageError, ImageFacts, ImageStatus, Images};
pub use inventory::{Extent, ListedContainer, ListedNetwork};
pub use labels::Labels;
pub use legacy::{LegacyContainer, LegacyMount, LegacyPort};
pub use one_off::OneOff;
pub use published::{Published, reachable};
pub use pull::{PullEvent, PullProgress};
pub use readiness::NotReady;
pub use registries::{prepare_registries, registry_problems};
pub use spec::ContainerSpec;
