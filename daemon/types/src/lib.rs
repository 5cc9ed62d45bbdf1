//! The vocabulary of agentd: ids, digests, units, tensors, engine settings, error codes.
//!
//! Knows no other crate of ours and does no input or output. Whatever has a meaning in more than one step of the
//! line is named here, once.

mod adapter;
mod clock;
mod code;
mod digest;
mod engine;
mod ids;
mod tensor;
mod units;

pub use adapter::{Adapter, AdapterKind};
pub use clock::{Clock, ManualClock};
pub use code::{Code, Coded, chain};
pub use digest::{Digest, DigestError, Hasher};
pub use engine::{EngineKind, Setting, SettingError};
pub use ids::{BadName, DeviceId, FleetId, GroupName, KeyId, ModelName};
pub use tensor::{Datatype, DatatypeError, MAX_ELEMENTS, ShapeError, TensorSpec, element_count};
pub use units::{BadTime, BadUnit, ByteCount, UnixTime, human_duration};
