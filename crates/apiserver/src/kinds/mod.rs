//! The kinds that are served: what the front knows of each, and how they come and go.

pub(crate) mod model;

pub(crate) mod builtin;
mod custom;

pub(crate) mod catalog;

pub(crate) mod admission;
mod binding;
mod custom_strategies;
pub(crate) mod definitions;
mod pods;
mod scale;
mod strategies;

pub(crate) mod install;
