//! The registrar: makes the broker's services appear in a Cloud Foundry marketplace, and disappear.
//!
//! Owns the client of UAA and of the Cloud Controller's v3 API (v2 is never used) and the way from
//! what is to what should be: `plan` is pure, `register` and `deregister` carry it out and
//! write the transcript. Shares nothing with the broker's own rooms. Invariants: no secret is
//! written anywhere; a second run changes nothing; access is taken from nobody unless asked.

mod access;
mod catalog;
mod client;
mod deregister;
mod error;
mod marketplace;
mod patience;
mod plan;
mod preview;
mod register;
mod resources;
mod settings;
mod tls;
mod uaa;

pub use deregister::deregister;
pub use error::CfError;
pub use plan::{
    Access, AccessChange, BrokerChange, OwnService, find_ours, plan_access, plan_broker,
};
pub use register::register;
pub use resources::{Broker, Offering, Organization, Plan, Visibility};
pub use settings::{ServiceAccess, Settings};
