//! What has to be changed in the text of a value so that it is complete, and the copy with the changes in it.

use std::borrow::Cow;
use std::ops::Range;

/// A part of the text that gives its place to another one.
#[derive(Debug)]
pub(super) struct Edit {
    /// What goes; empty where something only comes.
    pub(super) gone: Range<usize>,
    /// What comes, one after the other.
    pub(super) text: Vec<Cow<'static, str>>,
}

/// Changes in the order of their places, none of which overlap.
#[derive(Debug, Default)]
pub(super) struct Edits(Vec<Edit>);

impl Edits {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, gone: Range<usize>, text: Vec<Cow<'static, str>>) {
        self.0.push(Edit { gone, text });
    }

    /// As [`push`](Self::push), before the changes from this one on.
    pub(super) fn insert(&mut self, before: usize, gone: Range<usize>, text: Vec<Cow<'static, str>>) {
        self.0.insert(before.min(self.0.len()), Edit { gone, text });
    }

    /// Forgets the changes from this one on.
    pub(super) fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// Copies the text up to `end` with the changes, and at `place` those words. Answers where they begin in the copy.
    pub(super) fn apply(&self, text: &[u8], end: usize, place: Place, words: &[&[u8]]) -> Option<(Vec<u8>, usize)> {
        let mut out = Vec::with_capacity(self.length(end, words)?);
        let (first, rest) = self.0.split_at_checked(place.edits_before)?;
        let mut copied = 0;
        self::copy(&mut out, text, &mut copied, first)?;
        out.extend_from_slice(text.get(copied..place.at)?);
        copied = place.at;
        let begin = out.len();
        words.iter().for_each(|word| out.extend_from_slice(word));
        self::copy(&mut out, text, &mut copied, rest)?;
        out.extend_from_slice(text.get(copied..end)?);
        Some((out, begin))
    }

    fn length(&self, end: usize, words: &[&[u8]]) -> Option<usize> {
        let more: usize = words.iter().map(|word| word.len()).sum();
        self.0.iter().try_fold(end + more, |length, edit| {
            let text: usize = edit.text.iter().map(|text| text.len()).sum();
            (length + text).checked_sub(edit.gone.len())
        })
    }
}

/// Where something more goes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: usize,
    /// How many changes come before it.
    pub(super) edits_before: usize,
}

fn copy(out: &mut Vec<u8>, text: &[u8], copied: &mut usize, edits: &[Edit]) -> Option<()> {
    for edit in edits {
        out.extend_from_slice(text.get(*copied..edit.gone.start)?);
        edit.text.iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
        *copied = edit.gone.end;
    }
    Some(())
}
