//! The factory: one configuration to a ready storage for every resource.
