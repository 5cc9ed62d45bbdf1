//! The topics of protocol version 1: built from ids, parsed back into ids, and the filters that subscribe to them.
//!
//! In: ids, or the text of a topic as a broker sent it. Out: a [`Topic`], whose text form is the topic. Refuses every
//! text that is not exactly one topic of the protocol, so that nothing else in the house takes topics apart.
//!
//! The direction stands right after the device id and every depth is fixed, so that five static rules of an access
//! list serve any fleet.

use std::{fmt, str::FromStr};

use agentd_types::{DeviceId, Digest, FleetId, GroupName};
use serde::{Deserialize, Serialize};

/// What every topic starts with: the name and the major version of the protocol.
pub const PREFIX: &str = "agentd/1";

/// No topic is longer: the longest is a group's multicast topic.
pub const MAX_TOPIC_BYTES: usize = 256;

/// One topic of the protocol. [`fmt::Display`] writes it, [`FromStr`] reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Only the device publishes here.
    Up {
        /// The fleet.
        fleet: FleetId,
        /// The device that speaks.
        device: DeviceId,
        /// What it says.
        up: Up,
    },
    /// Only the device listens here.
    Down {
        /// The fleet.
        fleet: FleetId,
        /// The device spoken to.
        device: DeviceId,
        /// What it is told.
        down: Down,
    },
    /// The members of a group listen here.
    Group {
        /// The fleet.
        fleet: FleetId,
        /// The group.
        group: GroupName,
        /// What its members are told.
        what: GroupTopic,
    },
    /// Every device of the fleet listens here.
    All {
        /// The fleet.
        fleet: FleetId,
        /// What everybody is told.
        what: AllTopic,
    },
}

/// What a device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Up {
    /// Retained birth; the will is the same topic with state `lost`.
    Conn,
    /// A retained section of the reported state.
    Rep(Section),
    /// Batches of telemetry.
    Tele,
    /// Events.
    Event,
    /// Heads of the audit chain.
    Audit,
    /// Results of commands.
    Res,
    /// Requests for blocks.
    Blk,
}

/// What a device is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Down {
    /// The signed document with its groups; retained.
    Membership,
    /// The signed document with what it shall run; retained.
    Desired,
    /// Commands.
    Cmd,
    /// Blocks that it asked for.
    Blk,
}

/// What the members of a group are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupTopic {
    /// The signed document with what they shall run; retained.
    Desired,
    /// Blocks of the bundle with this digest, sent once to everybody who asked.
    Multicast(Digest),
}

/// What every device is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AllTopic {
    /// The signed catalog; retained.
    Catalog,
    /// The signed document with what all shall run; retained.
    Desired,
    /// Unsigned hints, such as the window over which reconnections are spread; retained.
    Params,
    /// The trust document with this version; retained, and the whole chain is.
    Trust(u64),
}

/// A section of the reported state: one retained topic each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// What the box is.
    Hardware,
    /// What it runs.
    Models,
    /// How it is.
    Health,
    /// How it is set up.
    Config,
    /// Which agent speaks, and what it has seen of the signed documents.
    Agent,
}

impl Section {
    /// Every section.
    pub const ALL: [Self; 5] = [Self::Hardware, Self::Models, Self::Health, Self::Config, Self::Agent];

    /// The section's name in topics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Models => "models",
            Self::Health => "health",
            Self::Config => "config",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Topic {
    /// The topic on which `device` says `up`.
    pub fn up(fleet: &FleetId, device: &DeviceId, up: Up) -> Self {
        Self::Up { fleet: fleet.clone(), device: device.clone(), up }
    }

    /// The topic on which `device` is told `down`.
    pub fn down(fleet: &FleetId, device: &DeviceId, down: Down) -> Self {
        Self::Down { fleet: fleet.clone(), device: device.clone(), down }
    }

    /// The topic on which the members of `group` are told `what`.
    pub fn group(fleet: &FleetId, group: &GroupName, what: GroupTopic) -> Self {
        Self::Group { fleet: fleet.clone(), group: group.clone(), what }
    }

    /// The topic on which all devices are told `what`.
    pub fn all(fleet: &FleetId, what: AllTopic) -> Self {
        Self::All { fleet: fleet.clone(), what }
    }

    /// The fleet that the topic belongs to.
    pub const fn fleet(&self) -> &FleetId {
        match self {
            Self::Up { fleet, .. }
            | Self::Down { fleet, .. }
            | Self::Group { fleet, .. }
            | Self::All { fleet, .. } => fleet,
        }
    }
}

impl fmt::Display for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conn => f.write_str("conn"),
            Self::Rep(section) => write!(f, "rep/{section}"),
            Self::Tele => f.write_str("tele"),
            Self::Event => f.write_str("event"),
            Self::Audit => f.write_str("audit"),
            Self::Res => f.write_str("res"),
            Self::Blk => f.write_str("blk"),
        }
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Membership => "membership",
            Self::Desired => "desired",
            Self::Cmd => "cmd",
            Self::Blk => "blk",
        })
    }
}

impl fmt::Display for GroupTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Desired => f.write_str("desired"),
            Self::Multicast(bundle) => write!(f, "mc/{bundle}"),
        }
    }
}

impl fmt::Display for AllTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog => f.write_str("catalog"),
            Self::Desired => f.write_str("desired"),
            Self::Params => f.write_str("params"),
            Self::Trust(version) => write!(f, "trust/{version}"),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { fleet, device, up } => write!(f, "{PREFIX}/{fleet}/d/{device}/up/{up}"),
            Self::Down { fleet, device, down } => write!(f, "{PREFIX}/{fleet}/d/{device}/dn/{down}"),
            Self::Group { fleet, group, what } => write!(f, "{PREFIX}/{fleet}/g/{group}/{what}"),
            Self::All { fleet, what } => write!(f, "{PREFIX}/{fleet}/all/{what}"),
        }
    }
}

/// The text is not a topic of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a topic of agentd's protocol 1")]
pub struct BadTopic(String);

impl FromStr for Topic {
    type Err = BadTopic;

    fn from_str(text: &str) -> Result<Self, BadTopic> {
        let bad = || BadTopic(text.chars().take(MAX_TOPIC_BYTES).collect());
        if text.len() > MAX_TOPIC_BYTES {
            return Err(bad());
        }
        parse(text).ok_or_else(bad)
    }
}

fn parse(text: &str) -> Option<Topic> {
    let rest = text.strip_prefix(PREFIX)?.strip_prefix('/')?;
    let (fleet, rest) = rest.split_once('/')?;
    let fleet = fleet.parse().ok()?;
    let (branch, rest) = rest.split_once('/')?;
    if branch == "all" {
        return Some(Topic::All { fleet, what: parse_all(rest)? });
    }
    let (name, rest) = rest.split_once('/')?;
    match branch {
        "g" => Some(Topic::Group { fleet, group: name.parse().ok()?, what: parse_group(rest)? }),
        "d" => {
            let device = name.parse().ok()?;
            match rest.split_once('/')? {
                ("up", rest) => Some(Topic::Up { fleet, device, up: parse_up(rest)? }),
                ("dn", rest) => Some(Topic::Down { fleet, device, down: parse_down(rest)? }),
                _ => None,
            }
        }
        _ => None,
    }
}

fn parse_up(rest: &str) -> Option<Up> {
    Some(match rest {
        "conn" => Up::Conn,
        "tele" => Up::Tele,
        "event" => Up::Event,
        "audit" => Up::Audit,
        "res" => Up::Res,
        "blk" => Up::Blk,
        _ => {
            let name = rest.strip_prefix("rep/")?;
            Up::Rep(Section::ALL.into_iter().find(|section| section.as_str() == name)?)
        }
    })
}

fn parse_down(rest: &str) -> Option<Down> {
    Some(match rest {
        "membership" => Down::Membership,
        "desired" => Down::Desired,
        "cmd" => Down::Cmd,
        "blk" => Down::Blk,
        _ => return None,
    })
}

fn parse_group(rest: &str) -> Option<GroupTopic> {
    match rest {
        "desired" => Some(GroupTopic::Desired),
        _ => Some(GroupTopic::Multicast(rest.strip_prefix("mc/")?.parse().ok()?)),
    }
}

fn parse_all(rest: &str) -> Option<AllTopic> {
    Some(match rest {
        "catalog" => AllTopic::Catalog,
        "desired" => AllTopic::Desired,
        "params" => AllTopic::Params,
        _ => {
            let digits = rest.strip_prefix("trust/")?;
            let version = digits.parse::<u64>().ok()?;
            // One spelling only: no sign, no leading zeros.
            return (version.to_string() == digits).then_some(AllTopic::Trust(version));
        }
    })
}

/// A subscription: a topic, or several by wildcards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter(String);

impl Filter {
    /// Exactly `topic`.
    pub fn exactly(topic: &Topic) -> Self {
        Self(topic.to_string())
    }

    /// The whole trust chain of `fleet`.
    pub fn trust(fleet: &FleetId) -> Self {
        Self(format!("{PREFIX}/{fleet}/all/trust/+"))
    }

    /// What all devices of `fleet` say about themselves: `conn`.
    pub fn presences(fleet: &FleetId) -> Self {
        Self(format!("{PREFIX}/{fleet}/d/+/up/conn"))
    }

    /// The reported sections of all devices of `fleet`.
    pub fn reports(fleet: &FleetId) -> Self {
        Self(format!("{PREFIX}/{fleet}/d/+/up/rep/+"))
    }

    /// Everything that the devices of `fleet` say on `up`.
    pub fn from_all(fleet: &FleetId, up: Up) -> Self {
        Self(format!("{PREFIX}/{fleet}/d/+/up/{up}"))
    }

    /// The signed documents of every target of `fleet`: what stands on the broker now.
    pub fn desired(fleet: &FleetId) -> [Self; 3] {
        [
            Self(format!("{PREFIX}/{fleet}/all/desired")),
            Self(format!("{PREFIX}/{fleet}/g/+/desired")),
            Self(format!("{PREFIX}/{fleet}/d/+/dn/desired")),
        ]
    }

    /// The memberships of all devices of `fleet`.
    pub fn memberships(fleet: &FleetId) -> Self {
        Self(format!("{PREFIX}/{fleet}/d/+/dn/membership"))
    }

    /// The subscription that all servers of blocks share; each request reaches one of them.
    pub fn block_servers() -> Self {
        Self(format!("$share/blocks/{PREFIX}/+/d/+/up/blk"))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a message on `topic` reaches this subscription; a share's name is left aside.
    ///
    /// Source: MQTT 5.0, sections 4.7.1 (wildcards), 4.7.2 (topics that start with `$`) and 4.8.2 (shares).
    pub fn matches(&self, topic: &str) -> bool {
        let filter = match self.0.strip_prefix("$share/") {
            Some(shared) => shared.split_once('/').map_or("", |(_, filter)| filter),
            None => &self.0,
        };
        if topic.starts_with('$') != filter.starts_with('$') {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in filter.split('/') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

impl From<&Topic> for Filter {
    fn from(topic: &Topic) -> Self {
        Self::exactly(topic)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fleet() -> FleetId {
        "plant-7".parse().unwrap()
    }

    fn device() -> DeviceId {
        "line-4-cam-2".parse().unwrap()
    }

    fn every_topic() -> Vec<Topic> {
        let bundle = Digest::of(b"bundle");
        let mut topics = Vec::new();
        for up in [Up::Conn, Up::Tele, Up::Event, Up::Audit, Up::Res, Up::Blk] {
            topics.push(Topic::up(&fleet(), &device(), up));
        }
        topics.extend(Section::ALL.map(|section| Topic::up(&fleet(), &device(), Up::Rep(section))));
        for down in [Down::Membership, Down::Desired, Down::Cmd, Down::Blk] {
            topics.push(Topic::down(&fleet(), &device(), down));
        }
        let group = "line-4".parse().unwrap();
        for what in [GroupTopic::Desired, GroupTopic::Multicast(bundle)] {
            topics.push(Topic::group(&fleet(), &group, what));
        }
        for what in [AllTopic::Catalog, AllTopic::Desired, AllTopic::Params, AllTopic::Trust(3)] {
            topics.push(Topic::all(&fleet(), what));
        }
        topics
    }

    #[test]
    fn the_topics_are_those_of_the_protocol() {
        let lines: Vec<_> = every_topic().iter().map(Topic::to_string).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        agentd/1/plant-7/d/line-4-cam-2/up/conn
        agentd/1/plant-7/d/line-4-cam-2/up/tele
        agentd/1/plant-7/d/line-4-cam-2/up/event
        agentd/1/plant-7/d/line-4-cam-2/up/audit
        agentd/1/plant-7/d/line-4-cam-2/up/res
        agentd/1/plant-7/d/line-4-cam-2/up/blk
        agentd/1/plant-7/d/line-4-cam-2/up/rep/hardware
        agentd/1/plant-7/d/line-4-cam-2/up/rep/models
        agentd/1/plant-7/d/line-4-cam-2/up/rep/health
        agentd/1/plant-7/d/line-4-cam-2/up/rep/config
        agentd/1/plant-7/d/line-4-cam-2/up/rep/agent
        agentd/1/plant-7/d/line-4-cam-2/dn/membership
        agentd/1/plant-7/d/line-4-cam-2/dn/desired
        agentd/1/plant-7/d/line-4-cam-2/dn/cmd
        agentd/1/plant-7/d/line-4-cam-2/dn/blk
        agentd/1/plant-7/g/line-4/desired
        agentd/1/plant-7/g/line-4/mc/1e6ed65d77d6364eeaed5a745ba5c4985ae2b700dd85d7cf7f027bdf294a33fc
        agentd/1/plant-7/all/catalog
        agentd/1/plant-7/all/desired
        agentd/1/plant-7/all/params
        agentd/1/plant-7/all/trust/3
        ");
    }

    #[test]
    fn the_filters_are_those_of_the_protocol() {
        let mut filters = vec![
            Filter::trust(&fleet()),
            Filter::presences(&fleet()),
            Filter::reports(&fleet()),
            Filter::from_all(&fleet(), Up::Event),
            Filter::memberships(&fleet()),
            Filter::block_servers(),
        ];
        filters.extend(Filter::desired(&fleet()));
        let lines: Vec<_> = filters.iter().map(Filter::as_str).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        agentd/1/plant-7/all/trust/+
        agentd/1/plant-7/d/+/up/conn
        agentd/1/plant-7/d/+/up/rep/+
        agentd/1/plant-7/d/+/up/event
        agentd/1/plant-7/d/+/dn/membership
        $share/blocks/agentd/1/+/d/+/up/blk
        agentd/1/plant-7/all/desired
        agentd/1/plant-7/g/+/desired
        agentd/1/plant-7/d/+/dn/desired
        ");
    }

    #[test]
    fn every_topic_reads_back_and_only_its_own_filter_matches() {
        for topic in every_topic() {
            assert_eq!(topic.to_string().parse(), Ok(topic.clone()));
            assert!(Filter::exactly(&topic).matches(&topic.to_string()), "{topic}");
            assert_eq!(
                Filter::block_servers().matches(&topic.to_string()),
                matches!(topic, Topic::Up { up: Up::Blk, .. }),
                "{topic}"
            );
        }
    }

    #[test]
    fn what_is_not_exactly_a_topic_is_refused() {
        for bad in [
            "",
            "agentd/1",
            "agentd/2/plant-7/all/catalog",
            "agentd/1/plant-7/all/catalog/",
            "agentd/1//all/catalog",
            "agentd/1/Plant/all/catalog",
            "agentd/1/plant-7/all/trust/03",
            "agentd/1/plant-7/all/trust/+3",
            "agentd/1/plant-7/all/trust/18446744073709551616",
            "agentd/1/plant-7/d/+/up/conn",
            "agentd/1/plant-7/d/cam/up/rep/other",
            "agentd/1/plant-7/d/cam/dn/conn",
            "agentd/1/plant-7/g/line/mc/abc",
            "agentd/1/plant-7/d/cam/up/conn/x",
        ] {
            assert!(bad.parse::<Topic>().is_err(), "{bad}");
        }
        assert!("agentd/1/".repeat(100).parse::<Topic>().is_err());
    }

    #[test]
    fn wildcards_match_as_the_standard_says() {
        for (filter, topic, want) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("+/+", "/b", true),
            ("#", "$SYS/x", false),
            ("$share/g/a/+", "a/b", true),
            ("$share/g", "a", false),
        ] {
            assert_eq!(Filter(filter.to_owned()).matches(topic), want, "{filter} against {topic}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_text_never_panics_and_what_parses_prints_itself(text in "\\PC{0,300}") {
            if let Ok(topic) = text.parse::<Topic>() {
                prop_assert_eq!(topic.to_string(), text);
            }
        }

        #[test]
        fn a_mutated_topic_parses_to_itself_or_not_at_all(index in 0_usize..21, at in 0_usize..90, to in "[a-z0-9/+#$-]") {
            let mut text = every_topic()[index].to_string();
            if at < text.len() {
                text.replace_range(at..=at, &to);
            }
            if let Ok(topic) = text.parse::<Topic>() {
                prop_assert_eq!(topic.to_string(), text);
            }
        }
    }
}
