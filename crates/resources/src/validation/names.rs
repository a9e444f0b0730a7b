//! Names, labels and keys: what may be called what, with the texts that say so.

/// The text for a name that is no DNS-1123 subdomain.
pub const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// The text for a name that is no DNS-1123 label.
pub const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// The text for a name that is no DNS-1035 label.
pub const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// Longest DNS-1123 subdomain.
const SUBDOMAIN_LENGTH: usize = 253;
/// Longest label, label value and name part.
const LABEL_LENGTH: usize = 63;

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Lower-case letters, digits and dashes, with a letter or digit at both ends.
fn label_characters(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if lower_or_digit(first) && lower_or_digit(last))
        && bytes.iter().all(|&b| lower_or_digit(b) || b == b'-')
}

fn subdomain_characters(text: &str) -> bool {
    !text.is_empty() && text.split('.').all(label_characters)
}

/// Whether a text is a DNS-1123 subdomain.
#[must_use]
pub fn is_dns1123_subdomain(text: &str) -> bool {
    dns1123_subdomain(text).is_empty()
}

/// Whether a text is a DNS-1035 label.
#[must_use]
pub fn is_dns1035_label(text: &str) -> bool {
    dns1035_label(text).is_empty()
}

/// Faults of a text as a DNS-1123 subdomain.
#[must_use]
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > SUBDOMAIN_LENGTH {
        faults.push(too_long(SUBDOMAIN_LENGTH));
    }
    if !subdomain_characters(text) {
        faults.push(DNS1123_SUBDOMAIN.to_owned());
    }
    faults
}

/// Faults of a text as a DNS-1123 label.
#[must_use]
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_LENGTH {
        faults.push(too_long(LABEL_LENGTH));
    }
    if !label_characters(text) {
        faults.push(
            if subdomain_characters(text) {
                "must not contain dots"
            } else {
                DNS1123_LABEL
            }
            .to_owned(),
        );
    }
    faults
}

/// Faults of a text as a DNS-1035 label.
#[must_use]
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_LENGTH {
        faults.push(too_long(LABEL_LENGTH));
    }
    if !label_characters(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        faults.push(DNS1035_LABEL.to_owned());
    }
    faults
}

/// Faults of a text as a segment of a path.
#[must_use]
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|bad| text.contains(bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

/// Letters, digits, dashes, dots and underscores, with a letter or digit at both ends.
fn qualified_characters(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Faults of a text as a qualified name: the keys of labels and annotations, finalizers, condition types.
#[must_use]
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let parts: Vec<_> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(
                    dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|fault| format!("prefix part {fault}")),
                );
            }
            name
        }
        _ => {
            faults.push(format!(
                "a valid label key {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return faults;
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LENGTH {
        faults.push(format!("name part {}", too_long(LABEL_LENGTH)));
    }
    if !qualified_characters(name) {
        faults.push(format!("name part {QUALIFIED}"));
    }
    faults
}

/// Faults of a text as the value of a label.
#[must_use]
pub fn label_value(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > LABEL_LENGTH {
        faults.push(too_long(LABEL_LENGTH));
    }
    if !text.is_empty() && !qualified_characters(text) {
        faults.push(LABEL_VALUE.to_owned());
    }
    faults
}

/// Faults of a text as a key of a configmap or a secret.
#[must_use]
pub fn config_key(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > SUBDOMAIN_LENGTH {
        faults.push(too_long(SUBDOMAIN_LENGTH));
    }
    if text.is_empty()
        || !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        faults.push(CONFIG_KEY.to_owned());
    }
    match text {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// Faults of a text as the name of an environment variable.
#[must_use]
pub fn env_var_name(text: &str) -> Vec<String> {
    let printable = |b: u8| (0x20..0x7f).contains(&b) && b != b'=';
    if text.is_empty() || !text.bytes().all(printable) {
        vec![ENV_NAME.to_owned()]
    } else {
        Vec::new()
    }
}

/// Faults of a text as the name of a port: lower-case letters, digits and single dashes, at least one letter.
#[must_use]
pub fn port_name(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > 15 {
        faults.push("must be no more than 15 characters".to_owned());
    }
    if !text.bytes().all(|b| lower_or_digit(b) || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: registry/R-CRE-12, registry/R-CRE-13, registry/R-KEY-06
    #[test]
    fn each_rule_accepts_and_refuses() {
        type Rule = fn(&str) -> Vec<String>;
        type Case<'t> = (Rule, &'t [&'t str], &'t [(&'t str, &'t str)]);
        let long = "x".repeat(64);
        let cases: [Case<'_>; 8] = [
            (
                dns1123_subdomain,
                &["a", "a-b.c", "1"],
                &[
                    ("Upper", DNS1123_SUBDOMAIN),
                    ("a_b", DNS1123_SUBDOMAIN),
                    (".", DNS1123_SUBDOMAIN),
                    ("a..b", DNS1123_SUBDOMAIN),
                    ("-a", DNS1123_SUBDOMAIN),
                ],
            ),
            (
                dns1123_label,
                &["a", "1a"],
                &[
                    ("a.b", "must not contain dots"),
                    ("A", DNS1123_LABEL),
                    (&long, "must be no more than 63 bytes"),
                ],
            ),
            (dns1035_label, &["a-1"], &[("1a", DNS1035_LABEL), ("", DNS1035_LABEL)]),
            (
                path_segment,
                &["a:b", "A"],
                &[
                    (".", "may not be '.'"),
                    ("a/b", "may not contain '/'"),
                    ("a%b", "may not contain '%'"),
                ],
            ),
            (
                qualified_name,
                &["a", "example.com/A_b.c"],
                &[
                    ("/a", "prefix part must be non-empty"),
                    ("a/", "name part must be non-empty"),
                    (&long, "name part must be no more than 63 bytes"),
                ],
            ),
            (
                label_value,
                &["", "a_B"],
                &[("bad value", LABEL_VALUE), ("-", LABEL_VALUE)],
            ),
            (
                config_key,
                &["ok.key_1-A", ".x"],
                &[
                    ("bad key", CONFIG_KEY),
                    ("", CONFIG_KEY),
                    ("..", "must not be '..'"),
                    ("..x", "must not start with '..'"),
                ],
            ),
            (
                port_name,
                &["http", "a-1"],
                &[
                    ("80", "must contain at least one letter (a-z)"),
                    ("a--b", "must not contain consecutive hyphens"),
                ],
            ),
        ];
        for (rule, good, bad) in cases {
            for text in good {
                assert_eq!(rule(text), Vec::<String>::new(), "{text}");
            }
            for (text, want) in bad {
                assert_eq!(rule(text).first().map(String::as_str), Some(*want), "{text}");
            }
        }
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert!(qualified_name("bad key")[0].starts_with("name part must consist of"));
    }
}
