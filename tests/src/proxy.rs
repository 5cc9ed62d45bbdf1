//! A network that can be made bad: a TCP proxy with delay, a rate, stalls and cuts.
//!
//! In: connections on a loopback port. Out: the same bytes at the target, later. All changes hold at once, also for
//! connections that stand.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// Pieces on their way in one direction of one connection: 64 MiB, more than any window.
const ON_THE_WAY: usize = 1_024;

/// How the network is.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Each way.
    delay: Duration,
    bytes_per_s: Option<u64>,
    stalled: bool,
    refusing: bool,
}

#[derive(Debug)]
struct Shared {
    weather: watch::Sender<Weather>,
    cut: Mutex<CancellationToken>,
    carried: AtomicU64,
    connections: AtomicU64,
}

/// A proxy in front of one address; gone with its connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free loopback port in front of `target`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            weather: watch::Sender::new(Weather::default()),
            cut: Mutex::new(CancellationToken::new()),
            carried: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, Arc::clone(&shared)));
        Ok(Self { address, shared, _tasks: tasks })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a round trip take `round_trip` longer.
    pub fn delay(&self, round_trip: Duration) {
        self.shared.weather.send_modify(|weather| weather.delay = round_trip / 2);
    }

    /// Lets at most so many bytes per second through in each direction of each connection.
    pub fn throttle(&self, bytes_per_s: Option<u64>) {
        self.shared.weather.send_modify(|weather| weather.bytes_per_s = bytes_per_s);
    }

    /// Lets nothing through and closes nothing: half-open connections.
    pub fn stall(&self) {
        self.shared.weather.send_modify(|weather| weather.stalled = true);
    }

    /// Ends a stall.
    pub fn flow(&self) {
        self.shared.weather.send_modify(|weather| weather.stalled = false);
    }

    /// Cuts all connections; what was on its way is lost.
    pub fn cut(&self) {
        let mut cut = self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner);
        cut.cancel();
        *cut = CancellationToken::new();
    }

    /// Closes new connections at once, until [`Self::admit`].
    pub fn refuse(&self) {
        self.shared.weather.send_modify(|weather| weather.refusing = true);
    }

    /// Lets new connections through again.
    pub fn admit(&self) {
        self.shared.weather.send_modify(|weather| weather.refusing = false);
    }

    /// Bytes that left the proxy towards its clients.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }

    /// Connections that were made.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
        };
        let Ok((client, _)) = accepted else { continue };
        if shared.weather.borrow().refusing {
            continue;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let cut = shared.cut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        connections.spawn(carry(client, target, Arc::clone(&shared), cut));
    }
}

/// Carries one connection until either end closes it or it is cut.
async fn carry(client: TcpStream, target: SocketAddr, shared: Arc<Shared>, cut: CancellationToken) {
    let work = async {
        let server = TcpStream::connect(target).await.ok()?;
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        // When one direction ends, so does the connection: that is what brokers and their clients do.
        tokio::select! {
            () = one_way(client_read, server_write, &shared, None) => {}
            () = one_way(server_read, client_write, &shared, Some(&shared.carried)) => {}
        }
        Some(())
    };
    tokio::select! {
        () = cut.cancelled() => {}
        _ended = work => {}
    }
}

async fn one_way(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    shared: &Shared,
    carried: Option<&AtomicU64>,
) {
    let (tx, rx) = mpsc::channel(ON_THE_WAY);
    // The writer ends once the reader has ended and everything is through, or when nobody takes it.
    tokio::join!(read(from, tx, shared), write(to, rx, shared, carried));
}

async fn read(mut from: impl AsyncRead + Unpin, tx: mpsc::Sender<(Instant, Vec<u8>)>, shared: &Shared) {
    let mut buffer = vec![0; PIECE];
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => {
                let Some(piece) = read.ok().and_then(|length| buffer.get(..length)).filter(|piece| !piece.is_empty())
                else {
                    return;
                };
                let due = Instant::now() + shared.weather.borrow().delay;
                if tx.send((due, piece.to_vec())).await.is_err() {
                    return;
                }
            }
            () = tx.closed() => return,
        }
    }
}

async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut rx: mpsc::Receiver<(Instant, Vec<u8>)>,
    shared: &Shared,
    carried: Option<&AtomicU64>,
) {
    let mut weather = shared.weather.subscribe();
    while let Some((due, piece)) = rx.recv().await {
        sleep_until(due).await;
        if weather.wait_for(|weather| !weather.stalled).await.is_err() {
            return;
        }
        let rate = weather.borrow().bytes_per_s;
        // A slow link passes small pieces, not large ones after a long pause.
        let part = rate.map_or(PIECE, |rate| usize::try_from(rate / 20).unwrap_or(PIECE).clamp(64, PIECE));
        for part in piece.chunks(part) {
            if to.write_all(part).await.is_err() {
                return;
            }
            if let Some(carried) = carried {
                carried.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            if let Some(rate) = rate {
                let micros = (part.len() as u64).saturating_mul(1_000_000) / rate.max(1);
                sleep(Duration::from_micros(micros)).await;
            }
        }
    }
}
