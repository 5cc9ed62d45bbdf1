//! Helpers of the end-to-end tests: a real broker, and a network that can be made bad.

mod mosquitto;
mod proxy;

pub use mosquitto::Mosquitto;
pub use proxy::Proxy;
