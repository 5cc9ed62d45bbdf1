//! What serving tells the reconciler, through a bounded channel.
//!
//! A full channel drops the event and counts it (`agentd_serving_events_dropped_total`): the request path never
//! waits for the reconciler.

use agentd_types::{Code, Digest, ModelName};

/// Something that may cost a model version its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServingEvent {
    /// An instance died while it ran a request, and is being replaced.
    InstanceDied {
        /// Which model version.
        of: Subject,
        /// What happened to it.
        code: Code,
        /// The same for people.
        message: String,
        /// 1 for the first death that a request met with; 2 when the retry of the same request killed another
        /// instance. Counting strikes by attempt 1 charges a poisonous request once.
        attempt: u32,
    },
    /// The engine failed on a request, for example by a panic, and the instance goes on. Told once a minute at most
    /// for each version, since a caller can bring it about.
    EngineFailed {
        /// Which model version.
        of: Subject,
        /// The engine's code.
        code: Code,
        /// The same for people.
        message: String,
        /// Failures since the last one told, which were not.
        untold: u64,
    },
    /// Finite inputs gave an output that is not finite.
    NotFinite {
        /// Which model version.
        of: Subject,
        /// The output's name.
        output: String,
    },
    /// The outputs are not those that the bundle promises.
    WrongOutputs {
        /// Which model version.
        of: Subject,
        /// What is wrong with them.
        message: String,
    },
    /// A dead instance could not be replaced; it is tried again, up to a minute later.
    RespawnFailed {
        /// Which model version.
        of: Subject,
        /// Why.
        code: Code,
        /// The same for people.
        message: String,
        /// Instances of the version that still answer.
        alive: usize,
    },
    /// A dead instance has been replaced.
    Respawned {
        /// Which model version.
        of: Subject,
        /// Instances of the version that answer now.
        alive: usize,
    },
}

/// The model version that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The deployment's name.
    pub model: ModelName,
    /// Its version.
    pub version: u64,
    /// Digest of the bundle.
    pub bundle: Digest,
}
