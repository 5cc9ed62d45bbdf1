//! HTTP/1.1 over Unix sockets and TCP: listeners, connections, paths, bodies.

mod body;
mod connection;
mod infer;
mod listener;
mod reply;
mod route;
mod traffic;
mod watch;

pub use listener::{ListenError, Listener, bind_unix, serve};
pub(crate) use traffic::Traffic;
