//! Every key that there is: its form, its default, what it means. Files, `config show`, the example file and the
//! manual all come from this list.

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Any text.
    Text,
    /// An absolute path.
    Path,
    /// A size such as `64MiB`.
    Size,
    /// A duration such as `30s`.
    Duration,
    /// A whole number.
    Number,
    /// One of these words.
    Word(&'static [&'static str]),
    /// The name or number of a group.
    Group,
    /// A list of texts.
    List,
}

impl Shape {
    /// The form, for people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Text => "text in quotes",
            Self::Path => "an absolute path in quotes, such as \"/etc/agentd/ca.pem\"",
            Self::Size => "a size in quotes, such as \"64MiB\"",
            Self::Duration => "a duration in quotes, such as \"30s\"",
            Self::Number => "a whole number",
            Self::Word(_) => "one of the known words, in quotes",
            Self::Group => "the name or number of a group, in quotes",
            Self::List => "a list of texts, such as [\"127.0.0.1:8000\"]",
        }
    }
}

/// A key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section and name, joined by a dot.
    pub name: &'static str,
    /// The form of its value.
    pub shape: Shape,
    /// The value when nobody sets it; empty means unset.
    pub default: &'static str,
    /// What it means.
    pub doc: &'static str,
}

const fn key(name: &'static str, shape: Shape, default: &'static str, doc: &'static str) -> Key {
    Key { name, shape, default, doc }
}

/// Every key, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    key("device.id", Shape::Text, "", "Name of this device in its fleet; from the host name when unset."),
    key("device.fleet", Shape::Text, "", "The fleet that this device belongs to. Must be set."),
    key(
        "device.trust",
        Shape::Path,
        "/etc/agentd/trust.json",
        "The trust document that this device starts from.",
    ),
    key("device.state", Shape::Path, "/var/lib/agentd", "Where models, journal and trust state are kept."),
    key("device.run", Shape::Path, "/run/agentd", "Where the two sockets are."),
    key(
        "device.admin_group",
        Shape::Group,
        "agentd-admin",
        "Group that may administrate (control.sock); only the daemon's user when there is none.",
    ),
    key("device.worker", Shape::Path, "", "The worker program; found beside the daemon when unset."),
    key(
        "device.profiles",
        Shape::Path,
        "/etc/agentd/firmware-profiles",
        "More firmware profiles, one file a board.",
    ),
    key("broker.address", Shape::Text, "", "Host and port of the MQTT broker; no broker when unset."),
    key("broker.security", Shape::Word(&["tls", "plain"]), "tls", "`plain` sends everything in the clear."),
    key("broker.ca", Shape::Path, "", "Certificates that the broker's must lead to, PEM. Needed for tls."),
    key("broker.certificate", Shape::Path, "", "This device's certificate, PEM."),
    key("broker.key", Shape::Path, "", "This device's private key, PEM."),
    key("broker.user", Shape::Text, "", "User name at the broker."),
    key("broker.password_file", Shape::Path, "", "A file that holds the password."),
    key("broker.keep_alive", Shape::Duration, "30s", "How often a silent link is tried."),
    key("broker.daily_bytes", Shape::Size, "", "Most bytes fetched in a day; no limit when unset."),
    key("serving.listen", Shape::List, "", "TCP addresses that answer predictions; none when unset."),
    key(
        "serving.group",
        Shape::Group,
        "",
        "Group that may ask for predictions (infer.sock); the daemon's own when unset.",
    ),
    key("serving.max_body", Shape::Size, "64MiB", "The largest request."),
    key("serving.max_bodies", Shape::Size, "256MiB", "All requests together."),
    key("serving.connections", Shape::Number, "1024", "Open connections for each listener."),
    key("store.quota", Shape::Size, "8GiB", "Most bytes of bundles; older versions go first."),
    key("store.reserve", Shape::Size, "256MiB", "Disk space that downloads never touch."),
    key("measure.time", Shape::Duration, "500ms", "How long each setting is measured."),
    key("measure.all", Shape::Duration, "60s", "How long all settings of a bundle may take."),
    key("log.level", Shape::Word(&["error", "warn", "info", "debug", "trace"]), "info", "What is logged."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_key_stands_twice_and_each_is_explained() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        assert!(KEYS.iter().all(|key| key.doc.ends_with('.') && key.name.split('.').count() == 2));
    }
}
