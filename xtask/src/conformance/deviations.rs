//! Finds where the sources do something else than a catalogue says: `// deviates: storage-api/UPD-10: the reason` comments.
//!
//! The reason goes on in the `//` lines below. `(also UPD-11, UPD-12)` in it names more IDs of the first one's catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::ids::{Catalogue, Id};
use super::scan::full_ids;

const KEYWORD: &str = "deviates:";
const ALSO: &str = "(also ";

/// What one comment says.
#[derive(Debug)]
pub(super) struct Deviation {
    /// Catalogue and ID.
    pub(super) ids: Vec<(String, Id)>,
    /// Why, in one line.
    pub(super) reason: String,
    /// The file, relative to the root.
    pub(super) file: PathBuf,
    /// The line where the comment begins.
    pub(super) line: usize,
}

impl Deviation {
    /// Where it is, as the pages write it. Without the line, which every edit of the file would move.
    fn place(&self) -> String {
        self.file
            .strip_prefix("crates")
            .unwrap_or(&self.file)
            .display()
            .to_string()
    }
}

/// The deviations from one catalogue: for each ID its reasons, each with the files that give it.
pub(super) type Table = BTreeMap<Id, BTreeMap<String, BTreeSet<String>>>;

/// What the comments say about one catalogue. IDs that it does not have are left out.
pub(super) fn table(name: &str, catalogue: &Catalogue, deviations: &[Deviation]) -> Table {
    let mut table = Table::new();
    for deviation in deviations {
        let of_it = |(other, id): &&(String, Id)| other == name && catalogue.contains(id);
        for (_, id) in deviation.ids.iter().filter(of_it) {
            let reasons = table.entry(id.clone()).or_default();
            reasons
                .entry(deviation.reason.clone())
                .or_default()
                .insert(deviation.place());
        }
    }
    table
}

/// A comment: its line, its IDs and its reason. Or the line and what is wrong with it.
pub(super) type Found = Result<(usize, Vec<(String, Id)>, String), (usize, String)>;

/// All comments of one source text.
pub(super) fn scan(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim).enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let number = index + 1;
        if !line.starts_with("//") {
            if line.contains(&format!("// {KEYWORD}")) {
                found.push(Err((number, format!("`{KEYWORD}` needs a line of its own"))));
            }
            continue;
        }
        let Some(first) = after_keyword(line.trim_start_matches(['/', '!'])) else {
            continue;
        };
        if plain(line).is_none() {
            let problem = format!("`{KEYWORD}` belongs into an ordinary comment, which begins with two slashes");
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
            Ok((ids, reason)) => Ok((number, ids, reason)),
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

/// What follows the keyword at the beginning of a comment, however it is capitalised.
fn after_keyword(comment: &str) -> Option<&str> {
    let comment = comment.trim_start();
    let (keyword, rest) = comment.split_at_checked(KEYWORD.len())?;
    keyword.eq_ignore_ascii_case(KEYWORD).then(|| rest.trim())
}

/// Whether a comment line belongs to the deviation above it.
fn goes_on(comment: &str) -> bool {
    !comment.is_empty() && !comment.starts_with("covers:") && after_keyword(comment).is_none()
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
            Ok((line, ids, reason)) => {
                let ids: Vec<_> = ids.iter().map(|(catalogue, id)| format!("{catalogue}/{id}")).collect();
                Ok((line, ids.join(" "), reason))
            }
            Err((line, _)) => Err(line),
        };
        scan(&text.replace("DEVIATES", KEYWORD))
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
        let deviation = |ids: &[(&str, &str)], reason: &str, file: &str| Deviation {
            ids: ids
                .iter()
                .map(|(catalogue, text)| ((*catalogue).to_owned(), id(text)))
                .collect(),
            reason: reason.into(),
            file: file.into(),
            line: 1,
        };
        let deviations = [
            deviation(
                &[("a", "GET-01"), ("a", "GET-02"), ("b", "GET-03")],
                "x",
                "crates/p/q.rs",
            ),
            deviation(&[("a", "GET-01"), ("a", "GET-09")], "x", "crates/p/r.rs"),
            deviation(&[("a", "GET-01")], "y", "xtask/s.rs"),
        ];
        let files = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(
            table("a", &catalogue, &deviations),
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
