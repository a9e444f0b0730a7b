//! `cargo xtask tidy`: small rules that no other tool checks.
//!
//! Every Rust file begins with a module doc; what is left to do carries an issue number; the architecture map names every
//! crate; no path of somebody's machine stands in the tree; links in the documentation lead somewhere. Also a test, so that
//! `cargo test` finds it.

use std::path::Path;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// Text that has no place in a source file, and why. Written in two halves, so that this file does not contain it.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("tod", "o!(", "unfinished code"),
    ("unimple", "mented!(", "unfinished code"),
    ("#[igno", "re", "a test that does not run"),
    ("```igno", "re", "an example that does not run"),
    ("should_", "panic", "says too little; check the error"),
    ("db", "g!(", "left from debugging"),
];

/// Folders of somebody's machine.
const MACHINE_PATHS: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ho", "me/"),
    ("/Use", "rs/"),
    ("/ro", "ot/"),
    ("/tmp/tar", "get"),
];

/// `cargo xtask tidy`
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in workspace.files()? {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let relative = workspace.relative(&path);
        let found = match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => check_rust(&text),
            Some("md") => check_links(&text, path.parent().unwrap_or(Path::new(""))),
            Some("toml" | "yml" | "yaml" | "sh") => Vec::new(),
            _ => continue,
        };
        count += 1;
        let found = found.into_iter().chain(check_any(&text));
        wrong.extend(found.map(|(line, reason)| format!("{}:{line}: {reason}", relative.display())));
    }
    wrong.extend(check_map(workspace)?);
    if wrong.is_empty() {
        println!("tidy: {count} files");
        return Ok(());
    }
    for line in &wrong {
        println!("tidy: {line}");
    }
    bail!("{} untidy places", wrong.len())
}

/// Line number and what is wrong there.
type Finding = (usize, String);

fn check_rust(text: &str) -> Vec<Finding> {
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push((1, "the file does not begin with a module doc".into()));
    }
    for (number, line) in numbered(text) {
        for (first, second, reason) in FORBIDDEN {
            if line.contains(&[*first, *second].concat()) {
                wrong.push((number, format!("{first}{second}: {reason}")));
            }
        }
    }
    wrong
}

fn check_any(text: &str) -> Vec<Finding> {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let mut wrong = Vec::new();
    for (number, line) in numbered(text) {
        for mark in &marks {
            if line
                .match_indices(mark.as_str())
                .any(|(at, _)| is_word(line, at, mark.len()) && !has_issue(&line[at..]))
            {
                wrong.push((number, format!("{mark} without an issue number, such as {mark}(#12)")));
            }
        }
        for (first, second) in MACHINE_PATHS {
            if line.contains(&[*first, *second].concat()) {
                wrong.push((number, format!("a path of one machine: {first}{second}")));
            }
        }
    }
    wrong
}

fn is_word(line: &str, at: usize, length: usize) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    !line[..at].ends_with(part_of_word) && !line[at + length..].starts_with(part_of_word)
}

fn has_issue(rest: &str) -> bool {
    rest.split_once('#')
        .is_some_and(|(_, number)| number.starts_with(|c: char| c.is_ascii_digit()))
}

/// Relative links must lead to a file.
fn check_links(text: &str, folder: &Path) -> Vec<Finding> {
    let mut wrong = Vec::new();
    let mut in_code = false;
    for (number, line) in numbered(text) {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for link in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(link, _)| link)
        {
            let file = link.split('#').next().unwrap_or_default();
            let elsewhere =
                file.is_empty() || file.contains("://") || file.starts_with("mailto:") || file.contains(' ');
            if !elsewhere && !folder.join(file).exists() {
                wrong.push((number, format!("the link leads nowhere: {link}")));
            }
        }
    }
    wrong
}

fn check_map(workspace: &Workspace) -> Result<Vec<String>> {
    let map = std::fs::read_to_string(workspace.root().join("docs/architecture.md")).unwrap_or_default();
    let missing = |(_, folder): &(String, std::path::PathBuf)| {
        let name = folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        (!map.contains(&format!("`{name}`"))).then(|| format!("docs/architecture.md does not name `{name}`"))
    };
    Ok(workspace
        .packages()?
        .into_iter()
        .filter_map(|package| missing(&package))
        .collect())
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        let workspace = Workspace::find().expect("cargo knows the workspace");
        run(&workspace).expect("see the lines above");
    }

    #[test]
    fn each_rule_finds_its_case() {
        let join = |parts: &[&str]| parts.concat();
        let table = [
            ("use std::fmt;\n".to_owned(), 1),
            ("//! Doc.\nfn f() {}\n".to_owned(), 0),
            (join(&["//! Doc.\nfn f() { tod", "o!() }\n"]), 1),
            (join(&["//! Doc.\n// TO", "DO: later\n"]), 1),
            (join(&["//! Doc.\n// TO", "DO(#12): later\n"]), 0),
            (join(&["//! Doc.\n// TO", "DOS is an old system\n"]), 0),
            (join(&["//! Doc.\nconst P: &str = \"/ho", "me/me/x\";\n"]), 1),
        ];
        for (text, want) in table {
            let found = check_rust(&text).len() + check_any(&text).len();
            assert_eq!(found, want, "{text}");
        }
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "[a](src/main.rs#x) [b](https://x.example/y) [c](missing.md)\n```\n[d](missing.md)\n```\n";
        assert_eq!(
            check_links(text, here),
            [(1, "the link leads nowhere: missing.md".to_owned())]
        );
    }
}
