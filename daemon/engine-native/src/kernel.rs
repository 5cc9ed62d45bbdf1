//! Vector kernels: what runs in the inner loops, once for each instruction set.
//!
//! In: raw pointers and strides that the plan verifier has proved to stay inside their memory. Out: numbers in that
//! memory. Every kernel is one generic function over [`simd::Simd`]; [`isa`] compiles it for each instruction set
//! and picks one at run time. Nothing here allocates, knows a graph, or checks a bound: that is proved before.
#![allow(
    unsafe_code,
    reason = "vector instructions and strided memory cannot be had otherwise; what every function asks of its caller is \
              the same: the instruction set, and pointers that are valid for the extents that its parameters name"
)]
#![allow(clippy::indexing_slicing, reason = "indices are below constants of the same array")]

pub(crate) mod activation;
pub(crate) mod along;
pub(crate) mod conv;
pub(crate) mod depthwise;
pub(crate) mod dot;
pub(crate) mod elements;
pub(crate) mod isa;
pub(crate) mod norm;
pub(crate) mod peak;
pub(crate) mod pool;
pub(crate) mod quantised;
pub(crate) mod recurrent;
pub(crate) mod rows;
pub(crate) mod simd;
pub(crate) mod winograd;
