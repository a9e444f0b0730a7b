//! The kinds that are served: what the front knows of each, and how they come and go.

pub(crate) mod model;

mod builtin;
mod custom;
mod custom_normalizer;

pub(crate) mod catalog;

pub(crate) mod admission;
mod binding;
pub(crate) mod definitions;
mod scale;
mod strategies;

pub(crate) mod install;
