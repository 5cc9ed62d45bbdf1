//! What crosses a boundary: signed documents, topics, MQTT payloads, journal events, local API bodies.
//!
//! Plain data with a version; a type that changes inside a step never changes a message. Proves nothing: that a
//! document is genuine is said by `agentd-bundle`'s types alone.

mod documents;
mod event;
mod local;
mod policy;
mod profile;

pub use documents::{
    Catalog, CatalogEntry, Chunk, Derived, Desired, DesiredEntry, FileEntry, Golden, Kind, Licence, Lineage,
    Manifest, Membership, ModelSection, ReleaseRole, Requires, Role, Roles, SPEC, Target, TargetError, Trust,
};
pub use event::{Event, What};
pub use local::{
    Action, BrokerState, CheckState, ClockState, DeviceStatus, DoctorCheck, DoctorReport, ErrorBody,
    ErrorDetail, HeldVersion, ModelState, ModelStatus, PinRequest, RollbackRequest, RollbackResult, SCHEMA,
    ServedVersion, Versioned,
};
pub use policy::{Objective, PolicyError, ServePolicy};
pub use profile::{Candidate, Figures, Outcome, Profile, Receipt, Verdict};
