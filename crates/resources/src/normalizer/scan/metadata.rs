//! The metadata of an object: where the resource version goes, and what selectors need.

use std::ops::Range;
use std::sync::Arc;

use apiserver_storage_api::{Attributes, Text as Short};

use super::{Comma, Kind, Scan, Wanted};
use crate::normalizer::cursor::Text;
use crate::normalizer::edits::Place;
use crate::normalizer::plan::bit;
use crate::types::TypeId;
use crate::wire::MAX_DEPTH;

/// What was seen of the object's metadata.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) place: Option<(Place, Comma)>,
    pub(super) revision: Option<Range<usize>>,
    pub(super) has_self_link: bool,
    pub(super) name: Option<Text>,
    pub(super) namespace: Option<Text>,
    pub(super) uid: Option<Text>,
    pub(super) labels: Vec<(Text, Text)>,
    pub(super) deleting: bool,
}

impl Scan<'_> {
    /// Scans the object's metadata and notes what selectors need.
    pub(super) fn metadata(&mut self, id: TypeId, wanted: Wanted) -> Option<()> {
        let ty = &self.registry[id];
        let mut frame = self.frame(ty, wanted, MAX_DEPTH)?;
        frame.is_metadata = true;
        let revision_at = ty.field_index("resourceVersion")?;
        self.cursor.expect(b"{")?;
        let mut is_first = true;
        loop {
            let gap = self.cursor.at();
            if self.cursor.accept(b"}") {
                self.absent(&mut frame, usize::MAX, gap)?;
                let comma = if frame.written { Comma::Before } else { Comma::None };
                let place = self.place(gap);
                self.metadata.place.get_or_insert((place, comma));
                return self.finish(&frame);
            }
            if !is_first {
                self.cursor.expect(b",")?;
            }
            let index = frame.plan.find(&mut self.cursor, frame.next)?;
            self.absent(&mut frame, index, gap)?;
            let mut leads = false;
            if index > revision_at && self.metadata.place.is_none() {
                leads = !frame.written;
                if leads && !is_first {
                    return None;
                }
                let comma = if leads { Comma::After } else { Comma::Before };
                self.metadata.place = Some((self.place(gap), comma));
            }
            let at = self.member(&mut frame, index, gap, is_first)?;
            if frame.seen & bit(index) != 0 {
                self.note(ty.fields[index].name, at.clone());
            } else if leads {
                // The comma behind the resource version would stand alone.
                return None;
            }
            if index == revision_at {
                let is_followed = is_first && self.cursor.peek() == Some(b',');
                self.metadata.revision = Some(gap..at.end + usize::from(is_followed));
            }
            is_first = false;
        }
    }

    fn place(&self, at: usize) -> Place {
        Place {
            at,
            edits_before: self.edits.len(),
        }
    }

    pub(super) fn labels(&mut self) -> Option<()> {
        let mut labels = Vec::new();
        self.entries(|scan, key| {
            let value = scan.cursor.string()?;
            scan.free(&value, Kind::Text);
            labels.push((key, value));
            Some(())
        })?;
        self.metadata.labels = labels;
        Some(())
    }

    fn note(&mut self, name: &str, at: Range<usize>) {
        let escaped = self.cursor.slice(at.clone()).contains('\\');
        let text = || {
            Some(Text {
                at: at.start + 1..at.end - 1,
                escaped,
            })
        };
        match name {
            "name" => self.metadata.name = text(),
            "namespace" => self.metadata.namespace = text(),
            "uid" => self.metadata.uid = text(),
            "selfLink" => self.metadata.has_self_link = true,
            "deletionTimestamp" => self.metadata.deleting = true,
            _ => {}
        }
    }

    pub(super) fn attributes(&self) -> Option<Attributes> {
        let text = |text: &Option<Text>| match text {
            Some(text) => self.cursor.decoded(text),
            None => Some("".into()),
        };
        let mut labels = Vec::with_capacity(self.metadata.labels.len());
        for (key, value) in &self.metadata.labels {
            labels.push((self.cursor.decoded(key)?, self.cursor.decoded(value)?));
        }
        let mut fields = Vec::with_capacity(self.fields.len());
        for (field, found) in self.fields.iter().zip(&self.found) {
            let found = found.as_ref().map(|found| found.text(&self.cursor));
            let value: Short = match found {
                None | Some("null") => (*field.default).into(),
                Some(text) if text.starts_with('"') => unquoted(text)?,
                // Also what has changes in it.
                Some(text) if text.is_empty() || text.starts_with(['{', '[']) => return None,
                Some(text) => text.into(),
            };
            fields.push((Arc::clone(&field.label), value));
        }
        Some(Attributes {
            name: text(&self.metadata.name)?.into(),
            namespace: text(&self.metadata.namespace)?.into(),
            uid: text(&self.metadata.uid)?.as_ref().into(),
            labels: labels
                .iter()
                .map(|(key, value)| (key.as_ref(), value.as_ref()))
                .collect(),
            fields: fields.into_iter().collect(),
            deleting: self.metadata.deleting,
        })
    }
}

/// The text of a quoted string.
fn unquoted(quoted: &str) -> Option<Short> {
    if quoted.contains('\\') {
        return serde_json::from_str::<String>(quoted).ok().map(Short::from);
    }
    Some(quoted.strip_prefix('"')?.strip_suffix('"')?.into())
}
