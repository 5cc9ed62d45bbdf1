//! Real worker processes: what they answer, and what happens when they do not.

mod contained;
mod lifecycle;
mod serves;
mod support;
