//! Names: what may stand in a key, and names that the server completes.

use crate::error::{Result, StorageError};
use crate::time::{Rng, random_below};

/// Without vowels and look-alikes, so that no word and no confusion comes out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const MAX: usize = 63;

/// What is wrong with a name as a segment of a path, in upstream's words (`storage-api/KEY-17`); empty for a good one.
///
/// Upstream: k8s.io/apimachinery pkg/api/validation/path (name.go).
pub fn path_segment_faults(name: &str) -> Vec<&'static str> {
    match name {
        "." => return vec!["may not be '.'"],
        ".." => return vec!["may not be '..'"],
        _ => {}
    }
    let mut faults = Vec::new();
    for (part, fault) in [('/', "may not contain '/'"), ('%', "may not contain '%'")] {
        if name.contains(part) {
            faults.push(fault);
        }
    }
    faults
}

pub(crate) fn check_path_segment(name: &str) -> Result<()> {
    let faults = path_segment_faults(name);
    if faults.is_empty() {
        return Ok(());
    }
    Err(StorageError::InvalidKey {
        message: format!("invalid name: {}", faults.join(";")),
    })
}

/// Completes a `generateName`: cut to 58 bytes (at a character boundary), then five random characters
/// (`storage-api/KEY-18`). Not promised to be unique.
pub fn generate_name(base: &str, rng: &dyn Rng) -> String {
    let mut end = base.len().min(MAX - SUFFIX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = String::with_capacity(end + SUFFIX);
    name.push_str(base.get(..end).unwrap_or_default());
    for _ in 0..SUFFIX {
        let at = random_below(rng, ALPHABET.len() as u64) as usize;
        name.extend(ALPHABET.get(at).map(|&byte| char::from(byte)));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SeededRng;

    // covers: storage-api/KEY-18, storage-api/KEY-19
    #[test]
    fn generated_names_fit_and_begin_with_their_base() {
        let rng = SeededRng::new(1);
        for base in ["pod-", "", &"x".repeat(70), &"é".repeat(40)] {
            let name = generate_name(base, &rng);
            assert!(name.len() <= MAX, "{name}");
            let (kept, suffix) = name.split_at(name.len() - SUFFIX);
            assert!(base.starts_with(kept), "{name}");
            assert!(suffix.bytes().all(|byte| ALPHABET.contains(&byte)), "{name}");
        }
        assert_ne!(generate_name("a", &rng), generate_name("a", &rng));
    }
}
