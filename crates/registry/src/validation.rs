//! What must hold of the metadata of every object, as pure functions.

/// Whether a text can be a namespace.
pub fn is_dns1123_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends_well = !text.starts_with('-') && !text.ends_with('-');
    !text.is_empty() && text.len() <= 63 && ends_well && text.bytes().all(inner)
}
