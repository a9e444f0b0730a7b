//! Reads the comments of all sources, and finds what tests claim to show and benchmarks to measure: `// covers: ` and
//! `// measures: ` comments directly above a function, or above an entry of a case macro.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;

use super::ids::{Catalogue, Id};
use super::remarks::{self, Remark};
use crate::workspace::Workspace;

/// How an ID is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// A test shows it.
    Covers,
    /// A benchmark measures it.
    Measures,
}

impl How {
    /// The comment's keyword, and what follows it.
    fn read(comment: &str) -> Option<(Self, &str)> {
        let of = |keyword| comment.strip_prefix(keyword);
        of("covers: ")
            .map(|list| (Self::Covers, list))
            .or_else(|| of("measures: ").map(|list| (Self::Measures, list)))
    }
}

/// A test, case or benchmark, and the IDs that it claims.
#[derive(Debug)]
pub(super) struct Claim {
    /// What it claims of them.
    pub(super) how: How,
    /// Catalogue and ID.
    pub(super) ids: Vec<(String, Id)>,
    /// The package of the source file.
    pub(super) package: String,
    /// The file, relative to the root.
    pub(super) file: PathBuf,
    /// The line of the comment.
    pub(super) line: usize,
    /// The function.
    pub(super) name: String,
    /// When the file changed last.
    pub(super) modified: SystemTime,
}

impl Claim {
    /// Where the test is, as the pages write it: `registry/src/store.rs::creates`.
    pub(super) fn place(&self) -> String {
        let file = self.file.strip_prefix("crates").unwrap_or(&self.file);
        format!("{}::{}", file.display(), self.name)
    }
}

/// IDs of a comment that no catalogue has, as findings.
pub(super) fn unknown(
    file: &Path,
    line: usize,
    ids: &[(String, Id)],
    catalogues: &BTreeMap<&str, Catalogue>,
) -> Vec<String> {
    let is_unknown = |(name, id): &&(String, Id)| {
        !catalogues
            .get(name.as_str())
            .is_some_and(|catalogue| catalogue.contains(id))
    };
    let message =
        |(name, id): &(String, Id)| format!("{}:{line}: no such ID in the catalogues: {name}/{id}", file.display());
    ids.iter().filter(is_unknown).map(message).collect()
}

/// What the comments of all sources say.
#[derive(Debug, Default)]
pub(super) struct Comments {
    /// What tests show and benchmarks measure.
    pub(super) claims: Vec<Claim>,
    /// What is said about lines beside that.
    pub(super) remarks: Vec<Remark>,
}

/// All comments of the workspace. What looks like one of ours and is none is added to `wrong`.
pub(super) fn comments(workspace: &Workspace, wrong: &mut Vec<String>) -> Result<Comments> {
    let packages = workspace.packages()?;
    let mut comments = Comments::default();
    for path in workspace.files()? {
        let file = workspace.relative(&path);
        let package = packages
            .iter()
            .find(|(_, folder)| file.starts_with(folder))
            .map(|(name, _)| name);
        let (Some(package), true) = (package, path.extension().is_some_and(|extension| extension == "rs")) else {
            continue;
        };
        let file = PathBuf::from(file);
        let modified = path.metadata()?.modified()?;
        let text = std::fs::read_to_string(&path)?;
        let mut complain = |line: usize, reason: String| wrong.push(format!("{}:{line}: {reason}", file.display()));
        for found in scan(&text) {
            match found {
                Ok(Item { line, how, name, ids }) => comments.claims.push(Claim {
                    how,
                    ids,
                    package: package.clone(),
                    file: file.clone(),
                    line,
                    name,
                    modified,
                }),
                Err((line, reason)) => complain(line, reason),
            }
        }
        for found in remarks::scan(&text) {
            match found {
                Ok((line, kind, ids, reason)) => comments.remarks.push(Remark {
                    kind,
                    ids,
                    reason,
                    file: file.clone(),
                    line,
                }),
                Err((line, reason)) => complain(line, reason),
            }
        }
    }
    Ok(comments)
}

/// What a comment belongs to.
struct Item {
    line: usize,
    how: How,
    name: String,
    ids: Vec<(String, Id)>,
}

type Found = Result<Item, (usize, String)>;

fn scan(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    // One for each keyword, in the order of their lines.
    let mut pending: Vec<Item> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        let comment = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//"))
            .map(str::trim_start);
        if let Some((how, list)) = comment.and_then(How::read) {
            match full_ids(list) {
                Ok(ids) => match pending.iter_mut().find(|item| item.how == how) {
                    Some(item) => item.ids.extend(ids),
                    None => pending.push(Item {
                        line: number,
                        how,
                        name: String::new(),
                        ids,
                    }),
                },
                Err(word) => found.push(Err((
                    number,
                    format!("not a full ID such as storage-api/GET-04: {word:?}"),
                ))),
            }
        } else if comment.is_some() || line.starts_with("#[") || line.is_empty() {
            // Attributes and other comments may stand between.
        } else {
            found.extend(pending.drain(..).map(|claim| match item(line) {
                Some(name) => Ok(Item {
                    name: name.to_owned(),
                    ..claim
                }),
                None => Err((claim.line, "what follows the IDs is no function and no case".into())),
            }));
        }
    }
    let nothing = |claim: Item| Err((claim.line, "nothing follows the IDs".into()));
    found.extend(pending.into_iter().map(nothing));
    found
}

/// Reads `storage-api/GET-04, storage-api/GET-05`; the error is the word that is no full ID.
pub(super) fn full_ids(list: &str) -> Result<Vec<(String, Id)>, String> {
    let parse = |word: &str| {
        let (catalogue, id) = word.split_once('/')?;
        Some((catalogue.to_owned(), Id::parse(id)?))
    };
    let words = list.trim().trim_end_matches(['.', ',']).split(',').map(str::trim);
    words.map(|word| parse(word).ok_or_else(|| word.to_owned())).collect()
}

/// The name that a line introduces: of a function, or of a case in a macro's list (`case_name,` or `case!(case_name, ..)`).
fn item(line: &str) -> Option<&str> {
    let word = |text: &'_ str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    if let Some(rest) = line
        .strip_prefix("fn ")
        .or_else(|| line.split_once(" fn ").map(|(_, rest)| rest))
    {
        return Some(&rest[..word(rest)]).filter(|name| !name.is_empty());
    }
    let rest = line.split_once("!(").map_or(line, |(_, rest)| rest);
    let (name, rest) = rest.split_at(word(rest));
    let is_case = name.len() > 3 && name.starts_with(|c: char| c.is_ascii_lowercase());
    let ends_well = rest.is_empty() || rest.trim_start().starts_with([',', ')', ':', '=', ';']);
    (is_case && ends_well && !["let", "async", "match"].contains(&name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<Result<(String, Vec<String>), usize>> {
        let simple = |found: Found| match found {
            Ok(Item { name, ids, .. }) => Ok((
                name,
                ids.iter().map(|(catalogue, id)| format!("{catalogue}/{id}")).collect(),
            )),
            Err((line, _)) => Err(line),
        };
        scan(text).into_iter().map(simple).collect()
    }

    #[test]
    fn a_claim_belongs_to_the_function_or_case_below_it() {
        let text = "\
// COVERS storage-api/GET-04, storage-api/GET-05
#[test]
fn plain() {}

/// COVERS registry/R-STO-01
/// COVERS registry/R-STO-02
#[tokio::test(flavor = \"current_thread\")]
pub async fn generic<H: Harness>(h: &H) {}

cases! {
    // COVERS storage-api/LIST-01
    list_is_sorted,
    // COVERS storage-api/LIST-02
    case!(list_is_paged, H);
}
"
        .replace("COVERS", "covers:");
        let owned = |name: &str, ids: &[&str]| Ok((name.to_owned(), ids.iter().map(|id| (*id).to_owned()).collect()));
        assert_eq!(
            check(&text),
            [
                owned("plain", &["storage-api/GET-04", "storage-api/GET-05"]),
                owned("generic", &["registry/R-STO-01", "registry/R-STO-02"]),
                owned("list_is_sorted", &["storage-api/LIST-01"]),
                owned("list_is_paged", &["storage-api/LIST-02"]),
            ]
        );
    }

    #[test]
    fn a_benchmark_measures_and_may_show_something_too() {
        let text = "\
// MEASURES storage-api/BENCH-01
// COVERS storage-api/GET-04
// MEASURES storage-api/BENCH-02
fn lists(c: &mut Criterion) {}
"
        .replace("COVERS", "covers:")
        .replace("MEASURES", "measures:");
        let found: Vec<_> = scan(&text).into_iter().flatten().collect();
        let simple: Vec<_> = found
            .iter()
            .map(|item| (item.line, item.how, item.name.as_str(), item.ids.len()))
            .collect();
        assert_eq!(simple, [(1, How::Measures, "lists", 2), (2, How::Covers, "lists", 1)]);
    }

    #[test]
    fn what_only_looks_like_a_claim_is_named() {
        for text in [
            "// COVERS GET-04\nfn f() {}\n",
            "// COVERS storage-api/GET-4\nfn f() {}\n",
            "// COVERS storage-api/GET-04\nlet row = 1;\n",
            "// COVERS storage-api/GET-04\n(\"row\", 1),\n",
            "// COVERS storage-api/GET-04\n",
        ] {
            let text = text.replace("COVERS", "covers:");
            assert_eq!(check(&text), [Err(1)], "{text}");
        }
    }
    #[test]
    fn an_id_that_no_catalogue_has_is_named_with_file_and_line() {
        let catalogue = Catalogue::parse("GET: 01-04\n").expect("a good list");
        let catalogues = BTreeMap::from([("storage-api", catalogue)]);
        let ids = full_ids("storage-api/GET-04, storage-api/GET-05, registry/GET-01").expect("full IDs");
        assert_eq!(
            unknown(Path::new("crates/a/src/b.rs"), 7, &ids, &catalogues),
            [
                "crates/a/src/b.rs:7: no such ID in the catalogues: storage-api/GET-05",
                "crates/a/src/b.rs:7: no such ID in the catalogues: registry/GET-01",
            ]
        );
    }
}
