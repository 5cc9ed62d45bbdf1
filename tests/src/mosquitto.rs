//! Starts and ends a mosquitto of its own for a test.
//!
//! In: lines of configuration. Out: a broker on a free loopback port, gone when the value is dropped. Ends only the
//! process that it started.

use std::{
    fs,
    io::{self, Error, ErrorKind},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

/// How long a broker may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running mosquitto.
#[derive(Debug)]
pub struct Mosquitto {
    address: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts a broker that lets everybody in.
    ///
    /// # Errors
    /// When mosquitto is not installed or does not listen in time.
    pub async fn start() -> io::Result<Self> {
        Self::start_with("").await
    }

    /// Starts a broker with further lines of configuration; they follow the listener's.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(lines: &str) -> io::Result<Self> {
        let address = free_address()?;
        let folder = tempfile::tempdir()?;
        let config = format!(
            "user root\nallow_anonymous true\npersistence false\nlistener {} 127.0.0.1\n{lines}\n",
            address.port()
        );
        fs::write(folder.path().join("mosquitto.conf"), config)?;
        let mut broker = Self { address, folder, child: None };
        broker.resume().await?;
        Ok(broker)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the process at once, as a power cut would; sessions and retained messages are gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to end.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Starts it again on the same port, with nothing remembered.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn resume(&mut self) -> io::Result<()> {
        self.kill();
        let log = fs::File::create(self.folder.path().join("log"))?;
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).await.is_err() {
            if Instant::now() > deadline {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("mosquitto does not listen: {}", self.log()),
                ));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A loopback address on which nothing listens at the moment.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
