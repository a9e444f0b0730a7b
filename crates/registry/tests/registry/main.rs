//! The registry through its public interface, over the embedded store in memory.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

mod collection;
mod create;
mod delete;
mod dry_run;
mod errors;
mod graceful;
mod hooks;
mod map;
mod read;
mod subresource;
mod update;
