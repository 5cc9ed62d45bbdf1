//! Typed client of the local API.
