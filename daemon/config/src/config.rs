//! The checked configuration.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use agentd_types::{ByteCount, DeviceId, FleetId};

use crate::{ConfigError, Problem, Settings, parse_duration};

/// Everything the daemon needs to know; nothing is left to guess.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this is and where it keeps things.
    pub device: Device,
    /// The broker, when there is one.
    pub broker: Option<Broker>,
    /// How predictions are answered.
    pub serving: Serving,
    /// What is kept.
    pub store: Store,
    /// How bundles are measured.
    pub measure: Measure,
    /// What is logged.
    pub log: Log,
    /// Every key with its value and origin.
    pub settings: Settings,
}

/// Who this is and where it keeps things.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a key, explained in KEYS")]
pub struct Device {
    pub id: DeviceId,
    pub fleet: FleetId,
    pub trust: PathBuf,
    pub state: PathBuf,
    pub run: PathBuf,
    pub admin_group: Option<String>,
    pub worker: Option<PathBuf>,
    pub profiles: PathBuf,
}

/// The broker.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a key, explained in KEYS")]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub security: Security,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub keep_alive: Duration,
    pub daily_bytes: Option<ByteCount>,
}

/// How the link is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    Plain,
    /// By TLS.
    Tls(Tls),
}

/// The files of TLS, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is a key, explained in KEYS")]
pub struct Tls {
    pub ca: PathBuf,
    /// Certificate and private key of this device.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How predictions are answered.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a key, explained in KEYS")]
pub struct Serving {
    pub listen: Vec<SocketAddr>,
    pub group: Option<String>,
    pub max_body: ByteCount,
    pub max_bodies: ByteCount,
    pub connections: usize,
}

/// What is kept.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a key, explained in KEYS")]
pub struct Store {
    pub quota: ByteCount,
    pub reserve: ByteCount,
}

/// How bundles are measured.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a key, explained in KEYS")]
pub struct Measure {
    pub time: Duration,
    pub all: Duration,
}

/// What is logged.
#[derive(Clone, Debug)]
pub struct Log {
    /// The least important level that is written.
    pub level: LogLevel,
}

/// A level of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the usual levels")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Config {
    /// Checks what belongs together.
    ///
    /// `host_name`: used for the device id when none is set.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn check(settings: Settings, host_name: &str) -> Result<Self, ConfigError> {
        let mut check = Check { settings: &settings, problems: Vec::new() };
        let device = check.device(host_name);
        let broker = check.broker();
        let serving = check.serving();
        let store = check.store();
        let measure = check.measure();
        let log = Log { level: check.level() };
        let problems = check.problems;
        match (device, problems.is_empty()) {
            (Some(device), true) => Ok(Self { device, broker, serving, store, measure, log, settings }),
            _ => Err(ConfigError(problems)),
        }
    }
}

/// Reads typed values; what a single value must be was checked when it was set.
struct Check<'a> {
    settings: &'a Settings,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(Problem { origin: self.settings.origin(key), message: message.into() });
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.settings.get(key).map(PathBuf::from)
    }

    fn size(&self, key: &str) -> Option<ByteCount> {
        self.settings.get(key).and_then(|value| value.parse().ok())
    }

    fn duration(&self, key: &str) -> Duration {
        self.settings.get(key).and_then(|value| parse_duration(value).ok()).unwrap_or_default()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.settings.get(key).map(str::to_owned)
    }

    fn device(&mut self, host_name: &str) -> Option<Device> {
        let id = match self.settings.get("device.id") {
            Some(id) => {
                id.parse().map_err(|error| self.problem("device.id", format!("`device.id`: {error}"))).ok()
            }
            None => device_id(host_name).or_else(|| {
                self.problem("device.id", "the host name makes no device id; set `device.id`");
                None
            }),
        };
        let fleet = match self.settings.get("device.fleet") {
            Some(fleet) => fleet
                .parse()
                .map_err(|error| self.problem("device.fleet", format!("`device.fleet`: {error}")))
                .ok(),
            None => {
                self.problem("device.fleet", "`device.fleet` must be set: the fleet this device belongs to");
                None
            }
        };
        Some(Device {
            id: id?,
            fleet: fleet?,
            trust: self.path("device.trust")?,
            state: self.path("device.state")?,
            run: self.path("device.run")?,
            admin_group: self.text("device.admin_group"),
            worker: self.path("device.worker"),
            profiles: self.path("device.profiles")?,
        })
    }

    fn broker(&mut self) -> Option<Broker> {
        let address = self.settings.get("broker.address")?;
        let (host, port) = match address.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) if !host.is_empty() => (host.to_owned(), port),
            _ => {
                self.problem(
                    "broker.address",
                    format!("`broker.address`: \"{address}\" is not host:port, such as \"broker.plant.example:8883\""),
                );
                return None;
            }
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let security = if self.settings.get("broker.security") == Some("plain") {
            Security::Plain
        } else {
            Security::Tls(self.tls()?)
        };
        Some(Broker {
            host,
            port,
            security,
            user: self.text("broker.user"),
            password_file: self.path("broker.password_file"),
            keep_alive: self.duration("broker.keep_alive"),
            daily_bytes: self.size("broker.daily_bytes"),
        })
    }

    fn tls(&mut self) -> Option<Tls> {
        let Some(ca) = self.path("broker.ca") else {
            self.problem(
                "broker.address",
                "`broker.ca` must be set: the certificates that the broker's must lead to (or `broker.security` = \
                 \"plain\" for a broker on this machine)",
            );
            return None;
        };
        let identity = match (self.path("broker.certificate"), self.path("broker.key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                self.problem("broker.certificate", "`broker.certificate` needs `broker.key` beside it");
                None
            }
            (None, Some(_)) => {
                self.problem("broker.key", "`broker.key` needs `broker.certificate` beside it");
                None
            }
        };
        Some(Tls { ca, identity })
    }

    fn serving(&mut self) -> Serving {
        let mut listen = Vec::new();
        for address in self.settings.get("serving.listen").into_iter().flat_map(|list| list.split(", ")) {
            match address.parse() {
                Ok(address) => listen.push(address),
                Err(_) => self.problem(
                    "serving.listen",
                    format!("`serving.listen`: \"{address}\" is not an address with a port, such as \"127.0.0.1:8000\""),
                ),
            }
        }
        Serving {
            listen,
            group: self.text("serving.group"),
            max_body: self.size("serving.max_body").unwrap_or_default(),
            max_bodies: self.size("serving.max_bodies").unwrap_or_default(),
            connections: self.settings.get("serving.connections").and_then(|n| n.parse().ok()).unwrap_or(1),
        }
    }

    fn store(&self) -> Store {
        Store {
            quota: self.size("store.quota").unwrap_or_default(),
            reserve: self.size("store.reserve").unwrap_or_default(),
        }
    }

    fn measure(&self) -> Measure {
        Measure { time: self.duration("measure.time"), all: self.duration("measure.all") }
    }

    fn level(&self) -> LogLevel {
        match self.settings.get("log.level") {
            Some("error") => LogLevel::Error,
            Some("warn") => LogLevel::Warn,
            Some("debug") => LogLevel::Debug,
            Some("trace") => LogLevel::Trace,
            _ => LogLevel::Info,
        }
    }
}

/// A device id from a host name: its first label, in lower case, other characters made `-`.
fn device_id(host_name: &str) -> Option<DeviceId> {
    let label = host_name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let id: String =
        label.chars().take(64).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    id.trim_start_matches('-').parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(overrides: &[&str]) -> Result<Config, String> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        let settings = Settings::load(Path::new("/nonexistent"), false, &overrides).unwrap();
        Config::check(settings, "Line_4.plant.example").map_err(|error| error.to_string())
    }

    #[test]
    fn a_fleet_is_enough() {
        let config = check(&["device.fleet=plant-a"]).unwrap();
        assert_eq!(config.device.id.as_str(), "line-4");
        assert!(config.broker.is_none());
        assert!(config.serving.listen.is_empty());
        assert_eq!(config.measure.time, Duration::from_millis(500));
    }

    #[test]
    fn what_belongs_together_is_checked() {
        for (overrides, want) in [
            (&[][..], "`device.fleet` must be set"),
            (&["device.fleet=A"], "is not a fleet id"),
            (&["device.fleet=a", "broker.address=b"], "is not host:port"),
            (&["device.fleet=a", "broker.address=b:1883"], "`broker.ca` must be set"),
            (
                &["device.fleet=a", "broker.address=b:1", "broker.ca=/a", "broker.key=/k"],
                "needs `broker.certificate`",
            ),
            (&["device.fleet=a", "serving.listen=8000"], "is not an address with a port"),
        ] {
            let got = check(overrides).unwrap_err();
            assert!(got.contains(want), "{want} in {got}");
        }
    }

    #[test]
    fn a_plain_broker_on_this_machine_needs_no_certificates() {
        let config =
            check(&["device.fleet=a", "broker.address=[::1]:1883", "broker.security=plain"]).unwrap();
        let broker = config.broker.unwrap();
        assert_eq!((broker.host.as_str(), broker.port, broker.security), ("::1", 1883, Security::Plain));
    }
}
