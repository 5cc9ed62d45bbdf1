//! Tests of the whole store: histories that are cut anywhere, on simulated and on real disks.

mod bundles;
mod damage;
mod facts;
mod history;
mod kill;
mod limits;
mod torture;
