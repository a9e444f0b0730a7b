//! Networks that fail: what stands between a client and a real server and loses, delays, repeats or cuts what goes
//! through, at the moments that a test chooses.
//!
//! [`Wire`] knows bytes only: it cuts connections, or swallows what goes one way or both.

mod wire;

pub use self::wire::Wire;
