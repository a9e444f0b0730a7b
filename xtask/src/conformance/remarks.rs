//! Finds what the sources say about lines of a catalogue: where they do something else, as in
//! `// deviates: storage-api/UPD-10: the reason`, and what they make of a line that is no behaviour of this project (a fact
//! about etcd, a figure of upstream's), as in `// concerns: storage-etcd3/ETCD-07: what follows from it`.
//!
//! The text goes on in the `//` lines below. `(also UPD-11, UPD-12)` in it names more IDs of the first one's catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::ids::{Catalogue, Id};
use super::scan::full_ids;

const ALSO: &str = "(also ";

/// What a comment is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// We do something else, on purpose.
    Deviates,
    /// The line states no behaviour that this project could have.
    Concerns,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Deviates, Self::Concerns];

    fn keyword(self) -> &'static str {
        match self {
            Self::Deviates => "deviates:",
            Self::Concerns => "concerns:",
        }
    }
}

/// What one comment says.
#[derive(Debug)]
pub(super) struct Remark {
    /// What it is about.
    pub(super) kind: Kind,
    /// Catalogue and ID.
    pub(super) ids: Vec<(String, Id)>,
    /// Why, in one line.
    pub(super) reason: String,
    /// The file, relative to the root.
    pub(super) file: PathBuf,
    /// The line where the comment begins.
    pub(super) line: usize,
}

impl Remark {
    /// Where it is, as the pages write it. Without the line, which every edit of the file would move.
    fn place(&self) -> String {
        self.file
            .strip_prefix("crates")
            .unwrap_or(&self.file)
            .display()
            .to_string()
    }
}

/// The remarks of one kind on one catalogue: for each ID its reasons, each with the files that give it.
pub(super) type Table = BTreeMap<Id, BTreeMap<String, BTreeSet<String>>>;

/// What the comments of one kind say about one catalogue. IDs that it does not have are left out.
pub(super) fn table(kind: Kind, name: &str, catalogue: &Catalogue, remarks: &[Remark]) -> Table {
    let mut table = Table::new();
    for remark in remarks.iter().filter(|remark| remark.kind == kind) {
        let of_it = |(other, id): &&(String, Id)| other == name && catalogue.contains(id);
        for (_, id) in remark.ids.iter().filter(of_it) {
            let reasons = table.entry(id.clone()).or_default();
            reasons.entry(remark.reason.clone()).or_default().insert(remark.place());
        }
    }
    table
}

/// A comment: its line, its kind, its IDs and its reason. Or the line and what is wrong with it.
pub(super) type Found = Result<(usize, Kind, Vec<(String, Id)>, String), (usize, String)>;

/// All comments of one source text.
pub(super) fn scan(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim).enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let number = index + 1;
        if !line.starts_with("//") {
            let behind_code = |kind: &Kind| line.contains(&format!("// {}", kind.keyword()));
            if let Some(kind) = Kind::ALL.into_iter().find(behind_code) {
                found.push(Err((number, format!("`{}` needs a line of its own", kind.keyword()))));
            }
            continue;
        }
        let Some((kind, first)) = after_keyword(line.trim_start_matches(['/', '!'])) else {
            continue;
        };
        if plain(line).is_none() {
            let keyword = kind.keyword();
            let problem = format!("`{keyword}` belongs into an ordinary comment, which begins with two slashes");
            found.push(Err((number, problem)));
            continue;
        }
        let mut whole = first.to_owned();
        while let Some(more) = lines
            .peek()
            .and_then(|(_, line)| plain(line))
            .filter(|more| goes_on(more))
        {
            whole.push(' ');
            whole.push_str(more);
            lines.next();
        }
        found.push(match read(&whole) {
            Ok((ids, reason)) => Ok((number, kind, ids, reason)),
            Err(problem) => Err((number, problem)),
        });
    }
    found
}

/// The text of a comment that is no documentation.
fn plain(line: &str) -> Option<&str> {
    let text = line.strip_prefix("//")?;
    (!text.starts_with(['/', '!'])).then(|| text.trim())
}

/// What follows a keyword at the beginning of a comment, however it is capitalised.
fn after_keyword(comment: &str) -> Option<(Kind, &str)> {
    let comment = comment.trim_start();
    Kind::ALL.into_iter().find_map(|kind| {
        let (keyword, rest) = comment.split_at_checked(kind.keyword().len())?;
        keyword
            .eq_ignore_ascii_case(kind.keyword())
            .then(|| (kind, rest.trim()))
    })
}

/// Whether a comment line belongs to the remark above it.
fn goes_on(comment: &str) -> bool {
    let of_a_test = ["covers:", "measures:"]
        .iter()
        .any(|keyword| comment.starts_with(keyword));
    !comment.is_empty() && !of_a_test && after_keyword(comment).is_none()
}

/// Reads `storage-api/UPD-10, storage-api/UPD-11: the reason (also UPD-12)`.
fn read(text: &str) -> Result<(Vec<(String, Id)>, String), String> {
    let (list, reason) = text
        .split_once(": ")
        .ok_or_else(|| format!("no reason after the IDs: {text:?}"))?;
    let not_an_id = |word| format!("not a full ID such as storage-api/GET-04: {word:?}");
    let mut ids = full_ids(list).map_err(not_an_id)?;
    let mut reason = reason.trim().to_owned();
    while let Some((before, rest)) = reason.split_once(ALSO) {
        let (more, after) = rest
            .split_once(')')
            .ok_or_else(|| format!("no end of {ALSO:?} in {reason:?}"))?;
        let catalogue = ids[0].0.clone();
        for word in more.split(',').map(str::trim) {
            let id = Id::parse(word).ok_or_else(|| format!("not an ID such as GET-04 after {ALSO:?}: {word:?}"))?;
            ids.push((catalogue.clone(), id));
        }
        reason = format!("{}{after}", before.trim_end());
    }
    if reason.trim_matches(['.', ' ']).is_empty() {
        return Err("no reason after the IDs".into());
    }
    Ok((ids, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<Result<(usize, String, String), usize>> {
        let simple = |found: Found| match found {
            Ok((line, kind, ids, reason)) => {
                assert_eq!(kind, Kind::Deviates);
                let ids: Vec<_> = ids.iter().map(|(catalogue, id)| format!("{catalogue}/{id}")).collect();
                Ok((line, ids.join(" "), reason))
            }
            Err((line, _)) => Err(line),
        };
        scan(&text.replace("DEVIATES", Kind::Deviates.keyword()))
            .into_iter()
            .map(simple)
            .collect()
    }

    #[test]
    fn a_comment_gives_its_ids_and_its_reason() {
        let text = "\
//! Module.
//
// DEVIATES storage-api/UPD-10: pauses: better than
//   haste.
// DEVIATES storage-api/DEL-20, registry/R-STO-01: one line.
// COVERS storage-api/GET-04
fn f() {
    // DEVIATES storage-api/UPD-01,
    // storage-api/UPD-02: two lines
    /// Documentation.
    fn g() {}
    // DEVIATES storage-api/UPD-03: a paragraph
    //
    // and another that has nothing to do with it
}
"
        .replace("COVERS", "covers:");
        let good = |line, ids: &str, reason: &str| Ok((line, ids.to_owned(), reason.to_owned()));
        assert_eq!(
            check(&text),
            [
                good(3, "storage-api/UPD-10", "pauses: better than haste."),
                good(5, "storage-api/DEL-20 registry/R-STO-01", "one line."),
                good(8, "storage-api/UPD-01 storage-api/UPD-02", "two lines"),
                good(12, "storage-api/UPD-03", "a paragraph"),
            ]
        );
    }

    #[test]
    fn also_names_more_ids_of_the_same_catalogue() {
        let text = "\
// DEVIATES registry/R-STO-01: at the end (also R-STO-02, R-CMP-03).
// DEVIATES storage-api/UPD-10: within (also UPD-11,
//   DEL-01), and on.
";
        let good = |line, ids: &str, reason: &str| Ok((line, ids.to_owned(), reason.to_owned()));
        assert_eq!(
            check(text),
            [
                good(
                    1,
                    "registry/R-STO-01 registry/R-STO-02 registry/R-CMP-03",
                    "at the end."
                ),
                good(
                    2,
                    "storage-api/UPD-10 storage-api/UPD-11 storage-api/DEL-01",
                    "within, and on."
                ),
            ]
        );
    }

    #[test]
    fn the_kinds_are_told_apart_and_end_each_other() {
        let text = "\
// DEVIATES storage-api/UPD-10: one
// CONCERNS storage-etcd3/ETCD-07: two
//   lines (also ETCD-08).
// MEASURES storage-api/BENCH-01
fn f() {}
"
        .replace("DEVIATES", "deviates:")
        .replace("CONCERNS", "concerns:")
        .replace("MEASURES", "measures:");
        let found: Vec<_> = scan(&text).into_iter().map(|found| found.expect("good")).collect();
        let simple: Vec<_> = found
            .iter()
            .map(|(line, kind, ids, reason)| (*line, *kind, ids.len(), reason.as_str()))
            .collect();
        assert_eq!(
            simple,
            [(1, Kind::Deviates, 1, "one"), (2, Kind::Concerns, 2, "two lines.")]
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for text in [
            "// DEVIATES UPD-10: no catalogue\n",
            "// DEVIATES storage-api/UPD-1: no ID\n",
            "// DEVIATES storage-api/UPD-10\n",
            "// DEVIATES storage-api/UPD-10:\n",
            "// DEVIATES storage-api/UPD-10: (also UPD-11).\n",
            "// DEVIATES storage-api/UPD-10: no end (also UPD-11\n",
            "// DEVIATES storage-api/UPD-10: something else (also sometimes)\n",
            "// DEVIATES because\n",
            "//DEVIATES\n",
            "/// DEVIATES storage-api/UPD-10: documentation\n",
            "//! DEVIATES storage-api/UPD-10: documentation\n",
            "f(); // DEVIATES storage-api/UPD-10: behind code\n",
        ] {
            assert_eq!(check(text), [Err(1)], "{text}");
        }
        assert_eq!(
            check("// Deviates: GET: capitals hide nothing\n// It deviates: prose\n"),
            [Err(1)]
        );
    }

    #[test]
    fn the_table_has_the_known_ids_of_its_catalogue_and_every_reason() {
        let catalogue = Catalogue::parse("GET: 01-04\n").expect("a good list");
        let id = |text: &str| Id::parse(text).expect("an ID");
        let remark = |kind, ids: &[(&str, &str)], reason: &str, file: &str| Remark {
            kind,
            ids: ids
                .iter()
                .map(|(catalogue, text)| ((*catalogue).to_owned(), id(text)))
                .collect(),
            reason: reason.into(),
            file: file.into(),
            line: 1,
        };
        let remarks = [
            remark(
                Kind::Deviates,
                &[("a", "GET-01"), ("a", "GET-02"), ("b", "GET-03")],
                "x",
                "crates/p/q.rs",
            ),
            remark(
                Kind::Deviates,
                &[("a", "GET-01"), ("a", "GET-09")],
                "x",
                "crates/p/r.rs",
            ),
            remark(Kind::Deviates, &[("a", "GET-01")], "y", "xtask/s.rs"),
            remark(Kind::Concerns, &[("a", "GET-04")], "z", "xtask/s.rs"),
        ];
        let files = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(
            table(Kind::Deviates, "a", &catalogue, &remarks),
            Table::from([
                (
                    id("GET-01"),
                    BTreeMap::from([
                        ("x".to_owned(), files(&["p/q.rs", "p/r.rs"])),
                        ("y".to_owned(), files(&["xtask/s.rs"])),
                    ])
                ),
                (id("GET-02"), BTreeMap::from([("x".to_owned(), files(&["p/q.rs"]))])),
            ])
        );
    }
}
