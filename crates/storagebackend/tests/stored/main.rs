//! A real kube-apiserver on a real etcd was recorded: what it stored, and what it answered for it. Here the stores that
//! this house makes are held to these recordings, on every backend and with the cache in front: to every object that
//! was stored, in whichever form and under whichever encryption, to values that nobody can read, to revisions, and to
//! pages. Requests over HTTP become the verbs of a `Storage`; statuses are compared through the registry's own table.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[cfg(feature = "etcd3")]
mod away;
mod compaction;
mod data;
mod encryption;
mod errors;
#[cfg(feature = "etcd3")]
mod etcd;
mod ground;
mod kinds;
mod objects;
mod pages;
mod play;
mod revisions;
mod system;
mod ttl;
