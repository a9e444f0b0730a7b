//! Values by their shape: texts, numbers, lists and maps, each in the form in which Go writes it.

use std::ops::Range;

use super::{Kind, NOTHING, Scan, Wanted};
use crate::normalizer::canonical::is_canonical_base64;
use crate::normalizer::cursor::Text;
use crate::types::{Form, Shape, TypeId};
use crate::wire::{quantity, time};

impl Scan<'_> {
    pub(super) fn value(&mut self, shape: &'static Shape, wanted: Wanted, depth: usize) -> Option<()> {
        match shape {
            Shape::String => self.text(Kind::Text),
            Shape::Bool => self.cursor.boolean().map(|_| ()),
            Shape::Int32 => self
                .cursor
                .integer()
                .and_then(|number| i32::try_from(number).ok())
                .map(|_| ()),
            Shape::Int64 => self.cursor.integer().map(|_| ()),
            // Rare, and their text has many forms.
            Shape::Double => None,
            Shape::Bytes => {
                let text = self.cursor.string()?;
                self.free(&text, Kind::Bytes);
                is_canonical_base64(self.cursor.slice(text.at).as_bytes()).then_some(())
            }
            Shape::Type(id) => self.typed(*id, wanted, depth),
            Shape::List { item, .. } => self.list(item, depth.checked_sub(1)?),
            Shape::Map(item) => self.map(item, wanted, depth.checked_sub(1)?),
        }
    }

    /// Scans a text.
    #[inline(always)]
    pub(super) fn text(&mut self, kind: Kind) -> Option<()> {
        let text = self.cursor.string()?;
        self.free(&text, kind);
        Some(())
    }

    /// Notes a text that might be another one.
    #[inline(always)]
    pub(super) fn free(&mut self, text: &Text, kind: Kind) {
        if let Some(notes) = &mut self.notes {
            notes.free(text.at.clone(), kind);
        }
    }

    fn typed(&mut self, id: TypeId, wanted: Wanted, depth: usize) -> Option<()> {
        let ty = &self.registry[id];
        match ty.form {
            Form::Struct => self.object(ty, wanted, depth),
            Form::Time => self.time(time::Precision::Seconds),
            Form::MicroTime => self.time(time::Precision::Micros),
            Form::Quantity => {
                let text = self.cursor.string()?;
                let text = self.cursor.decoded(&text)?;
                matches!(quantity::stored_text(&text), Ok(None)).then_some(())
            }
            Form::IntOrString => match self.cursor.peek()? {
                b'"' => self.cursor.string().map(|_| ()),
                _ => self.value(&Shape::Int32, NOTHING, depth),
            },
            Form::Raw | Form::FieldsV1 => self.cursor.any(depth),
            Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => None,
        }
    }

    fn time(&mut self, precision: time::Precision) -> Option<()> {
        let text = self.cursor.string()?;
        self.free(&text, Kind::Time(precision));
        time::is_canonical(self.cursor.slice(text.at), precision).then_some(())
    }

    fn list(&mut self, item: &'static Shape, depth: usize) -> Option<()> {
        self.cursor.expect(b"[")?;
        if self.cursor.accept(b"]") {
            return Some(());
        }
        loop {
            self.value(item, NOTHING, depth)?;
            if !self.cursor.accept(b",") {
                return self.cursor.expect(b"]");
            }
        }
    }

    fn map(&mut self, item: &'static Shape, wanted: Wanted, depth: usize) -> Option<()> {
        if wanted.bits != 0 && wanted.steps < self.longest_path(wanted) {
            return None;
        }
        self.entries(|scan, _| scan.value(item, NOTHING, depth))
    }

    fn longest_path(&self, wanted: Wanted) -> usize {
        (0..self.fields.len())
            .filter(|index| wanted.bits & 1 << index != 0)
            .map(|index| self.fields[index].path.len())
            .max()
            .unwrap_or_default()
    }

    /// Scans a map: keys without escapes in ascending order.
    pub(super) fn entries(&mut self, mut value: impl FnMut(&mut Self, Text) -> Option<()>) -> Option<()> {
        self.cursor.expect(b"{")?;
        if self.cursor.accept(b"}") {
            return Some(());
        }
        let mut last: Option<Range<usize>> = None;
        loop {
            let key = self.cursor.string()?;
            let ascends = last.is_none_or(|last| self.cursor.slice(last) < self.cursor.slice(key.at.clone()));
            if key.escaped || !ascends {
                return None;
            }
            last = Some(key.at.clone());
            self.cursor.expect(b":")?;
            value(self, key)?;
            if !self.cursor.accept(b",") {
                return self.cursor.expect(b"}");
            }
        }
    }

    /// A resource list is canonical when rounding changes nothing.
    pub(super) fn resource_list(&mut self) -> Option<()> {
        self.entries(|scan, _| {
            let text = scan.cursor.string()?;
            if is_plainly_rounded(scan.cursor.slice(text.at.clone()).as_bytes()) {
                return Some(());
            }
            let text = scan.cursor.decoded(&text)?;
            matches!(quantity::rounded_to_milli(&text), Ok(None)).then_some(())
        })
    }
}

/// Whether rounding a quantity up to thousandths surely leaves its text: a small whole number in the largest unit that
/// it is a whole number of.
fn is_plainly_rounded(text: &[u8]) -> bool {
    const DIGITS: usize = 6;
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let step = match unit {
        b"m" | b"" | b"k" | b"M" | b"G" => 1000,
        b"Ki" | b"Mi" | b"Gi" => 1024,
        _ => return false,
    };
    let value = number.iter().fold(0_u32, |value, digit| {
        value.wrapping_mul(10).wrapping_add(u32::from(digit.wrapping_sub(b'0')))
    });
    (1..=DIGITS).contains(&digits) && number.first() != Some(&b'0') && !value.is_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::is_plainly_rounded;
    use crate::wire::quantity::rounded_to_milli;

    #[test]
    fn quantities_that_are_plain_are_left_by_rounding() {
        let mut plain = 0;
        for unit in [
            "n", "u", "m", "", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "i", "e3", ".5",
        ] {
            for number in (0..3000).chain([9_999, 10_000, 102_400, 999_999, 1_000_000, 1_048_576, 1_048_577]) {
                for text in [
                    format!("{number}{unit}"),
                    format!("0{number}{unit}"),
                    format!("-{number}{unit}"),
                ] {
                    if is_plainly_rounded(text.as_bytes()) {
                        assert!(matches!(rounded_to_milli(&text), Ok(None)), "{text}");
                        plain += 1;
                    }
                }
            }
        }
        assert!(plain > 10_000, "{plain}");
    }
}
