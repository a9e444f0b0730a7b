//! What the parts without locks stand on, in one place, so that a test can compile those parts over primitives that try out
//! the orders in which threads may take their steps (`tests/interleavings.rs`).

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) use arc_swap::ArcSwapOption;
pub(crate) use parking_lot::Mutex;
