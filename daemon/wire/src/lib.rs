//! What crosses a boundary: signed documents, topics, MQTT payloads, journal events, local API bodies.
//!
//! Plain data with a version; a type that changes inside a step never changes a message. Proves nothing: that a
//! document is genuine is said by `agentd-bundle`'s types alone.

mod blocks;
mod documents;
mod event;
mod local;
mod policy;
mod profile;
mod reports;
mod topics;

pub use blocks::{
    BLOCK_OVERHEAD_BYTES, BadBlock, Block, BlockRequest, MAX_BLOCK_BYTES, MAX_CHUNK_BYTES, MAX_CREDIT,
    MAX_MANIFEST_BYTES, MAX_RANGES, Object, Range, Status, edition_of,
};
pub use documents::{
    Catalog, CatalogEntry, Chunk, Derived, Desired, DesiredEntry, FileEntry, Golden, Kind, Licence, Lineage,
    Manifest, Membership, ModelSection, ReleaseRole, Requires, Role, Roles, SPEC, Target, TargetError, Trust,
};
pub use event::{Event, What};
pub use local::{
    Action, BrokerState, CheckState, ClockState, DeviceStatus, DoctorCheck, DoctorReport, ErrorBody,
    ErrorDetail, HeldVersion, LackingChunks, ModelState, ModelStatus, PinRequest, RetryResult,
    RollbackRequest, RollbackResult, SCHEMA, ServedVersion, Versioned,
};
pub use policy::{Objective, PolicyError, ServePolicy};
pub use profile::{Candidate, Figures, Outcome, Profile, Receipt, Verdict};
pub use reports::{
    AgentFacts, BadPayload, Command, CommandId, CommandOutcome, CommandResult, Condition, ConditionStatus,
    ConfigFacts, Facts, HardwareFacts, MAX_PAYLOAD_BYTES, ModelsFacts, Observed, Params, Payload, Presence,
    Report, ReportedEvent, Telemetry, TelemetryPoint,
};
pub use topics::{AllTopic, BadTopic, Down, Filter, GroupTopic, MAX_TOPIC_BYTES, PREFIX, Section, Topic, Up};
