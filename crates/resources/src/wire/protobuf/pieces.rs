//! Lists and watch frames put together from messages that are there already, byte for byte as if they had been encoded as
//! a whole.

use serde_json::{Value, json};

use super::super::error::WireError;
use super::super::type_of;
use super::{MAGIC, encode, encode_message};
use crate::types::{Gvk, Slot};

/// The most bytes of a number.
const MAX_VARINT: usize = 10;

/// A list in its envelope, as far as it is no item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFrame {
    /// What stands before the first item.
    pub head: Vec<u8>,
    /// What stands behind the last item.
    pub tail: Vec<u8>,
}

impl ListFrame {
    /// The frame of a list of this kind, whose items take `length` bytes altogether, each with its
    /// [prefix](item_prefix).
    ///
    /// # Errors
    ///
    /// [`WireError`] for a kind that is not built in or is no list, and for metadata that is none.
    pub fn new(gvk: Gvk<'_>, metadata: &Value, length: usize) -> Result<Self, WireError> {
        let ty = type_of(message_of(gvk))?;
        let is_items = |slot: Slot| match slot {
            Slot::Field(index) => ty.fields[usize::from(index)].name == "items",
            Slot::Embedded(_) => false,
        };
        // Items come last, or they could not be put behind the rest.
        let last = ty.tags.last().filter(|tag| tag.number == ITEMS && is_items(tag.slot));
        if last.is_none() {
            return Err(WireError::Protobuf(format!("{} is no list", gvk.kind)));
        }
        let message = encode_message(message_of(gvk), &json!({ "metadata": metadata }))?;
        let mut head = Vec::with_capacity(message.len() + 64);
        head.extend_from_slice(&envelope_head(gvk));
        encode::field_head(&mut head, 2, message.len() + length);
        head.extend_from_slice(&message);
        Ok(Self {
            head,
            tail: ENVELOPE_TAIL.to_vec(),
        })
    }
}

/// The field of the items in every list.
const ITEMS: u32 = 2;
/// Neither an encoding nor a media type.
const ENVELOPE_TAIL: [u8; 4] = [0x1a, 0, 0x22, 0];

/// What stands before the message of an item in a list.
#[must_use]
pub fn item_prefix(length: usize) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(1 + MAX_VARINT);
    encode::field_head(&mut prefix, ITEMS, length);
    prefix
}

/// What an envelope of this kind begins with, up to its message.
#[must_use]
pub fn envelope_head(gvk: Gvk<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(MAGIC);
    encode::message(&mut out, 1, |out| {
        encode::bytes(out, 1, gvk.api_version().as_bytes());
        encode::bytes(out, 2, gvk.kind.as_bytes());
    });
    out
}

/// Writes an envelope that begins with `head` (see [`envelope_head`]) around a message.
pub fn write_envelope(head: &[u8], message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(head);
    encode::bytes(out, 2, message);
    out.extend_from_slice(&ENVELOPE_TAIL);
}

/// Writes a frame of a watch with its length before it: an event whose object is `message` in an envelope that begins with
/// `head` (see [`envelope_head`]). The message is copied once.
pub fn write_watch_frame(event_type: &str, head: &[u8], message: &[u8], out: &mut Vec<u8>) {
    let envelope = head.len() + encode::field_length(message.len()) + ENVELOPE_TAIL.len();
    let object = encode::field_length(envelope);
    let event = encode::field_length(event_type.len()) + encode::field_length(object);
    out.reserve(event + 4);
    // No object of four gigabytes gets here.
    out.extend_from_slice(&u32::try_from(event).unwrap_or(u32::MAX).to_be_bytes());
    encode::bytes(out, 1, event_type.as_bytes());
    encode::field_head(out, 2, object);
    encode::field_head(out, 1, envelope);
    write_envelope(head, message, out);
}

/// Views of metadata are the same message in all versions.
fn message_of(gvk: Gvk<'_>) -> Gvk<'_> {
    match gvk {
        Gvk {
            group: "meta.k8s.io", ..
        } => Gvk { version: "v1", ..gvk },
        other => other,
    }
}

/// The message of an object's metadata alone, the same in all versions of `meta.k8s.io`.
///
/// # Errors
///
/// [`WireError`] for a field of the metadata that holds something else than its type.
pub fn encode_metadata(object: &Value) -> Result<Vec<u8>, WireError> {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let gvk = Gvk::new("meta.k8s.io", "v1", "PartialObjectMetadata");
    encode_message(gvk, &json!({ "metadata": metadata }))
}

#[cfg(test)]
mod tests {
    use super::super::{Envelope, encode_watch_event};
    use super::*;
    use crate::types::TypeRegistry;

    fn pod(name: &str, filler: usize) -> Value {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "annotations": {"a": "x".repeat(filler)}},
            "spec": {"containers": [{"name": "c"}]}})
    }

    // covers: apiserver-http/RLST-08
    #[test]
    fn a_list_of_pieces_is_the_list() {
        let items = [pod("a", 0), pod("b", 100), pod("c", 20_000)];
        for count in 0..=items.len() {
            let items = &items[..count];
            let metadata = json!({"resourceVersion": "7", "continue": "abc", "remainingItemCount": 3});
            let gvk = Gvk::new("", "v1", "PodList");
            let want = super::super::encode(gvk, &json!({"metadata": metadata, "items": items})).expect("a list");
            let messages: Vec<_> = items
                .iter()
                .map(|item| encode_message(Gvk::new("", "v1", "Pod"), item).expect("a pod"))
                .flat_map(|message| [item_prefix(message.len()), message])
                .collect();
            let messages = messages.concat();
            let frame = ListFrame::new(gvk, &metadata, messages.len()).expect("a frame");
            assert!([frame.head, messages, frame.tail].concat() == want, "{count} items");
        }
    }

    #[test]
    fn every_list_of_a_built_in_kind_can_be_put_together() {
        let registry = TypeRegistry::builtin();
        let mut lists = 0;
        for resource in registry.resources() {
            let kind = format!("{}List", resource.kind);
            let gvk = Gvk::new(&resource.group, &resource.version, &kind);
            if registry.by_gvk(gvk).is_some() {
                lists += 1;
                assert!(ListFrame::new(gvk, &json!({}), 0).is_ok(), "{gvk:?}");
            }
        }
        assert!(lists > 50, "{lists}");
        assert!(ListFrame::new(Gvk::new("", "v1", "Pod"), &json!({}), 0).is_err());
        assert!(ListFrame::new(Gvk::new("", "v1", "NothingList"), &json!({}), 0).is_err());
        let metadata = Gvk::new("meta.k8s.io", "v1beta1", "PartialObjectMetadataList");
        assert!(ListFrame::new(metadata, &json!({}), 0).is_ok());
    }

    // covers: apiserver-http/RWAT-15
    #[test]
    fn a_watch_frame_is_the_event_behind_its_length() {
        for filler in [0, 100, 20_000] {
            let pod = pod("a", filler);
            let gvk = Gvk::new("", "v1", "Pod");
            let envelope = super::super::encode(gvk, &pod).expect("a pod");
            let event = encode_watch_event("MODIFIED", &envelope);
            let want = [&(event.len() as u32).to_be_bytes()[..], &event].concat();
            let mut got = Vec::new();
            let message = encode_message(gvk, &pod).expect("a pod");
            write_watch_frame("MODIFIED", &envelope_head(gvk), &message, &mut got);
            assert!(got == want, "{filler}");
        }
    }

    #[test]
    fn metadata_alone_is_that_of_the_object() {
        let object = json!({"kind": "Widget", "apiVersion": "x/v1", "metadata": {"name": "a"}, "spec": {}});
        let message = encode_metadata(&object).expect("metadata");
        let gvk = Gvk::new("meta.k8s.io", "v1", "PartialObjectMetadata");
        let mut envelope = Vec::new();
        write_envelope(&envelope_head(gvk), &message, &mut envelope);
        let want = json!({"metadata": {"name": "a"}});
        assert_eq!(super::super::encode(gvk, &want).as_deref(), Ok(&*envelope));
        assert_eq!(Envelope::parse(&envelope).expect("an envelope").raw, message);
        let broken = json!({"metadata": {"name": 7}});
        assert!(encode_metadata(&broken).is_err());
    }
}
