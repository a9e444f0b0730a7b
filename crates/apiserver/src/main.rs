//! The API server binary.
fn main() {}
