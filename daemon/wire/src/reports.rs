//! What devices say about themselves and what they are told to do: JSON messages on the topics of the protocol.
//!
//! In: the payload of a message. Out: the message as plain data. [`Payload::read`] refuses what is over the limits or
//! has another schema; unknown fields are ignored, since fields may be added in later versions.

use std::{collections::BTreeMap, fmt, str::FromStr};

use agentd_types::{Adapter, ByteCount, Code, Coded, Digest, EngineKind, ModelName, UnixTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{ClockState, Event, ModelStatus, SCHEMA, Section, Target, Versioned};

/// No message of this module is longer.
pub const MAX_PAYLOAD_BYTES: usize = 256 << 10;

const MAX_CONDITIONS: usize = 256;
const MAX_POINTS: usize = 4_096;
const MAX_MODELS: usize = 1_024;
const MAX_TEXT_BYTES: usize = 4 << 10;

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadPayload {
    /// Longer than [`MAX_PAYLOAD_BYTES`].
    #[error("the message has {0} bytes, more than {MAX_PAYLOAD_BYTES}")]
    Size(usize),
    /// Not the JSON of such a message.
    #[error("the message cannot be read")]
    Json(#[source] serde_json::Error),
    /// Another schema.
    #[error("the message has schema {0}, not {SCHEMA}")]
    Schema(u32),
    /// A list or a text is too long.
    #[error("the message has too long {0}")]
    Bounds(&'static str),
}

impl Coded for BadPayload {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Size(_) => "payload.size",
            Self::Json(_) => "payload.json",
            Self::Schema(_) => "payload.schema",
            Self::Bounds(_) => "payload.bounds",
        })
    }
}

/// A JSON message with a schema number.
pub trait Payload: Serialize + DeserializeOwned {
    /// Checks what the types do not: the lengths of lists and texts.
    ///
    /// # Errors
    /// When something is too long.
    fn check(&self) -> Result<(), BadPayload>;

    /// Reads a message.
    ///
    /// # Errors
    /// When it is too long, is not such a message, or breaks a limit.
    fn read(message: &[u8]) -> Result<Self, BadPayload> {
        if message.len() > MAX_PAYLOAD_BYTES {
            return Err(BadPayload::Size(message.len()));
        }
        let versioned: Versioned<Self> = serde_json::from_slice(message).map_err(BadPayload::Json)?;
        if versioned.schema != SCHEMA {
            return Err(BadPayload::Schema(versioned.schema));
        }
        versioned.body.check()?;
        Ok(versioned.body)
    }

    /// The message.
    ///
    /// # Errors
    /// When it breaks a limit.
    fn write(&self) -> Result<Vec<u8>, BadPayload> {
        self.check()?;
        let message = serde_json::to_vec(&Versioned::new(self)).map_err(BadPayload::Json)?;
        if message.len() > MAX_PAYLOAD_BYTES {
            return Err(BadPayload::Size(message.len()));
        }
        Ok(message)
    }
}

/// Whether a device is there: retained on `conn`, and its will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Presence {
    /// It is connected.
    Online {
        /// Names this run of the daemon.
        boot: String,
        /// Counts the connections of this run, from 1.
        connection: u64,
        /// The version of the agent.
        agent: String,
        /// The major versions of the protocol that it speaks.
        protocols: Vec<u32>,
        /// Whether its wall clock can be believed.
        clock: ClockState,
        /// When it connected, by its own clock.
        at: UnixTime,
    },
    /// The broker lost this connection. A later connection's birth outdoes it.
    Lost {
        /// The run of the daemon.
        boot: String,
        /// The connection that was lost.
        connection: u64,
    },
    /// It left in an orderly way.
    Stopped {
        /// The run of the daemon.
        boot: String,
        /// The connection that was closed.
        connection: u64,
        /// When, by its own clock.
        at: UnixTime,
    },
}

impl Presence {
    /// The run of the daemon and the number of the connection that this is about.
    pub fn connection(&self) -> (&str, u64) {
        match self {
            Self::Online { boot, connection, .. }
            | Self::Lost { boot, connection }
            | Self::Stopped { boot, connection, .. } => (boot, *connection),
        }
    }

    /// Whether `later`, which arrived after this, says something new: a late word about an older connection of the
    /// same run does not.
    pub fn is_outdone_by(&self, later: &Self) -> bool {
        let ((boot, connection), (later_boot, later_connection)) = (self.connection(), later.connection());
        boot != later_boot || later_connection >= connection
    }
}

impl Payload for Presence {
    fn check(&self) -> Result<(), BadPayload> {
        let (boot, _) = self.connection();
        text("boot id", boot, 64)?;
        if let Self::Online { agent, protocols, .. } = self {
            text("agent version", agent, 64)?;
            list("protocols", protocols.len(), 16)?;
        }
        Ok(())
    }
}

/// One retained section of the reported state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When it was made, by the device's clock.
    pub at: UnixTime,
    /// What is so.
    #[serde(flatten)]
    pub facts: Facts,
    /// What is well and what is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What a section says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "section", rename_all = "lowercase")]
pub enum Facts {
    /// What the box is.
    Hardware(HardwareFacts),
    /// What it runs.
    Models(ModelsFacts),
    /// How it is: the conditions say it.
    Health,
    /// How it is set up.
    Config(ConfigFacts),
    /// Which agent speaks, and what it has seen.
    Agent(AgentFacts),
}

impl Report {
    /// The section that this report is.
    pub const fn section(&self) -> Section {
        match self.facts {
            Facts::Hardware(_) => Section::Hardware,
            Facts::Models(_) => Section::Models,
            Facts::Health => Section::Health,
            Facts::Config(_) => Section::Config,
            Facts::Agent(_) => Section::Agent,
        }
    }
}

/// What the box is, and what is free for models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub struct HardwareFacts {
    pub fingerprint: Option<Digest>,
    pub board: String,
    pub cpu: String,
    pub cores: u32,
    pub memory: ByteCount,
    /// Memory that models may still take.
    pub free_memory: ByteCount,
    pub disk: ByteCount,
    /// Disk that downloads may still take.
    pub free_disk: ByteCount,
    pub engines: Vec<EngineKind>,
    pub adapters: Vec<Adapter>,
}

/// What the box runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct ModelsFacts {
    pub models: Vec<ModelStatus>,
}

/// How the box is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigFacts {
    /// Digest of the configuration in force.
    pub digest: Option<Digest>,
    /// Settings that differ from the built-in ones and are not secret.
    pub changed: BTreeMap<String, Value>,
}

/// Which agent speaks, and what it has seen of the signed documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct AgentFacts {
    pub version: String,
    pub boot: String,
    pub started: UnixTime,
    pub observed: Observed,
}

/// The numbers of the signed documents that took effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct Observed {
    pub trust: u64,
    pub catalog: Option<u64>,
    pub membership: Option<u64>,
    /// Sequence number of the desired document of each target.
    pub desired: BTreeMap<String, u64>,
    /// The newest document refused, when nothing was accepted since.
    pub refused: Option<Code>,
}

impl Observed {
    /// The sequence number seen of the desired document for `target`.
    pub fn desired_for(&self, target: &Target) -> Option<u64> {
        self.desired.get(&target.to_string()).copied()
    }
}

/// Something that is well or not, and how we know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// What it is about, for example `disk.space`.
    pub r#type: Code,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// A stable code for why.
    pub reason: Code,
    /// For people.
    pub message: String,
    /// Since when the status is what it is.
    pub since: UnixTime,
    /// The figures behind it.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub evidence: Map<String, Value>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody could find out.
    Unknown,
}

impl Payload for Report {
    fn check(&self) -> Result<(), BadPayload> {
        list("list of conditions", self.conditions.len(), MAX_CONDITIONS)?;
        for condition in &self.conditions {
            text("type of a condition", condition.r#type.as_str(), 128)?;
            text("reason of a condition", condition.reason.as_str(), 128)?;
            text("message of a condition", &condition.message, MAX_TEXT_BYTES)?;
        }
        match &self.facts {
            Facts::Hardware(facts) => list("list of adapters", facts.adapters.len(), 64),
            Facts::Models(facts) => list("list of models", facts.models.len(), MAX_MODELS),
            Facts::Health => Ok(()),
            Facts::Config(facts) => list("list of settings", facts.changed.len(), 1_024),
            Facts::Agent(facts) => list("list of targets", facts.observed.desired.len(), 1_024),
        }
    }
}

/// A batch of measurements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// In the order in which they were taken.
    pub points: Vec<TelemetryPoint>,
    /// Whether the batch waited for the link and tells of the past.
    #[serde(default)]
    pub historical: bool,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TelemetryPoint {
    /// When, by the device's clock.
    pub at: UnixTime,
    /// The metric's name, with its unit.
    pub name: String,
    /// The model it is about, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// The value.
    pub value: f64,
}

impl Payload for Telemetry {
    fn check(&self) -> Result<(), BadPayload> {
        list("list of points", self.points.len(), MAX_POINTS)?;
        self.points.iter().try_for_each(|point| text("name of a metric", &point.name, 128))
    }
}

/// An entry of the journal, told upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedEvent {
    /// The run of the daemon that tells it.
    pub boot: String,
    /// What happened, with its place in the journal: the same entry may arrive twice.
    pub entry: Event,
}

impl Payload for ReportedEvent {
    fn check(&self) -> Result<(), BadPayload> {
        text("boot id", &self.boot, 64)
    }
}

/// The name of a command: a ULID, 26 digits of Crockford's base 32 in upper case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(String);

/// The text is not a ULID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a command's id is a ULID: 26 digits of 0-9 and A-Z without I, L, O, U, the first at most 7")]
pub struct BadCommandId;

impl CommandId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id from the time in milliseconds since 1970 (48 bits are kept) and 80 random bits.
    ///
    /// Source: the ULID specification, "Binary Layout and Byte Order".
    pub fn from_parts(unix_ms: u64, random: u128) -> Self {
        let bits = u128::from(unix_ms & 0xFFFF_FFFF_FFFF) << 80 | random & ((1 << 80) - 1);
        Self(
            (0..26)
                .rev()
                .map(|digit| {
                    let index = (bits >> (5 * digit) & 31) as usize;
                    char::from(DIGITS.get(index).copied().unwrap_or(b'0'))
                })
                .collect(),
        )
    }
}

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl FromStr for CommandId {
    type Err = BadCommandId;

    fn from_str(text: &str) -> Result<Self, BadCommandId> {
        let bytes = text.as_bytes();
        let fits = bytes.len() == 26
            && bytes.first().is_some_and(|first| *first <= b'7')
            && bytes.iter().all(|digit| DIGITS.contains(digit));
        if fits { Ok(Self(text.to_owned())) } else { Err(BadCommandId) }
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for CommandId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CommandId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Something that a device shall do once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its name; a duplicate gets the stored result.
    pub id: CommandId,
    /// What to do, for example `model.rollback`.
    pub verb: String,
    /// With what.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// When it was given.
    pub issued: UnixTime,
    /// After this it is `expired`.
    pub deadline: UnixTime,
    /// Who gave it, for people.
    #[serde(default)]
    pub by: String,
}

impl Payload for Command {
    fn check(&self) -> Result<(), BadPayload> {
        text("verb", &self.verb, 64)?;
        text("name of who gave it", &self.by, 256)?;
        list("list of arguments", self.arguments.len(), 64)
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandResult {
    /// Which command.
    pub id: CommandId,
    /// How it ended.
    pub outcome: CommandOutcome,
    /// When.
    pub at: UnixTime,
    /// Why it did not end in `done`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub output: Map<String, Value>,
}

/// How a command ended; nothing stays in progress for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named with their meaning")]
pub enum CommandOutcome {
    Done,
    Failed,
    Expired,
    Refused,
}

impl Payload for CommandResult {
    fn check(&self) -> Result<(), BadPayload> {
        text("message", &self.message, MAX_TEXT_BYTES)?;
        list("output", self.output.len(), 256)
    }
}

/// Unsigned hints for every device: they may only slow it down within limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// After the broker closed a connection, the first attempt is spread over this many seconds.
    #[serde(default = "default_window")]
    pub reconnect_window_s: u32,
}

const fn default_window() -> u32 {
    60
}

impl Default for Params {
    fn default() -> Self {
        Self { reconnect_window_s: default_window() }
    }
}

impl Payload for Params {
    fn check(&self) -> Result<(), BadPayload> {
        list("reconnect window", self.reconnect_window_s as usize, 3_600)
    }
}

fn text(what: &'static str, text: &str, limit: usize) -> Result<(), BadPayload> {
    list(what, text.len(), limit)
}

fn list(what: &'static str, length: usize, limit: usize) -> Result<(), BadPayload> {
    if length <= limit { Ok(()) } else { Err(BadPayload::Bounds(what)) }
}

#[cfg(test)]
mod tests {
    use agentd_types::Code;
    use proptest::{collection::vec, prelude::*};
    use serde_json::json;

    use super::*;
    use crate::What;

    #[track_caller]
    fn check<T: Payload + PartialEq + fmt::Debug>(message: &T) -> String {
        let bytes = message.write().unwrap();
        assert_eq!(&T::read(&bytes).unwrap(), message);
        String::from_utf8(bytes).unwrap()
    }

    fn online(connection: u64) -> Presence {
        Presence::Online {
            boot: "3f2a".into(),
            connection,
            agent: "0.1.0".into(),
            protocols: vec![1],
            clock: ClockState::Plausible,
            at: UnixTime(1_795_593_599),
        }
    }

    #[test]
    fn presences_look_like_this() {
        let lost = Presence::Lost { boot: "3f2a".into(), connection: 4 };
        let stopped = Presence::Stopped { boot: "3f2a".into(), connection: 4, at: UnixTime(5) };
        let lines = [check(&online(4)), check(&lost), check(&stopped)].join("\n");
        insta::assert_snapshot!(lines, @r#"
        {"schema":1,"state":"online","boot":"3f2a","connection":4,"agent":"0.1.0","protocols":[1],"clock":"plausible","at":1795593599}
        {"schema":1,"state":"lost","boot":"3f2a","connection":4}
        {"schema":1,"state":"stopped","boot":"3f2a","connection":4,"at":5}
        "#);
    }

    #[test]
    fn a_late_death_of_an_older_connection_is_ignored() {
        let lost = |boot: &str, connection| Presence::Lost { boot: boot.into(), connection };
        assert!(!online(5).is_outdone_by(&lost("3f2a", 4)));
        assert!(online(5).is_outdone_by(&lost("3f2a", 5)));
        assert!(online(5).is_outdone_by(&online(6)));
        assert!(online(5).is_outdone_by(&lost("0000", 1)), "another run of the daemon");
    }

    #[test]
    fn reports_look_like_this() {
        let health = Report {
            at: UnixTime(9),
            facts: Facts::Health,
            conditions: vec![Condition {
                r#type: Code::new("disk.space"),
                status: ConditionStatus::False,
                reason: Code::new("disk.low"),
                message: "1.9 GiB free, downloads stop at 1.5 GiB".into(),
                since: UnixTime(7),
                evidence: json!({ "free_bytes": 2_040_109_465_u64 }).as_object().unwrap().clone(),
            }],
        };
        let agent = Report {
            at: UnixTime(9),
            facts: Facts::Agent(AgentFacts {
                version: "0.1.0".into(),
                boot: "3f2a".into(),
                started: UnixTime(1),
                observed: Observed {
                    trust: 2,
                    catalog: Some(5_512),
                    desired: BTreeMap::from([("group:line-4".into(), 118)]),
                    ..Observed::default()
                },
            }),
            conditions: Vec::new(),
        };
        let models = Report {
            at: UnixTime(9),
            facts: Facts::Models(ModelsFacts { models: Vec::new() }),
            conditions: Vec::new(),
        };
        assert_eq!(health.section(), Section::Health);
        let lines = [check(&health), check(&agent), check(&models)].join("\n");
        insta::assert_snapshot!(lines, @r#"
        {"schema":1,"at":9,"section":"health","conditions":[{"type":"disk.space","status":"false","reason":"disk.low","message":"1.9 GiB free, downloads stop at 1.5 GiB","since":7,"evidence":{"free_bytes":2040109465}}]}
        {"schema":1,"at":9,"section":"agent","version":"0.1.0","boot":"3f2a","started":1,"observed":{"trust":2,"catalog":5512,"membership":null,"desired":{"group:line-4":118},"refused":null}}
        {"schema":1,"at":9,"section":"models","models":[]}
        "#);
    }

    #[test]
    fn commands_results_events_and_batches_look_like_this() {
        let id = CommandId::from_parts(1_795_593_599_000, 42);
        let command = Command {
            id: id.clone(),
            verb: "model.rollback".into(),
            arguments: json!({ "model": "demo/digits" }).as_object().unwrap().clone(),
            issued: UnixTime(1),
            deadline: UnixTime(61),
            by: "ops".into(),
        };
        let result = CommandResult {
            id,
            outcome: CommandOutcome::Refused,
            at: UnixTime(3),
            code: Some(Code::new("command.unknown")),
            message: "this agent does not know the verb".into(),
            output: Map::new(),
        };
        let event = ReportedEvent {
            boot: "3f2a".into(),
            entry: Event { seq: 7, at: UnixTime(3), what: What::Stopped },
        };
        let batch = Telemetry {
            points: vec![TelemetryPoint {
                at: UnixTime(3),
                name: "agentd_latency_us".into(),
                model: Some("demo/digits".parse().unwrap()),
                value: 61.5,
            }],
            historical: true,
        };
        let lines =
            [check(&command), check(&result), check(&event), check(&batch), check(&Params::default())];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"schema":1,"id":"01M88VFY0R000000000000001A","verb":"model.rollback","arguments":{"model":"demo/digits"},"issued":1,"deadline":61,"by":"ops"}
        {"schema":1,"id":"01M88VFY0R000000000000001A","outcome":"refused","at":3,"code":"command.unknown","message":"this agent does not know the verb"}
        {"schema":1,"boot":"3f2a","entry":{"seq":7,"at":3,"event":"stopped"}}
        {"schema":1,"points":[{"at":3,"name":"agentd_latency_us","model":"demo/digits","value":61.5}],"historical":true}
        {"schema":1,"reconnect_window_s":60}
        "#);
    }

    #[test]
    fn messages_over_the_limits_are_refused_with_their_code() {
        let code = |message: &[u8]| Presence::read(message).unwrap_err().code();
        assert_eq!(code(&vec![b' '; MAX_PAYLOAD_BYTES + 1]).as_str(), "payload.size");
        assert_eq!(code(b"{}").as_str(), "payload.json");
        assert_eq!(
            code(br#"{"schema":2,"state":"lost","boot":"a","connection":1}"#).as_str(),
            "payload.schema"
        );
        let long = format!(r#"{{"schema":1,"state":"lost","boot":"{}","connection":1}}"#, "a".repeat(65));
        assert_eq!(code(long.as_bytes()).as_str(), "payload.bounds");
        assert_eq!(
            Params::read(br#"{"schema":1,"reconnect_window_s":999999}"#).unwrap_err().code().as_str(),
            "payload.bounds"
        );
    }

    #[test]
    fn only_ulids_name_commands() {
        for (text, want) in [
            ("01M88VFY0R000000000000001A", true),
            ("7ZZZZZZZZZZZZZZZZZZZZZZZZZ", true),
            ("8ZZZZZZZZZZZZZZZZZZZZZZZZZ", false),
            ("01m88vfy0r000000000000001a", false),
            ("01M88VFY0R000000000000001I", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<CommandId>().is_ok(), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _unread = (Presence::read(&bytes), Report::read(&bytes), Telemetry::read(&bytes));
            let _unread = (Command::read(&bytes), CommandResult::read(&bytes), ReportedEvent::read(&bytes));
        }

        #[test]
        fn every_ulid_reads_back(ms in any::<u64>(), random in any::<u128>()) {
            let id = CommandId::from_parts(ms, random);
            prop_assert_eq!(id.as_str().parse(), Ok(id.clone()));
        }

        #[test]
        fn telemetry_reads_back(values in vec((any::<u64>(), any::<i32>()), 0..50), historical: bool) {
            let points = values.into_iter().map(|(at, value)| TelemetryPoint {
                at: UnixTime(at), name: "x".into(), model: None, value: f64::from(value),
            });
            check(&Telemetry { points: points.collect(), historical });
        }
    }
}
