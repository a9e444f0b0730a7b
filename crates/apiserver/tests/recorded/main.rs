//! A real kube-apiserver was recorded; this server is held to the recordings: to its answers over HTTP, and to what it
//! made of stored values.

mod client;
mod cluster;
mod compare;
mod damaged;
mod objects;
mod placeholders;
mod replay;
mod scenario;
mod themes;
