//! What a scanned value has in common with those like it.
//!
//! While a shape is learned, the scan notes which texts could be others, and which values a rule has looked at: what is
//! decided by a value holds only for the same value.

use std::cell::RefCell;
use std::ops::Range;

use apiserver_storage_api::{Learned, SelectableField, Shape, ShapeEdit, Slot, TextKind};

use super::{Comma, Incomplete, Raw, Scan};
use crate::normalizer::canonical::is_canonical_base64;
use crate::types::{Gvk, Type};
use crate::wire::time;

/// Texts that may stand for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::normalizer) enum Kind {
    /// Any text but the empty one, which may be left out.
    Text,
    /// A time as Go writes it.
    Time(time::Precision),
    /// Bytes, but not none.
    Bytes,
}

impl TextKind for Kind {
    fn accepts(self, text: &[u8]) -> bool {
        match self {
            Self::Text => !text.is_empty(),
            Self::Time(precision) => std::str::from_utf8(text).is_ok_and(|text| time::is_canonical(text, precision)),
            Self::Bytes => !text.is_empty() && is_canonical_base64(text),
        }
    }

    /// Bytes may be secret.
    fn is_kept(self) -> bool {
        self != Self::Bytes
    }
}

/// What is noted while a shape is learned.
#[derive(Debug, Default)]
pub(super) struct Notes {
    free: Vec<(Range<usize>, Kind)>,
    /// What rules have looked at.
    asked: RefCell<Vec<Range<usize>>>,
}

impl Notes {
    pub(super) fn free(&mut self, text: Range<usize>, kind: Kind) {
        if !text.is_empty() {
            self.free.push((text, kind));
        }
    }

    pub(super) fn asked(&self, raw: &Raw) {
        if let Raw::At(at) = raw {
            self.asked.borrow_mut().push(at.clone());
        }
    }

    /// The free texts that no rule has looked at.
    fn undecided(self) -> Vec<(Range<usize>, Kind)> {
        let mut asked = self.asked.into_inner();
        asked.sort_by_key(|asked| asked.start);
        // Those within others end no later than these.
        let mut outer: Vec<Range<usize>> = Vec::with_capacity(asked.len());
        for asked in asked {
            if outer.last().is_none_or(|last| last.end <= asked.start) {
                outer.push(asked);
            }
        }
        let mut free = self.free;
        free.retain(|(text, _)| {
            let next = outer.partition_point(|asked| asked.end <= text.start);
            outer.get(next).is_none_or(|asked| text.end <= asked.start)
        });
        free
    }
}

/// The shape of a stored value that was verified.
#[cold]
pub(in crate::normalizer) fn learn(
    ty: &'static Type,
    gvk: Gvk<'_>,
    stored: &[u8],
    fields: &[SelectableField],
) -> Option<Shape<Kind>> {
    let text = std::str::from_utf8(stored).ok()?;
    let mut scan = Scan::new(ty, text, fields, Incomplete::Edited);
    scan.notes = Some(Notes::default());
    scan.root(ty, gvk)?;
    let end = scan.cursor.at();
    let attributes = scan.attributes()?;
    let extracted = scan.extracted();
    let (place, comma) = scan.metadata.place?;
    let is_last = comma == Comma::After;
    let mut revision = Some(ShapeEdit {
        gone: place.at..place.at,
        text: match comma {
            Comma::Before => b",\"resourceVersion\":\"".to_vec(),
            Comma::None | Comma::After => b"\"resourceVersion\":\"".to_vec(),
        },
        behind_revision: Some(if is_last { b"\",".to_vec() } else { b"\"".to_vec() }),
    });
    let mut edits = Vec::with_capacity(scan.edits.len() + 1);
    for (index, edit) in scan.edits.iter().enumerate() {
        if index == place.edits_before {
            edits.extend(revision.take());
        }
        edits.push(ShapeEdit {
            gone: edit.gone.clone(),
            text: edit.text.concat().into_bytes(),
            behind_revision: None,
        });
    }
    edits.extend(revision);
    Shape::learn(Learned {
        document: stored,
        end,
        free: scan.notes?.undecided(),
        attributes,
        extracted,
        edits,
    })
}

impl Scan<'_> {
    /// Where the texts stand that were extracted.
    fn extracted(&self) -> Vec<(Slot, Range<usize>)> {
        let metadata = &self.metadata;
        let texts = [
            (Slot::Name, &metadata.name),
            (Slot::Namespace, &metadata.namespace),
            (Slot::Uid, &metadata.uid),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(slot, text)| Some((slot, text.as_ref()?.at.clone())));
        let labels = metadata.labels.iter().enumerate();
        let labels = labels.map(|(at, (_, value))| (Slot::Label(at), value.at.clone()));
        let fields = self.found.iter().enumerate().filter_map(|(at, found)| match found {
            // Behind the quote of a text; others are not free.
            Some(Raw::At(value)) => Some((Slot::Field(at), value.start + 1..value.end.saturating_sub(1))),
            _ => None,
        });
        texts.chain(labels).chain(fields).collect()
    }
}
