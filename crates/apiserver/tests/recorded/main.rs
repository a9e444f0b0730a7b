//! A real kube-apiserver was recorded; this server is held to the recordings: to its answers over HTTP, and to what it
//! made of stored values.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod client;
mod cluster;
mod compare;
mod damaged;
mod objects;
mod placeholders;
mod replay;
mod scenario;
mod themes;
