//! Names, label keys and label values: what may stand in them, and what is said of those that have something else.
//!
//! Upstream: k8s.io/apimachinery pkg/api/validation (generic.go), pkg/util/validation (validation.go).

const SUBDOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                              '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
                              used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                          must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used \
                          for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                               alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
                               'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const KEY_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                        alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation \
                        is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                          and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
                          '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Whether a text is a label of a domain name: what a namespace must be.
pub fn is_dns1123_label(text: &str) -> bool {
    text.len() <= LABEL_MAX && label_shape(text)
}

/// Whether a text is a domain name.
pub fn is_dns1123_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_MAX && subdomain_shape(text)
}

fn label_shape(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(inner)
}

fn subdomain_shape(text: &str) -> bool {
    text.split('.').all(label_shape)
}

/// Letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit; not empty.
fn key_shape(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    ends(text.bytes().next()) && ends(text.bytes().last()) && text.bytes().all(inner)
}

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

/// The start of a name may end with a dash, because more follows.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => format!("{rest}a"),
        _ => name.to_owned(),
    }
}

fn faults(text: &str, max: usize, shape: bool, message: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.len() > max {
        faults.push(too_long(max));
    }
    if !shape {
        faults.push(message.to_owned());
    }
    faults
}

/// Faults of a name that must be a domain name; most kinds ask for that. `prefix`: more characters follow.
pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = masked(name, prefix);
    faults(&name, SUBDOMAIN_MAX, subdomain_shape(&name), SUBDOMAIN_TEXT)
}

/// Faults of a name that must be a label of a domain name: namespaces.
pub fn name_is_dns_label(name: &str, prefix: bool) -> Vec<String> {
    let name = masked(name, prefix);
    faults(&name, LABEL_MAX, label_shape(&name), LABEL_TEXT)
}

/// Faults of a name that must be a label that begins with a letter: services.
pub fn name_is_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    let name = masked(name, prefix);
    let shape = label_shape(&name) && name.starts_with(|first: char| first.is_ascii_lowercase());
    faults(&name, LABEL_MAX, shape, LABEL_1035_TEXT)
}

/// Faults of a name that must only be fit for a path: roles.
pub fn name_is_path_segment(name: &str, _prefix: bool) -> Vec<String> {
    apiserver_storage_api::path_segment_faults(name)
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// Faults of a label key, an annotation key in lower case, or a finalizer: a name, with an optional domain before it.
pub fn qualified_name_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            let optional = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {KEY_TEXT} {optional}")];
        }
        Some(("", name)) => {
            faults.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            let said = name_is_dns_subdomain(prefix, false);
            faults.extend(said.into_iter().map(|fault| format!("prefix part {fault}")));
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        faults.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !key_shape(name) {
        faults.push(format!("name part {KEY_TEXT}"));
    }
    faults
}

/// Faults of a label's value.
pub fn label_value_faults(value: &str) -> Vec<String> {
    faults(value, LABEL_MAX, value.is_empty() || key_shape(value), VALUE_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(faults: Vec<String>, want: &[&str]) {
        assert_eq!(faults.len(), want.len(), "{faults:?}");
        for (fault, want) in faults.iter().zip(want) {
            assert!(fault.starts_with(want), "{fault:?} does not start with {want:?}");
        }
    }

    // covers: registry/R-CRE-12, registry/R-CRE-13
    #[test]
    fn names_are_checked_by_the_rule_of_their_kind() {
        for good in ["a", "a.b-c.d1", "0", &"a".repeat(253)] {
            check(name_is_dns_subdomain(good, false), &[]);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a%b",
            "Upper",
            "under_score",
            "two words",
            "-a",
            "a-",
            "a..b",
            "é",
        ] {
            check(
                name_is_dns_subdomain(bad, false),
                &["a lowercase RFC 1123 subdomain must consist"],
            );
        }
        check(
            name_is_dns_subdomain(&"a".repeat(254), false),
            &["must be no more than 253 bytes"],
        );
        check(name_is_dns_subdomain("web-", true), &[]);
        check(name_is_dns_subdomain("-", true), &["a lowercase"]);
        check(name_is_dns_label("a.b", false), &["a lowercase RFC 1123 label"]);
        check(
            name_is_dns_label(&"A".repeat(64), false),
            &["must be no more than 63", "a lowercase RFC 1123 label"],
        );
        check(name_is_dns1035_label("1a", false), &["a DNS-1035 label"]);
        check(name_is_dns1035_label("a1", false), &[]);
        check(
            name_is_path_segment("a/b%", false),
            &["may not contain '/'", "may not contain '%'"],
        );
        check(name_is_path_segment("system:Node", false), &[]);
    }

    // covers: registry/R-CRE-12
    #[test]
    fn label_keys_have_an_optional_domain() {
        for good in ["a", "A_b.c-1", "example.com/a", &"a".repeat(63)] {
            check(qualified_name_faults(good), &[]);
        }
        check(qualified_name_faults("a/b/c"), &["a valid label key must consist"]);
        check(qualified_name_faults("/a"), &["prefix part must be non-empty"]);
        check(
            qualified_name_faults("Bad_/a"),
            &["prefix part a lowercase RFC 1123 subdomain"],
        );
        check(
            qualified_name_faults("a/"),
            &["name part must be non-empty", "name part must consist"],
        );
        check(
            qualified_name_faults(&"a".repeat(64)),
            &["name part must be no more than 63 bytes"],
        );
        check(label_value_faults(""), &[]);
        check(label_value_faults("a b"), &["a valid label must be"]);
        check(label_value_faults(&"x".repeat(64)), &["must be no more than 63 bytes"]);
    }
}
