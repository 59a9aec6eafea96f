//! The shadow loop: feedback becomes a snapshot, a snapshot an adapter, an adapter a version that the gate judges, and a
//! version that passes is published to a share of requests, watched, and kept or taken back. One state machine whose every
//! step is one transaction of the feedback store. Leaves serving to the server, which follows the store's pointer.

pub mod arms;
mod detail;
mod error;
pub mod machine;
#[cfg(test)]
mod machine_tests;
mod observe;
pub mod ops;
mod place;
mod priority;
mod remote;
mod settings;
mod snapshot;
mod state;
mod work;
mod worker;
#[cfg(test)]
mod worker_tests;

pub use detail::Detail;
pub use error::ShadowError;
pub use machine::{Outcome, Rules, label};
pub use place::{Place, holder};
pub use priority::Priority;
pub use remote::Remote;
pub use settings::{Algorithm, Methods, Settings, registry_name, reward_name};
pub use state::State;
pub use work::LoopWork;
pub use worker::{Schedule, Work, Worker, pointer_of};
