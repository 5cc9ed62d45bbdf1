//! The broker, as the fleet's side sees it: connects, reads what stands there, publishes what stays there.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use agentd_link::{
    BrokerAddress, Connection, Credentials, Disconnect, Message, PublishError, Qos, Received,
    RumqttTransport, Session, SubscribeError, Subscription, TlsSettings, Transport, client_config,
};
use agentd_types::FleetId;
use agentd_wire::{Filter, Topic};
use tokio::time::timeout;

use crate::failure::{Exit, Failure};

/// How to reach the broker.
#[derive(Debug, clap::Args)]
pub(crate) struct BrokerArgs {
    /// The broker.
    #[arg(long, value_name = "HOST:PORT", env = "AGENTCTL_BROKER", default_value = "127.0.0.1:1883")]
    broker: String,
    /// The authority that vouches for the broker: turns TLS on.
    #[arg(long, value_name = "FILE.pem", env = "AGENTCTL_CA")]
    ca: Option<PathBuf>,
    /// Our certificate, where the broker asks for one.
    #[arg(long, value_name = "FILE.pem", requires_all = ["ca", "certificate_key"])]
    certificate: Option<PathBuf>,
    /// The key of our certificate.
    #[arg(long, value_name = "FILE.pem", requires = "certificate")]
    certificate_key: Option<PathBuf>,
    /// Our name, where the broker asks for one.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// A file whose first line is our password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
}

/// Which fleet.
#[derive(Debug, clap::Args)]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    pub(crate) broker: BrokerArgs,
    /// The fleet.
    #[arg(long, value_name = "FLEET", env = "AGENTCTL_FLEET")]
    pub(crate) fleet: FleetId,
    /// What stands on the broker is taken for complete when nothing more came for this long, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    quiet_ms: u64,
}

impl BrokerArgs {
    /// The transport that these options describe.
    pub(crate) fn transport(&self) -> Result<Arc<dyn Transport>, Failure> {
        let bad = || {
            Failure::new(format!("`{}` is not a broker", self.broker))
                .hint("write HOST:PORT, for example broker.plant.example:8883")
                .exit_with(Exit::Usage)
        };
        let (host, port) = self.broker.rsplit_once(':').ok_or_else(bad)?;
        let address = BrokerAddress { host: host.to_owned(), port: port.parse().map_err(|_| bad())? };
        let mut transport = RumqttTransport::new(address);
        if let Some(ca) = &self.ca {
            let client = match (&self.certificate, &self.certificate_key) {
                (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                _ => None,
            };
            let config = client_config(&TlsSettings { roots: read(ca)?, client }).map_err(|error| {
                let hint = error.hint();
                Failure::new("cannot use TLS").coded(&error).hint(hint).exit_with(Exit::Usage)
            })?;
            transport = transport.with_tls(config);
        }
        if let (Some(user), Some(file)) = (&self.user, &self.password_file) {
            let text = String::from_utf8_lossy(&read(file)?).into_owned();
            let password = text.lines().next().unwrap_or_default().to_owned();
            transport = transport.with_credentials(Credentials { user: user.clone(), password });
        }
        Ok(Arc::new(transport))
    }

    /// Connects under a name of our own.
    pub(crate) async fn connect(&self) -> Result<Broker, Failure> {
        let session =
            Session { queue_messages: 4_096, queue_bytes: 64 << 20, ..Session::control(client_id()?) };
        let session =
            Session { clean_start: agentd_link::CleanStart::Yes, expiry: Duration::ZERO, ..session };
        let connection =
            self.transport()?.connect(session).await.map_err(|error| self.unreachable(&error))?;
        Ok(Broker { connection, address: self.broker.clone() })
    }

    fn unreachable(&self, error: &Disconnect) -> Failure {
        let hint = match error {
            Disconnect::Unreachable(_) => "check --broker and that the broker runs",
            Disconnect::Tls(_) => "check --ca, --certificate and --certificate-key",
            other => other.hint(),
        };
        let failure = Failure::new(format!("cannot reach the broker at {}", self.broker)).coded(error);
        // The heading says already that it cannot be reached.
        let failure = match error {
            Disconnect::Unreachable(cause) => failure.cause(cause),
            _ => failure,
        };
        failure.hint(hint).exit_with(Exit::Unreachable)
    }
}

impl FleetArgs {
    /// How long nothing must come.
    pub(crate) const fn quiet(&self) -> Duration {
        Duration::from_millis(self.quiet_ms)
    }
}

/// A client id that nobody else has.
pub(crate) fn client_id() -> Result<String, Failure> {
    let random = getrandom::u64()
        .map_err(|error| Failure::new("cannot make a name").because(&error).exit_with(Exit::Defect))?;
    Ok(format!("agentctl.{random:016x}"))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::new(format!("cannot read `{}`", path.display())).because(&error))
}

/// A connection to the broker.
#[derive(Debug)]
pub(crate) struct Broker {
    connection: Connection,
    address: String,
}

impl Broker {
    /// Listens to `filters`.
    pub(crate) async fn subscribe(&self, filters: impl IntoIterator<Item = Filter>) -> Result<(), Failure> {
        let wanted =
            filters.into_iter().map(|filter| Subscription { filter, qos: Qos::AtLeastOnce }).collect();
        self.connection.publisher().subscribe(wanted).await.map_err(|error| {
            let exit = match error {
                SubscribeError::Refused { .. } => Exit::Refused,
                SubscribeError::Gone => Exit::Unreachable,
            };
            Failure::new(format!("cannot listen at {}", self.address)).because(&error).exit_with(exit)
        })
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<Received, Failure> {
        let received = self.connection.next().await.map_err(|error| self.lost(&error))?;
        if let Some(ack) = received.ack {
            // A connection that is gone says so on the next call.
            drop(self.connection.publisher().acknowledge(ack).await);
        }
        Ok(received)
    }

    /// Everything that stands on the broker under what was subscribed to: until nothing more comes for `quiet`.
    pub(crate) async fn standing(&mut self, quiet: Duration) -> Result<Vec<Received>, Failure> {
        let mut standing = Vec::new();
        while let Ok(received) = timeout(quiet, self.next()).await {
            standing.push(received?);
        }
        Ok(standing)
    }

    /// Puts a message there for everybody who comes later, and waits until the broker has it.
    pub(crate) async fn keep(&self, topic: &Topic, payload: Vec<u8>) -> Result<(), Failure> {
        let what = || format!("cannot publish `{topic}`");
        let message = Message::surely(topic, payload).retained();
        let completion = self.connection.publisher().publish(message).await.map_err(|error| {
            let exit = match error {
                PublishError::Gone => Exit::Unreachable,
                PublishError::TooLarge { .. } | PublishError::Topic(_) => Exit::No,
            };
            Failure::new(what()).because(&error).exit_with(exit)
        })?;
        let patience = Duration::from_secs(20);
        let outcome = timeout(patience, completion).await.map_err(|_| {
            Failure::new(what()).cause("the broker does not acknowledge it").exit_with(Exit::TimedOut)
        })?;
        outcome.map_err(|error| {
            Failure::new(what())
                .because(&error)
                .hint("look into the broker's access list and log")
                .exit_with(Exit::Refused)
        })
    }

    /// Says good-bye.
    pub(crate) async fn close(self) {
        self.connection.close(Duration::from_secs(2)).await;
    }

    fn lost(&self, error: &Disconnect) -> Failure {
        Failure::new(format!("the connection to {} is lost", self.address))
            .coded(error)
            .hint(error.hint())
            .exit_with(Exit::Unreachable)
    }
}
