//! Rows as text, with gaps where durations go: written once for an object, filled in for each reader.

use std::sync::Arc;

use apiserver_storage_api::json::{write_string, write_value};
use bytes::{BufMut, Bytes};
use jiff::Timestamp;
use serde_json::Value;

use super::{Cell, human_duration};

/// The JSON of a row but for the durations in its cells. Cloning shares it.
#[derive(Debug, Clone)]
pub struct WrittenRow {
    text: Bytes,
    gaps: Arc<[Gap]>,
}

/// Where a duration goes.
#[derive(Debug, Clone, Copy)]
struct Gap {
    /// How much of the text comes before it.
    offset: usize,
    /// The time that it counts from, in seconds since 1970.
    at: i64,
}

/// A piece of a [`WrittenRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text that is always the same.
    Text(Bytes),
    /// The duration since a time in seconds since 1970, see [`write_age`].
    Age(i64),
}

impl WrittenRow {
    /// The row of these cells, with `object` as its object; the text is that of [`row`](super::row) with sorted keys.
    #[must_use]
    pub fn new(cells: &[Cell], object: &Value) -> Self {
        let mut text = Vec::with_capacity(512);
        let mut gaps = Vec::new();
        text.extend_from_slice(b"{\"cells\":[");
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            match cell {
                Cell::Fixed(value) => write_value(value, &mut text),
                Cell::Since { before, at, after } => {
                    write_string(before, &mut text);
                    // The text goes on behind the gap.
                    text.pop();
                    gaps.push(Gap {
                        offset: text.len(),
                        at: *at,
                    });
                    let quote = text.len();
                    write_string(after, &mut text);
                    text.remove(quote);
                }
            }
        }
        text.extend_from_slice(b"],\"object\":");
        write_value(object, &mut text);
        text.push(b'}');
        text.shrink_to_fit();
        Self {
            text: text.into(),
            gaps: gaps.into(),
        }
    }

    /// Writes the row as it is shown at a time.
    pub fn write(&self, now: Timestamp, out: &mut impl BufMut) {
        let mut written = 0;
        for gap in &*self.gaps {
            out.put_slice(&self.text[written..gap.offset]);
            write_age(gap.at, now, out);
            written = gap.offset;
        }
        out.put_slice(&self.text[written..]);
    }

    /// The pieces of the row in their order.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let starts = std::iter::once(0).chain(self.gaps.iter().map(|gap| gap.offset));
        let ends = self.gaps.iter().map(|gap| gap.offset).chain([self.text.len()]);
        let ages = self.gaps.iter().map(|gap| Some(Part::Age(gap.at))).chain([None]);
        starts
            .zip(ends)
            .zip(ages)
            .flat_map(|((start, end), age)| std::iter::once(Part::Text(self.text.slice(start..end))).chain(age))
    }

    /// Bytes of the text, durations apart.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    /// Bytes of memory.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.gaps.len() * size_of::<Gap>()
    }
}

/// Writes the duration since a time (in seconds since 1970), as it stands inside of a JSON string.
pub fn write_age(at: i64, now: Timestamp, out: &mut impl BufMut) {
    let duration = human_duration(now.as_second() - at);
    if duration.starts_with('<') {
        let mut quoted = Vec::with_capacity(24);
        write_string(&duration, &mut quoted);
        out.put_slice(
            quoted
                .strip_prefix(b"\"")
                .and_then(|text| text.strip_suffix(b"\""))
                .unwrap_or_default(),
        );
    } else {
        out.put_slice(duration.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::row;
    use super::*;
    use crate::table::IncludeObject;

    // covers: apiserver-http/TABH-04
    #[test]
    fn a_written_row_is_the_row_at_any_time() {
        let since = |before: &str, at, after| Cell::Since {
            before: before.to_owned(),
            at,
            after,
        };
        let object = json!({"z": "<&>", "a": [1, 2.50, null]});
        for cells in [
            vec![],
            vec![Cell::from("a \"b\" <c>"), Cell::NULL, Cell::from(7_i64)],
            vec![since("", 100, "")],
            vec![
                since("", 100, ""),
                Cell::from("x"),
                since("3 (\"", 5_000, " <ago>)"),
                since("", -9, ""),
            ],
        ] {
            let written = WrittenRow::new(&cells, &object);
            for now in [0, 99, 100, 219, 5_000, 1_000_000_000] {
                let now = Timestamp::from_second(now).expect("a time");
                let values = cells.iter().map(|cell| cell.at(now)).collect();
                let mut want = Vec::new();
                write_value(&row(values, &object, IncludeObject::Object, "v1"), &mut want);
                let mut got = Vec::new();
                written.write(now, &mut got);
                assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&want));
                let mut joined = Vec::new();
                for part in written.parts() {
                    match part {
                        Part::Text(text) => joined.extend_from_slice(&text),
                        Part::Age(at) => write_age(at, now, &mut joined),
                    }
                }
                assert_eq!(joined, got);
            }
        }
    }
}
