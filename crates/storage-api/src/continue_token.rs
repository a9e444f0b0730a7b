//! The opaque text with which a client asks for the next page, in Kubernetes' wire form.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::key::{KeyPrefix, Scope};
use crate::revision::Revision;

/// Where a page ended: the snapshot and the key to go on with.
///
/// Wire form: base64url without padding of `{"v":"meta.k8s.io/v1","rv":<revision>,"start":"<relative key>"}`. A token
/// from another Kubernetes-style server on the same store is understood, and the other way round. The key is that of the
/// last object and a NUL; such a start is taken byte for byte, whatever slashes are in it, so that no key is skipped or
/// shown twice (`storage-api/CONT-23`). One slash in front is no part of it: upstream's cache writes it.
/// Upstream: pkg/storage/continue.go.
// deviates: storage-api/CONT-22: a token says nothing of selector, limit or kind, and is not signed, because other
// servers on the same store must understand it. It cannot lead out of the prefix of the list that it is used for. Nor does
// it name its store: tokens of all servers are the same, byte for byte, and only the revision is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContinueToken {
    revision: Option<Revision>,
    start: String,
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not base64, not JSON, or a key that leaves its prefix.
    #[error("continue key is not valid: {0}")]
    Malformed(&'static str),
    /// A form that this server does not know.
    #[error("continue key is not valid: server does not recognize this encoded version {0:?}")]
    Version(String),
    /// Revision zero.
    #[error("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")]
    Revision,
    /// No key to go on with.
    #[error("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")]
    EmptyStart,
}

#[derive(serde::Serialize)]
struct Wire<'a> {
    v: &'a str,
    rv: i64,
    start: &'a str,
}

const VERSION: &str = "meta.k8s.io/v1";

impl ContinueToken {
    /// Goes on after `last`, the key that was examined last, in the state at `revision`. `scope` is the range of the
    /// list; a key outside of it makes no token (`storage-api/CONT-02`).
    pub fn after(revision: Revision, scope: &KeyPrefix, last: &str) -> Option<Self> {
        let relative = last.strip_prefix(scope.as_str())?;
        // One slash in front is dropped when the token comes back.
        let slash = if relative.starts_with('/') { "/" } else { "" };
        // The next key begins strictly after the last one.
        Some(Self {
            revision: Some(revision),
            start: format!("{slash}{relative}\0"),
        })
    }

    /// The same place in whatever state is the latest: consistent with itself, not with earlier pages.
    #[must_use]
    pub fn at_latest(&self) -> Self {
        Self {
            revision: None,
            start: self.start.clone(),
        }
    }

    /// The state that the pages show; `None` for the latest.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// The first key of the next page, absolute. Never outside of the prefix.
    pub fn start(&self, prefix: &KeyPrefix) -> String {
        format!(
            "{}{}",
            prefix.as_str(),
            self.start.strip_prefix('/').unwrap_or(&self.start)
        )
    }

    /// The first key of the next page within a scope; `None` for a scope of one key, which has no pages.
    pub fn start_in(&self, scope: &Scope) -> Option<String> {
        match scope {
            Scope::Under(prefix) => Some(self.start(prefix)),
            Scope::Key(_) => None,
        }
    }

    /// The wire form.
    pub fn encode(&self) -> String {
        let rv = self
            .revision
            .map_or(-1, |revision| i64::try_from(revision.get()).unwrap_or(i64::MAX));
        let wire = Wire {
            v: VERSION,
            rv,
            start: &self.start,
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    /// Reads the wire form. Names of fields are matched without regard to case, as Go does.
    ///
    /// # Errors
    ///
    /// [`TokenError`].
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| TokenError::Malformed("illegal base64"))?;
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed("illegal JSON"))?;
        let field = |name: &str| {
            fields
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        };
        let text = |name: &str| match field(name) {
            None | Some(serde_json::Value::Null) => Ok(String::new()),
            Some(serde_json::Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(TokenError::Malformed("illegal field type")),
        };
        let version = text("v")?;
        if version != VERSION {
            return Err(TokenError::Version(version));
        }
        let rv = match field("rv") {
            None | Some(serde_json::Value::Null) => 0,
            Some(value) => value.as_i64().ok_or(TokenError::Malformed("illegal field type"))?,
        };
        if rv == 0 {
            return Err(TokenError::Revision);
        }
        let start = text("start")?;
        if start.is_empty() {
            return Err(TokenError::EmptyStart);
        }
        check_start(&start)?;
        Ok(Self {
            revision: u64::try_from(rv).ok().and_then(Revision::new),
            start,
        })
    }
}

/// A start that path cleaning would change could lead out of the list's prefix (`storage-api/CONT-08`). Doubled and
/// final slashes cannot, and stand in keys that a server wrote; they pass where a NUL says that this is such a key.
fn check_start(start: &str) -> Result<(), TokenError> {
    let relative = start.strip_prefix('/').unwrap_or(start);
    let (relative, is_key) = match relative.strip_suffix('\0') {
        Some(key) => (key, true),
        None => (relative, false),
    };
    let allowed = |segment| match segment {
        "." | ".." => false,
        "" => is_key,
        segment => !segment.contains('\0'),
    };
    // `/` alone resolves to the prefix itself.
    let clean = relative.is_empty() || relative.split('/').all(allowed);
    if clean {
        Ok(())
    } else {
        Err(TokenError::Malformed("start leaves its prefix"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ResourcePrefix;

    fn encode(json: &str) -> String {
        URL_SAFE_NO_PAD.encode(json)
    }

    // covers: storage-api/CONT-01, storage-api/CONT-03, storage-api/CONT-09
    #[test]
    fn a_token_is_the_next_key_at_the_first_pages_revision() {
        let prefix = KeyPrefix::new(&ResourcePrefix::new("/pods/").unwrap(), "/pods/").unwrap();
        let token = ContinueToken::after(Revision::new(7).unwrap(), &prefix, "/pods/second/bar").unwrap();
        let wire = URL_SAFE_NO_PAD.decode(token.encode()).unwrap();
        assert_eq!(wire, br#"{"v":"meta.k8s.io/v1","rv":7,"start":"second/bar\u0000"}"#);
        let back = ContinueToken::decode(&token.encode()).unwrap();
        assert_eq!(back.start(&prefix), "/pods/second/bar\0");
        assert_eq!(back.revision(), Revision::new(7));
    }

    // covers: storage-api/CONT-04, storage-api/CONT-05, storage-api/CONT-06, storage-api/CONT-07, storage-api/CONT-08, storage-api/CONT-10
    #[test]
    fn tokens_that_nobody_issued_are_refused() {
        let prefix = KeyPrefix::new(&ResourcePrefix::new("/pods/").unwrap(), "/pods/").unwrap();
        for (json, want) in [
            ("", Err("illegal JSON")),
            (r#"{"v":"","rv":1,"start":"key"}"#, Err("version")),
            (r#"{"v":"v1","rv":1,"start":"key"}"#, Err("version")),
            (r#"{"v":"meta.k8s.io/v1","rv":0,"start":"key"}"#, Err("resourceVersion")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#, Err("start key empty")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"key"}"#, Ok("/pods/key")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"/key"}"#, Ok("/pods/key")),
            (r#"{"V":"meta.k8s.io/v1","RV":-1,"Start":"/"}"#, Ok("/pods/")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../key"}"#, Err("leaves")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"./key"}"#, Err("leaves")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"./../key"}"#, Err("leaves")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"key/../.."}"#, Err("leaves")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#, Err("leaves")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a/"}"#, Err("leaves")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../a\u0000"}"#, Err("leaves")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a/..\u0000"}"#, Err("leaves")),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a\u0000/b"}"#, Err("leaves")),
            (
                r#"{"v":"meta.k8s.io/v1","rv":1,"start":"/ns/a\u0000"}"#,
                Ok("/pods/ns/a\0"),
            ),
        ] {
            match (ContinueToken::decode(&encode(json)), want) {
                (Ok(token), Ok(start)) => assert_eq!(token.start(&prefix), start, "{json}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{json}: {error}"),
                (got, want) => panic!("{json}: {got:?}, wanted {want:?}"),
            }
        }
        assert!(
            ContinueToken::decode("e30=").is_err(),
            "padding is not part of the form"
        );
    }

    // covers: storage-api/CONT-23, storage-api/GAP-02
    #[test]
    fn every_key_can_be_gone_on_after() {
        let prefix = KeyPrefix::new(&ResourcePrefix::new("/pods/").unwrap(), "/pods/").unwrap();
        for key in [
            "/pods/ns/a",
            "/pods//a",
            "/pods///a",
            "/pods/ns//a/",
            "/pods/",
            "/pods/é",
        ] {
            let token = ContinueToken::after(Revision::MIN, &prefix, key).unwrap();
            let back = ContinueToken::decode(&token.encode()).unwrap();
            assert_eq!(back.start(&prefix), format!("{key}\0"), "{key}");
            assert_eq!(back, token);
        }
    }
}
