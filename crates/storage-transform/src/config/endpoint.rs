//! The endpoint of a key service: whether it is a URL, and of which scheme.
//!
//! Accepts and refuses what Go's `url.Parse` does, as far as it depends on scheme, host and escapes; nothing here
//! connects.

/// The scheme of a URL, in lower case and empty when there is none.
///
/// # Errors
///
/// What is wrong with the URL, in Go's words.
pub(super) fn scheme(url: &str) -> Result<String, String> {
    let fail = |reason: String| format!("parse {url:?}: {reason}");
    if url.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Err(fail("net/url: invalid control character in URL".to_owned()));
    }
    let before_fragment = match url.split_once('#') {
        Some((before, fragment)) => {
            check_escapes(fragment).map_err(fail)?;
            before
        }
        None => url,
    };
    let (scheme, rest) = split_scheme(before_fragment).map_err(fail)?;
    let rest = rest.split_once('?').map_or(rest, |(path, _query)| path);
    if let Some(after) = rest.strip_prefix("//") {
        let end = after.find('/').unwrap_or(after.len());
        check_authority(&after[..end]).map_err(fail)?;
        check_escapes(&after[end..]).map_err(fail)?;
    } else if rest.starts_with('/') {
        check_escapes(rest).map_err(fail)?;
    } else if scheme.is_empty() {
        let first_segment = rest.split('/').next().unwrap_or(rest);
        if first_segment.contains(':') {
            return Err(fail("first path segment in URL cannot contain colon".to_owned()));
        }
        check_escapes(rest).map_err(fail)?;
    }
    Ok(scheme)
}

fn split_scheme(url: &str) -> Result<(String, &str), String> {
    for (index, byte) in url.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((url[..index].to_ascii_lowercase(), &url[index + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), url))
}

fn check_authority(authority: &str) -> Result<(), String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    let port = match host.strip_prefix('[') {
        Some(bracketed) => match bracketed.rsplit_once(']') {
            Some((_, after)) => after,
            None => return Err("missing ']' in host".to_owned()),
        },
        None => host.rfind(':').map_or("", |colon| &host[colon..]),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let well_formed = port.is_empty() || (port.starts_with(':') && digits.bytes().all(|b| b.is_ascii_digit()));
    if !well_formed {
        return Err(format!("invalid port {port:?} after host"));
    }
    if let Some(bad) = host.chars().find(|c| " \"<>\\^`{}|".contains(*c)) {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    check_escapes(authority)
}

fn check_escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for (index, _) in text.match_indices('%') {
        let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        if !is_hex(index + 1) || !is_hex(index + 2) {
            let shown: String = text[index..].chars().take(3).collect();
            return Err(format!("invalid URL escape {shown:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, want: Result<&str, &str>) {
        match (scheme(url), want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{url}"),
            (Err(got), Err(want)) => assert!(got.ends_with(want), "{url}: {got}"),
            (got, want) => panic!("{url}: {got:?} instead of {want:?}"),
        }
    }

    #[test]
    fn schemes_are_found_and_broken_urls_refused() {
        check("unix:///run/kms.sock", Ok("unix"));
        check("UNIX:///run/kms.sock", Ok("unix"));
        check("unix:///@kms.sock", Ok("unix"));
        check("unix:/run/kms.sock", Ok("unix"));
        check("https://www.foo.com", Ok("https"));
        check("tcp://localhost:6060", Ok("tcp"));
        check("/run/kms.sock", Ok(""));
        check("kms.sock", Ok(""));
        check("unix:///foo\n.socket", Err("net/url: invalid control character in URL"));
        check(":foo", Err("missing protocol scheme"));
        check("1unix:foo", Err("first path segment in URL cannot contain colon"));
        check("unix:///%zz", Err("invalid URL escape \"%zz\""));
        check("unix://host:port/x", Err("invalid port \":port\" after host"));
        check("unix://[::1/x", Err("missing ']' in host"));
        check("unix://a b/x", Err("invalid character \" \" in host name"));
    }
}
