//! `Warning` headers: what a client should know beside the answer, within a budget that every client's parser takes.
//!
//! Upstream: kubernetes/apiserver pkg/endpoints/filters (warning.go).

use std::collections::HashSet;

use http::HeaderValue;

/// Characters of all texts together, before they are cut (`apiserver-http/FVAL-12`).
const TOTAL: usize = 4096;
/// Characters of each text where they are cut.
const EACH: usize = 256;

/// The headers for these warnings, each once, in their order. Too much text is cut, and what still does not fit goes.
pub(crate) fn headers(warnings: Vec<String>) -> Vec<HeaderValue> {
    let mut seen = HashSet::new();
    let warnings: Vec<_> = warnings
        .into_iter()
        .filter(|warning| seen.insert(warning.clone()))
        .collect();
    let size = |text: &str| text.chars().count();
    let fits = warnings.iter().map(|warning| size(warning)).sum::<usize>() <= TOTAL;
    let mut written = 0;
    let mut headers = Vec::new();
    for warning in warnings {
        if !fits && written >= TOTAL {
            break;
        }
        let text: String = warning.chars().take(if fits { usize::MAX } else { EACH }).collect();
        if let Some(value) = header(&text) {
            written += size(&text);
            headers.push(value);
        }
    }
    headers
}

/// `299 - "text"`; nothing for a text that cannot stand in a header (`apiserver-http/FVAL-10`, `FVAL-11`).
fn header(text: &str) -> Option<HeaderValue> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return None;
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/FVAL-10, apiserver-http/FVAL-11
    #[test]
    fn warnings_are_quoted() {
        assert_eq!(header("a \"b\" \\").unwrap(), "299 - \"a \\\"b\\\" \\\\\"");
        assert_eq!(header(""), None);
        assert_eq!(header("a\nb"), None);
    }

    // covers: apiserver-http/FVAL-12
    #[test]
    fn much_text_is_cut_and_more_is_dropped() {
        let texts = |count: usize, size: usize| (0..count).map(|at| format!("{at:0size$}")).collect::<Vec<_>>();
        let sizes = |headers: Vec<HeaderValue>| headers.iter().map(|value| value.len() - 8).collect::<Vec<_>>();
        assert_eq!(sizes(headers(texts(4, 1024))), [1024; 4]);
        assert_eq!(sizes(headers(texts(5, 1024))), [256; 5]);
        assert_eq!(sizes(headers(texts(500, 100))), [100; 41]);
        assert_eq!(sizes(headers(vec!["same".into(), "same".into()])), [4]);
    }
}
