//! Networks that fail: what stands between a client and a real server and loses, delays, repeats or cuts what goes
//! through, at the moments that a test chooses.
//!
//! [`Wire`] knows bytes only: it cuts connections, or swallows what goes one way or both. [`CallProxy`] ends HTTP/2 on
//! both sides and so sees calls: it lets the server handle one, takes its whole answer, and then decides what the client
//! is to see of it.

mod calls;
mod wire;

pub use self::calls::{Call, CallProxy, Fate};
pub use self::wire::Wire;
