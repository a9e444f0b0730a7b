//! Hashes that stand for a value where the value itself must not or need not be shown.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// `sha256:` and the hash of a configuration file's bytes. Comments and white space count.
pub fn content_hash(text: &[u8]) -> String {
    let mut out = String::with_capacity("sha256:".len() + 64);
    out.push_str("sha256:");
    for byte in Sha256::digest(text) {
        // Writing into a string cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The label under which a value, such as a key id, appears in metrics; empty for an empty value.
pub fn metric_label(value: &str) -> String {
    if value.is_empty() {
        String::new()
    } else {
        content_hash(value.as_bytes())
    }
}
