//! The table of rules has a text for each rule, and names the same tests as the comments of the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A rule and the test that shows it.
type Claim = (String, String);

/// The rules that the comments of this crate's tests name: every id above a function.
fn claimed(tests: &Path) -> BTreeSet<Claim> {
    let mut claims = BTreeSet::new();
    for entry in fs::read_dir(tests.join("api")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut rules = Vec::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some(comment) = line.strip_prefix("///") {
                rules.extend(
                    comment.split([' ', ',', ':', '.']).filter(|word| is_rule(word)).map(String::from),
                );
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| !line.starts_with(' ')) {
                let name = rest.split('(').next().unwrap();
                let claim = |rule| (rule, format!("api::{module}::{name}"));
                // A helper has arguments, a test has none.
                claims.extend(rules.drain(..).filter(|_| rest.contains("()")).map(claim));
            }
        }
    }
    claims
}

/// An entry of the table.
struct Entry {
    rule: String,
    text: String,
    /// The tests that show the rule, or the reason why none does.
    shown_by: String,
}

/// The entries of the table. A text holds no `|`, since that ends a cell.
fn entries(tests: &Path) -> Vec<Entry> {
    let table = fs::read_to_string(tests.join("RULES.md")).unwrap();
    let entry = |line: &str| -> Option<Entry> {
        let cells: Vec<_> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        if !is_rule(cells[0]) {
            return None;
        }
        let [rule, text, shown_by, ""] = cells[..] else { panic!("not three cells: {line}") };
        Some(Entry { rule: rule.to_owned(), text: text.to_owned(), shown_by: shown_by.to_owned() })
    };
    table.lines().filter_map(entry).collect()
}

/// The tests that a entry names.
fn named(shown_by: &str) -> impl Iterator<Item = &str> {
    shown_by.split('`').filter(|test| test.contains("::"))
}

/// The rules that the table assigns to this crate's tests.
fn tabled(tests: &Path) -> BTreeSet<Claim> {
    let claims = |Entry { rule, shown_by, .. }: Entry| {
        let tests =
            named(&shown_by).filter(|test| test.matches("::").count() == 2 && test.starts_with("api::"));
        tests.map(|test| (rule.clone(), test.to_owned())).collect::<Vec<_>>()
    };
    entries(tests).into_iter().flat_map(claims).collect()
}

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.append(&mut sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The names of all functions below a folder.
fn functions(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in sources(folder) {
        let text = fs::read_to_string(&path).unwrap();
        let heads = text.split("fn ").skip(1);
        names.extend(heads.filter_map(|head| Some(head.split_once(['(', '<'])?.0.to_owned())));
    }
    names
}

/// Whether `word` looks like `WAT-31`.
fn is_rule(word: &str) -> bool {
    word.split_once('-').is_some_and(|(area, number)| {
        (2..=4).contains(&area.len())
            && area.bytes().all(|byte| byte.is_ascii_uppercase())
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[test]
fn each_rule_has_one_entry_which_names_existing_tests() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let functions = functions(&tests);
    let mut rules = BTreeSet::new();
    for Entry { rule, shown_by, .. } in entries(&tests) {
        for test in named(&shown_by) {
            let name = test.rsplit("::").next().unwrap();
            assert!(functions.contains(name) || is_module(&tests, test), "{rule}: there is no {test}");
        }
        assert!(rules.insert(rule.clone()), "{rule} has two entries");
    }
}

#[test]
fn each_rule_has_a_text() {
    let entries = entries(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    assert!(entries.len() > 200, "the entries are found");
    for Entry { rule, text, shown_by } in entries {
        assert!(text.split_whitespace().count() > 2, "{rule} has no text");
        assert!(!shown_by.is_empty(), "{rule} has neither a test nor a reason why there is none");
    }
}

/// Names that look like the id of a rule and are none.
const OTHERS: [&str; 2] = ["SHA-256", "UTF-8"];

#[test]
fn each_rule_of_a_comment_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules: BTreeSet<_> = entries(&root.join("tests")).into_iter().map(|entry| entry.rule).collect();
    let mut unknown = Vec::new();
    for path in ["src", "tests", "benches"].iter().flat_map(|folder| sources(&root.join(folder))) {
        let text = fs::read_to_string(&path).unwrap();
        for (_, comment) in text.lines().filter_map(|line| line.split_once("//")) {
            let words = comment.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let lacking =
                words.filter(|word| is_rule(word) && !OTHERS.contains(word) && !rules.contains(*word));
            unknown.extend(lacking.map(|word| format!("{}: {word}", path.display())));
        }
    }
    assert!(unknown.is_empty(), "not in RULES.md: {unknown:#?}");
}

/// Whether a name stands for a file of tests rather than for one of them.
fn is_module(tests: &Path, name: &str) -> bool {
    tests.join(name.replace("::", "/")).with_extension("rs").exists()
}

#[test]
fn the_table_of_rules_and_the_comments_of_the_tests_agree() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (claimed, tabled) = (claimed(&tests), tabled(&tests));
    assert!(claimed.len() > 100, "the comments are found");
    let missing: Vec<_> = claimed.difference(&tabled).collect();
    let stale: Vec<_> = tabled.difference(&claimed).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "missing in RULES.md: {missing:#?}\nwithout a test: {stale:#?}"
    );
}
