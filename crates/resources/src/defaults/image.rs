//! Names of container images, as far as their tag decides about pulling.
//!
//! Upstream: github.com/distribution/reference. A name that is none has no tag.

/// Whether the image is pulled anew each time: its tag is `latest`, or it has neither tag nor digest.
pub(crate) fn has_latest_tag(image: &str) -> bool {
    let (named, digest) = match image.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash belongs to a port.
    let last = named.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match named[last..].find(':') {
        Some(colon) => (&named[..last + colon], Some(&named[last + colon + 1..])),
        None => (named, None),
    };
    if !is_name(name) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
        return false;
    }
    match tag {
        Some(tag) => tag == "latest",
        None => digest.is_none(),
    }
}

/// An optional domain and a path in lower case.
fn is_name(name: &str) -> bool {
    let is_hash = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let path = match name.split_once('/') {
        Some((domain, path)) if is_domain(domain) => path,
        _ => name,
    };
    !is_hash && path.split('/').all(is_component)
}

/// The first part is a domain when it cannot be a part of a path.
fn is_domain(part: &str) -> bool {
    let looks = part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|byte| byte.is_ascii_uppercase());
    looks
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'))
}

/// Letters and digits with single separators (`.`, `_`, `__`, any number of `-`) between them.
fn is_component(part: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    let separated = part
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|byte| byte == b'-'));
    is_word(*first) && is_word(*last) && separated
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && hex.len() >= 32
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_is_pulled_always() {
        let hash = "0123456789abcdef".repeat(4);
        let digest = format!("sha256:{hash}");
        for (image, want) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.25", false),
            ("registry:5000/team/app", true),
            ("registry:5000/team/app:v1", false),
            ("Registry.example.com/team/app", true),
            ("localhost/app", true),
            ("team/app_x__y-z--1.0", true),
            (&format!("nginx@{digest}"), false),
            (&format!("nginx:latest@{digest}"), true),
            ("", false),
            ("Nginx", false),
            ("team/App", false),
            ("a..b", false),
            ("nginx:", false),
            ("nginx:ta g", false),
            ("nginx@sha256:short", false),
            (&hash, false),
        ] {
            assert_eq!(has_latest_tag(image), want, "{image}");
        }
    }
}
