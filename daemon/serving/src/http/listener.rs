//! Where applications connect: Unix sockets, and TCP where it is configured.

use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agentd_types::{Code, Coded};
use log::{debug, warn};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection, reply,
    watch::{Phase, Watch},
};
use crate::{Instance, Limits, serving::Serving};

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Why a socket does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process answers there.
    #[error("another process already listens on `{path}`")]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("`{path}` exists and is not a socket")]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot listen on `{address}`")]
    Refused {
        /// Path or address.
        address: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Coded for ListenError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::InUse { .. } => "listen.in_use",
            Self::NotASocket { .. } => "listen.not_a_socket",
            Self::Refused { .. } => "listen.refused",
        })
    }
}

/// Binds a Unix socket. `mode`: its permissions, for example `0o660`, in place before anybody can connect. A socket
/// that nobody answers on any more is replaced.
///
/// # Errors
/// When somebody else listens there, something else is in the way, or the kernel refuses.
pub fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener, ListenError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    bind_unix_beside(folder, path, |socket| fs::set_permissions(socket, fs::Permissions::from_mode(mode)))
}

/// Binds a Unix socket in `folder`, lets `finish` give it its owner and permissions, and moves it to `path`, which is on
/// the same file system: nobody can connect before it is finished. A socket that nobody answers on any more is
/// replaced.
///
/// # Errors
/// When somebody else listens there, something else is in the way, or the kernel refuses.
pub fn bind_unix_beside(
    folder: &Path,
    path: &Path,
    finish: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<UnixListener, ListenError> {
    let refused = |source| ListenError::Refused { address: path.display().to_string(), source };
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = folder.join(name);
    let listener = UnixListener::bind(&beside).map_err(refused)?;
    if let Err(source) = finish(&beside).and_then(|()| fs::rename(&beside, path)) {
        drop(fs::remove_file(&beside));
        return Err(refused(source));
    }
    Ok(listener)
}

impl Listener {
    /// Listens on a Unix socket. `mode`: its permissions, for example `0o660`, in place before anybody can connect.
    /// A socket that nobody answers on any more is replaced.
    ///
    /// # Errors
    /// When somebody else listens there, something else is in the way, or the kernel refuses.
    pub fn unix(path: &Path, mode: u32) -> Result<Self, ListenError> {
        Ok(Self::bound(bind_unix(path, mode)?, path))
    }

    /// Answers on a Unix socket that was bound to `path`, and removes it when it ends.
    pub fn bound(listener: UnixListener, path: &Path) -> Self {
        Self { socket: Socket::Unix(listener, path.to_owned()) }
    }

    /// Listens on TCP; port 0 takes a free one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn tcp(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address).await;
        let refused = |source| ListenError::Refused { address: address.to_string(), source };
        Ok(Self { socket: Socket::Tcp(listener.map_err(refused)?) })
    }

    /// Where it listens: `unix:/run/agentd/infer.sock` or `http://127.0.0.1:8000`.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "http://?".into(), |address| format!("http://{address}")),
            Socket::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            // Gone already is as good.
            drop(fs::remove_file(path));
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Answers applications on all `listeners` until `stop`; then takes no new connection, lets requests in flight
/// finish within the drain limit, and returns.
pub async fn serve<I: Instance>(serving: Arc<Serving<I>>, listeners: Vec<Listener>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn(listen(Arc::clone(&serving), listener, stop.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn listen<I: Instance>(serving: Arc<Serving<I>>, listener: Listener, stop: CancellationToken) {
    let mut open = Open::new(serving, stop.clone());
    let mut next_sweep = Instant::now();
    loop {
        // Every arm is safe to drop half way: accepting, joining and sleeping lose nothing.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    if open.watches.is_empty() {
                        next_sweep = Instant::now() + open.period;
                    }
                    open.add(stream);
                }
                Err(error) => {
                    warn!(event = "serving.accept", error = error.to_string().as_str(); "Cannot take a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(done) = open.tasks.join_next_with_id(), if !open.tasks.is_empty() => open.forget(&done),
            () = sleep_until(next_sweep), if !open.watches.is_empty() => {
                open.sweep();
                next_sweep = Instant::now() + open.period;
            }
            () = stop.cancelled() => break,
        }
    }
    drop(listener); // nobody can connect any more
    open.drain().await;
}

/// After the kernel refused a connection, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open connections of one listener.
struct Open<I> {
    serving: Arc<Serving<I>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    watches: HashMap<tokio::task::Id, Arc<Watch>>,
    period: Duration,
}

impl<I: Instance> Open<I> {
    fn new(serving: Arc<Serving<I>>, stop: CancellationToken) -> Self {
        let period = period(&serving.limits);
        Self { serving, stop, tasks: JoinSet::new(), watches: HashMap::new(), period }
    }

    fn add(&mut self, stream: Stream) {
        while let Some(done) = self.tasks.try_join_next_with_id() {
            self.forget(&done);
        }
        if self.watches.len() >= self.serving.limits.connections && !self.evict() {
            refuse(&stream);
            return;
        }
        match stream {
            Stream::Tcp(stream) => self.spawn(stream),
            Stream::Unix(stream) => self.spawn(stream),
        }
    }

    fn spawn<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&mut self, stream: S) {
        let watch = Arc::new(Watch::new());
        let work = connection::run(Arc::clone(&self.serving), stream, Arc::clone(&watch), self.stop.clone());
        let task = self.tasks.spawn(work);
        self.watches.insert(task.id(), watch);
    }

    fn forget(&mut self, done: &Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match done {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.watches.remove(&id);
    }

    /// Ends the connection that has been idle longest; false when none is idle.
    fn evict(&mut self) -> bool {
        let idle = self.watches.iter().filter_map(|(id, watch)| match watch.get() {
            (Phase::Idle, since) => Some((since, *id)),
            (Phase::Head | Phase::Body | Phase::Work | Phase::Write, _) => None,
        });
        let Some((_, id)) = idle.max_by_key(|(since, _)| *since) else { return false };
        if let Some(watch) = self.watches.remove(&id) {
            watch.kick();
            self.serving.traffic.count_evicted();
        }
        true
    }

    fn sweep(&self) {
        for watch in self.watches.values().filter(|watch| watch.is_overdue(&self.serving.limits)) {
            watch.kick();
            self.serving.traffic.count_timed_out();
        }
    }

    async fn drain(mut self) {
        let deadline = Instant::now() + self.serving.limits.drain;
        while let Ok(Some(_)) = timeout_at(deadline, self.tasks.join_next()).await {}
        if !self.tasks.is_empty() {
            debug!(event = "serving.drain_elapsed", connections = self.tasks.len(); "Connections are cut off");
        }
        self.tasks.shutdown().await;
    }
}

/// How often slow and idle connections are looked for: often enough for the shortest limit.
fn period(limits: &Limits) -> Duration {
    let shortest = [limits.head_deadline, limits.body_deadline, limits.idle, limits.write_deadline];
    let shortest = shortest.into_iter().min().unwrap_or(Duration::from_secs(1));
    (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
}

/// Tells a caller that there is no room, as far as the socket takes it without waiting.
fn refuse(stream: &Stream) {
    let answer = reply::no_room();
    let told = match stream {
        Stream::Tcp(stream) => stream.try_write(answer.as_bytes()),
        Stream::Unix(stream) => stream.try_write(answer.as_bytes()),
    };
    if let Err(error) = told {
        debug!(event = "serving.no_room", error = error.to_string().as_str(); "Connection refused unheard");
    }
}
