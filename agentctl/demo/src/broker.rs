//! The embedded broker: MQTT 5 on 127.0.0.1, for the demo and for a first try on one machine.
//!
//! In: a port, 0 for any free one. Out: the address on which it answers until it is stopped. Keeps everything in
//! memory, knows no passwords and listens on no other address: a real fleet wants mosquitto or a cluster.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use mqtt5::broker::{
    BrokerConfig, BrokerShutdownHandle, MqttBroker, StorageBackendType, StorageConfig, config::AuthConfig,
};
use tokio::{task::JoinSet, time::timeout};

/// No packet is larger: a block of 128 KiB and a document of 8 MiB fit.
const MAX_PACKET_BYTES: usize = 9 << 20;

/// Longer than any connection takes to close.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A broker that answers.
pub(crate) struct Broker {
    address: SocketAddr,
    stop: BrokerShutdownHandle,
    tasks: JoinSet<Result<()>>,
}

impl Broker {
    /// Starts a broker on `port` of 127.0.0.1.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) async fn start(port: u16) -> Result<Self> {
        let config = BrokerConfig {
            bind_addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))],
            max_packet_size: MAX_PACKET_BYTES,
            auth_config: AuthConfig { allow_anonymous: true, ..AuthConfig::default() },
            storage_config: StorageConfig {
                backend: StorageBackendType::Memory,
                enable_persistence: false,
                ..StorageConfig::default()
            },
            ..BrokerConfig::default()
        };
        let mut broker = MqttBroker::with_config(config)
            .await
            .with_context(|| format!("cannot listen on port {port} of 127.0.0.1"))?;
        let address = broker.local_addr().context("the broker has no address")?;
        let (stop, mut ready) = (broker.shutdown_handle(), broker.ready_receiver());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { broker.run().await.context("the broker ended") });
        ready.wait_for(|ready| *ready).await.context("the broker did not start")?;
        Ok(Self { address, stop, tasks })
    }

    /// Where it answers.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it; every client loses its connection.
    pub(crate) async fn stop(mut self) {
        self.stop.shutdown();
        // One that does not end in time is aborted when `tasks` is dropped.
        drop(timeout(STOP_WITHIN, self.tasks.join_next()).await);
    }
}

#[cfg(test)]
mod tests {
    use mqtt5::MqttClient;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_broker_answers_on_loopback_until_it_is_stopped() {
        let broker = Broker::start(0).await.unwrap();
        let address = broker.address();
        assert!(address.ip().is_loopback());

        let client = MqttClient::new("test");
        client.connect(&format!("mqtt://{address}")).await.unwrap();
        client.disconnect().await.unwrap();

        broker.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let broker = Broker::start(0).await.unwrap();
        let port = broker.address().port();
        let error = Broker::start(port).await.err().unwrap();
        assert_eq!(error.to_string(), format!("cannot listen on port {port} of 127.0.0.1"));
        broker.stop().await;
    }
}
