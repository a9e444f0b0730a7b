//! Behaviour IDs, and the list of those that a catalogue has.
//!
//! A list has one line for each group of IDs: `GET: 01-11 13`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};

/// An ID within its catalogue: `GET-04` is group `GET`, number 4.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    group: String,
    number: u32,
}

impl Id {
    /// Reads `GET-04` or `R-STO-01`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (group, number) = text.rsplit_once('-')?;
        let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-';
        let good = group.starts_with(|c: char| c.is_ascii_uppercase()) && group.chars().all(upper);
        let digits = number.len() >= 2 && number.chars().all(|c| c.is_ascii_digit());
        (good && digits).then_some(Self {
            group: group.into(),
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:02}", self.group, self.number)
    }
}

/// The IDs of a catalogue, groups in the catalogue's order.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    groups: Vec<String>,
    numbers: BTreeMap<String, BTreeSet<u32>>,
}

impl Catalogue {
    /// Reads a list.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut catalogue = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (group, ranges) = line.split_once(':').with_context(|| format!("no group in {line:?}"))?;
            let mut numbers = BTreeSet::new();
            for range in ranges.split_whitespace() {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let number = |text: &str| text.parse::<u32>().with_context(|| format!("no number: {text:?}"));
                numbers.extend(number(first)?..=number(last)?);
            }
            catalogue.groups.push(group.into());
            catalogue.numbers.insert(group.into(), numbers);
        }
        Ok(catalogue)
    }

    /// Whether the catalogue has this ID.
    pub(super) fn contains(&self, id: &Id) -> bool {
        self.numbers
            .get(&id.group)
            .is_some_and(|numbers| numbers.contains(&id.number))
    }

    /// How many IDs there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.values().map(BTreeSet::len).sum()
    }

    /// The place of an ID in the catalogue's order.
    pub(super) fn order(&self, id: &Id) -> (usize, u32) {
        (
            self.groups
                .iter()
                .position(|group| *group == id.group)
                .unwrap_or(usize::MAX),
            id.number,
        )
    }

    /// All IDs that are not among these, one line for each group, in the form of a list.
    pub(super) fn without(&self, seen: &BTreeSet<Id>) -> Vec<String> {
        let line = |group: &String| {
            let open = |number: &&u32| {
                !seen.contains(&Id {
                    group: group.clone(),
                    number: **number,
                })
            };
            let numbers: Vec<u32> = self.numbers[group].iter().filter(open).copied().collect();
            (!numbers.is_empty()).then(|| format!("{group}: {}", ranges(&numbers)))
        };
        self.groups.iter().filter_map(line).collect()
    }
}

/// Ascending numbers as ranges: `01-04 06`.
fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text = |&(first, last): &(u32, u32)| {
        if first == last {
            format!("{first:02}")
        } else {
            format!("{first:02}-{last:02}")
        }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_are_ids() {
        for (text, want) in [
            ("GET-04", Some("GET-04")),
            ("R-STO-01", Some("R-STO-01")),
            ("GET-4", None),
            ("get-04", None),
            ("GET", None),
            ("GET-04 and more", None),
        ] {
            assert_eq!(Id::parse(text).map(|id| id.to_string()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_list_is_read_and_what_is_left_is_written_the_same_way() {
        let catalogue = Catalogue::parse("GET: 01-04 06\nA-B: 01\n").expect("a good list");
        assert_eq!(catalogue.len(), 6);
        let id = |text: &str| Id::parse(text).expect("an ID");
        assert!(catalogue.contains(&id("GET-06")) && !catalogue.contains(&id("GET-05")));
        assert!(catalogue.order(&id("GET-06")) < catalogue.order(&id("A-B-01")));
        let seen = BTreeSet::from([id("GET-02"), id("A-B-01")]);
        assert_eq!(catalogue.without(&seen), ["GET: 01 03-04 06"]);
        assert!(Catalogue::parse("GET 01\n").is_err());
    }
}
