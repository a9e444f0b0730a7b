//! The order of merged lists: what the patch lists keeps the order of the patch (or of its `$setElementOrder`), what only the
//! server has keeps the server's order, and the two are woven together by the server's old positions.

use serde_json::Value;

use super::PatchError;
use super::strategic::no_merge_key;

/// Where an item stands in a list: by merge key for objects, by equality for scalars.
fn position(list: &[Value], item: &Value, merge_key: Option<&str>) -> Option<usize> {
    match merge_key {
        Some(key) => {
            let wanted = item.get(key)?;
            list.iter().position(|other| other.get(key) == Some(wanted))
        }
        None => list.iter().position(|other| other == item),
    }
}

/// Splits `merged` into items that `order` lists and items that it does not, and weaves them into the final order.
///
/// # Errors
/// An item without the merge key.
pub(super) fn arrange(
    merged: Vec<Value>,
    order: &[Value],
    server: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    if let Some(key) = merge_key
        && let Some(item) = merged
            .iter()
            .chain(order)
            .chain(server)
            .find(|item| item.get(key).is_none())
    {
        return Err(no_merge_key(item, key));
    }
    let (mut listed, mut server_only): (Vec<_>, Vec<_>) = merged
        .into_iter()
        .partition(|item| position(order, item, merge_key).is_some());
    listed.sort_by_key(|item| position(order, item, merge_key));
    server_only.sort_by_key(|item| position(server, item, merge_key).unwrap_or(usize::MAX));
    Ok(weave(server_only, listed, server, merge_key))
}

/// A server-only item goes first only when both heads have an old position and its own is in front.
fn weave(left: Vec<Value>, right: Vec<Value>, server: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let mut result = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let in_front = match (position(server, l, merge_key), position(server, r, merge_key)) {
            (Some(l), Some(r)) => l < r,
            _ => false,
        };
        result.extend(if in_front { left.next() } else { right.next() });
    }
    result.extend(left);
    result.extend(right);
    result
}

/// Checks that the items of a patch appear in its order list in the same order. Items with a directive are passed over.
///
/// # Errors
/// An item that is not in the list or out of order, or one without the merge key.
pub(super) fn check(patch: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    if order.is_empty() || patch.is_empty() {
        return Ok(());
    }
    let items: Vec<_> = patch.iter().filter(|item| item.get("$patch").is_none()).collect();
    let mut next = 0;
    for entry in order {
        let Some(item) = items.get(next) else { break };
        let equal = match merge_key {
            Some(key) => {
                let mine = item.get(key).ok_or_else(|| no_merge_key(item, key))?;
                let listed = entry.get(key).ok_or_else(|| no_merge_key(entry, key))?;
                mine == listed
            }
            None => *item == entry,
        };
        if equal {
            next += 1;
        }
    }
    if next < items.len() {
        let show = |list: &[Value]| crate::gofmt::plain(&Value::Array(list.to_vec()));
        return Err(PatchError::NotApplicable(format!(
            "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
            show(patch),
            show(order)
        )));
    }
    Ok(())
}
