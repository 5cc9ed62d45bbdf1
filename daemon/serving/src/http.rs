//! HTTP/1.1 over Unix sockets and TCP: listeners, connections, paths, bodies.

mod body;
mod connection;
mod infer;
mod listener;
mod reply;
mod route;
mod traffic;
mod watch;

pub use listener::{ListenError, Listener, bind_unix, bind_unix_beside, serve};
pub(crate) use traffic::Traffic;
