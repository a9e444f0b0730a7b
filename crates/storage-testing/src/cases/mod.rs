//! The cases, one behaviour each. The macro [`conformance!`](crate::conformance) lists them all, with what they need.

pub mod counter;
pub mod create;
pub mod delete;
pub mod get;
pub mod history;
pub mod keys;
pub mod list;
pub mod matrix;
pub mod paging;
pub mod suggestion;
pub mod unreadable;
pub mod update;
pub mod watch;
