//! Protobuf by the tables.
