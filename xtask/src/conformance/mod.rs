//! `cargo xtask conformance`: every behaviour ID that the documentation claims has a test, and that test ran.
//!
//! Tests say what they show in a comment directly above them, `// covers: storage-api/GET-04, storage-api/GET-05`; code that
//! does something else than the catalogue says so, and why, in a comment `// deviates: storage-api/UPD-10: the reason`.
//! Benchmarks carry `// measures: `, and lines that are no behaviour of this project get a `// concerns: ` with what follows
//! from them. The pages in `docs/conformance/` are generated from those comments with `--write`. The check fails where pages and sources
//! disagree, where a comment cannot be read or names an ID that no catalogue has, and, with the record of a test run at hand,
//! where a claimed test did not run or did not pass.

mod ids;
mod page;
mod remarks;
mod scan;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use self::ids::{Catalogue, Id};
use self::page::{Content, Page};
use self::remarks::Kind;
use self::scan::{Claim, Comments, How};
use crate::record::{self, Outcome, Record, Test};
use crate::workspace::Workspace;

/// The catalogues, in the order of the layers.
const CATALOGUES: [&str; 7] = [
    "storage-api",
    "storage-transform",
    "storage-etcd3",
    "storage-cacher",
    "storagebackend",
    "registry",
    "apiserver-http",
];

/// The package whose cases other packages turn into tests of their own.
const SUITE: &str = "apiserver-storage-testing";

/// Options of `cargo xtask conformance`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Writes the generated part of the pages anew instead of checking it.
    #[arg(long)]
    write: bool,
    /// Fails when there is no record of a test run to check against.
    #[arg(long)]
    require_run: bool,
}

impl Options {
    /// What `test` and `ci` ask for.
    pub(crate) fn after_a_run() -> Self {
        Self {
            write: false,
            require_run: true,
        }
    }
}

/// `cargo xtask conformance`
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut wrong = Vec::new();
    let folder = workspace.root().join("docs/conformance");
    let mut catalogues = BTreeMap::new();
    for name in CATALOGUES {
        let path = folder.join("ids").join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        catalogues.insert(
            name,
            Catalogue::parse(&text).with_context(|| path.display().to_string())?,
        );
    }
    let Comments { claims, remarks } = scan::comments(workspace, &mut wrong)?;
    for claim in &claims {
        wrong.extend(scan::unknown(&claim.file, claim.line, &claim.ids, &catalogues));
    }
    for remark in &remarks {
        wrong.extend(scan::unknown(&remark.file, remark.line, &remark.ids, &catalogues));
    }
    let mut table = Vec::new();
    for name in CATALOGUES {
        let catalogue = &catalogues[name];
        let content = Content {
            catalogue,
            shown: claimed(How::Covers, name, catalogue, &claims),
            measured: claimed(How::Measures, name, catalogue, &claims),
            deviations: remarks::table(Kind::Deviates, name, catalogue, &remarks),
            concerns: remarks::table(Kind::Concerns, name, catalogue, &remarks),
        };
        let path = folder.join(format!("{name}.md"));
        let old = std::fs::read_to_string(&path).unwrap_or_else(|_| Page::template(name));
        let page = Page::parse(&old).with_context(|| path.display().to_string())?;
        let new = page.render(&content);
        if options.write && (new != old || !path.exists()) {
            std::fs::write(&path, &new).with_context(|| format!("cannot write {}", path.display()))?;
        } else if new != old || !path.exists() {
            wrong.push(format!(
                "docs/conformance/{name}.md is out of date: run `cargo xtask conformance --write`"
            ));
        }
        table.push((name, content.counts()));
    }
    wrong.extend(check_run(workspace, &claims, options.require_run)?);
    print_counts(&table);
    if wrong.is_empty() {
        return Ok(());
    }
    for line in &wrong {
        println!("conformance: {line}");
    }
    bail!("{} conformance findings", wrong.len())
}

/// The IDs of one catalogue that tests show or benchmarks measure, each with their places.
fn claimed(how: How, name: &str, catalogue: &Catalogue, claims: &[Claim]) -> BTreeMap<Id, BTreeSet<String>> {
    let mut claimed: BTreeMap<Id, BTreeSet<String>> = BTreeMap::new();
    for claim in claims.iter().filter(|claim| claim.how == how) {
        let of_it = |(other, id): &&(String, Id)| other == name && catalogue.contains(id);
        for (_, id) in claim.ids.iter().filter(of_it) {
            claimed.entry(id.clone()).or_default().insert(claim.place());
        }
    }
    claimed
}

fn print_counts(table: &[(&str, [usize; 6])]) {
    let print = |name: &str, [ids, shown, measured, deviations, concerns, open]: [usize; 6]| {
        println!("{name:<18} {ids:>5} {shown:>6} {measured:>9} {deviations:>11} {concerns:>9} {open:>5}");
    };
    println!(
        "{:<18} {:>5} {:>6} {:>9} {:>11} {:>9} {:>5}",
        "catalogue", "IDs", "shown", "measured", "deviations", "concerns", "open"
    );
    let mut sum = [0; 6];
    for (name, counts) in table {
        print(name, *counts);
        for (sum, count) in sum.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    print("all", sum);
}

/// Checks the claims against the record of a run.
fn check_run(workspace: &Workspace, claims: &[Claim], required: bool) -> Result<Vec<String>> {
    let Some(record) = record::read(workspace)? else {
        if required {
            return Ok(vec!["no record of a test run: run `cargo xtask test`".into()]);
        }
        println!("no test run on record: only the claims were checked, not that their tests ran");
        return Ok(Vec::new());
    };
    let mut wrong = Vec::new();
    let mut newer = 0;
    // Benchmarks are compiled with the tests, and run on their own.
    for claim in claims.iter().filter(|claim| claim.how == How::Covers) {
        if !required && claim.modified > record.written {
            newer += 1;
        } else {
            wrong.extend(judge(claim, &record));
        }
    }
    if newer > 0 {
        println!("{newer} claims are in files changed since the test run on record: not checked that their tests ran");
    }
    Ok(wrong)
}

/// What is wrong with a claim, given what ran.
fn judge(claim: &Claim, record: &Record) -> Option<String> {
    let is_its_test = |test: &&Test| {
        let name = test.name.rsplit("::").next().unwrap_or_default();
        name == claim.name && (test.package == claim.package || claim.package == SUITE)
    };
    let outcomes: Vec<_> = record
        .tests
        .iter()
        .filter(is_its_test)
        .map(|test| test.outcome)
        .collect();
    let place = claim.place();
    match (outcomes.contains(&Outcome::Failed), outcomes.contains(&Outcome::Ok)) {
        (true, _) => Some(format!("{place} claims IDs, but failed")),
        (false, true) => None,
        (false, false) => Some(format!("{place} claims IDs, but no such test ran")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn claim(package: &str, name: &str) -> Claim {
        Claim {
            how: How::Covers,
            ids: Vec::new(),
            package: package.into(),
            file: "x.rs".into(),
            line: 1,
            name: name.into(),
            modified: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_claim_needs_a_test_that_ran_and_passed() {
        let test = |package: &str, name: &str, outcome| Test {
            package: package.into(),
            target: "t".into(),
            name: name.into(),
            outcome,
        };
        let record = Record {
            tests: vec![
                test("a", "tests::passes", Outcome::Ok),
                test("a", "tests::fails", Outcome::Failed),
                test("a", "tests::sleeps", Outcome::Ignored),
                test("a", "embedded::suite_case", Outcome::Ok),
                test("b", "etcd::half_case", Outcome::Ok),
                test("b", "etcd::cached::half_case", Outcome::Failed),
            ],
            written: SystemTime::UNIX_EPOCH,
        };
        for (package, name, good) in [
            ("a", "passes", true),
            ("b", "passes", false),
            ("a", "fails", false),
            ("a", "sleeps", false),
            ("a", "missing", false),
            (SUITE, "suite_case", true),
            (SUITE, "half_case", false),
            (SUITE, "case", false),
        ] {
            assert_eq!(
                judge(&claim(package, name), &record).is_none(),
                good,
                "{package} {name}"
            );
        }
    }
}
