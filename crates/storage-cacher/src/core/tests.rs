//! Core simulation.
