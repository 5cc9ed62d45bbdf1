//! Routes predictions to model versions: Open Inference Protocol v2 over HTTP/1.1, and switching between versions
//! without a failed request.
//!
//! In: loaded versions ([`Version`]) from the reconciler, requests from applications. Out: answers, and
//! [`ServingEvent`]s about versions that misbehave. Parses no model, starts no process, decides no roll-back, and
//! needs no network.

mod counters;
mod event;
mod finite;
mod http;
mod instance;
mod latency;
mod metrics;
mod oip;
mod pool;
mod served;
mod serving;
mod status;
mod worker;

pub use event::{ServingEvent, Subject};
pub use http::{ListenError, Listener, bind_unix, bind_unix_beside, serve};
pub use instance::{Instance, InstanceError, Respawn, Respawning};
pub use latency::Latency;
pub use oip::RequestError;
pub use served::{Finite, InferError, Version};
pub use serving::{Limits, Serving, SwitchError, Switched};
pub use status::{DeploymentStatus, Quantiles, VersionStatus};
