//! Holds who may import whom.
