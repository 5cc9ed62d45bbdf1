//! The file system of tests.
