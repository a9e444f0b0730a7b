//! The HTTP front: from a request to one call on a resource, and back.

pub(crate) mod body;
pub(crate) mod negotiate;
pub(crate) mod options;
pub(crate) mod path;
pub(crate) mod query;

mod gzip;
mod list_writer;
pub(crate) mod pretty;
pub(crate) mod respond;
mod trace;
pub(crate) mod under_way;
pub(crate) mod verbs;
pub(crate) mod warnings;

pub(crate) mod documents;
mod health;

pub(crate) mod front;
