//! The table of rules says what the tests say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A rule and the test that shows it.
type Claim = (String, String);

/// What the comments of this crate's tests claim: every rule id above a function.
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

/// The rows of the table: a rule, and what is said of it.
fn rows(tests: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(tests.join("RULES.md")).unwrap();
    let row = |line: &str| -> Option<(String, String)> {
        let (rule, shown_by) = line.strip_prefix("| ")?.split_once(" | ")?;
        is_rule(rule).then(|| (rule.to_owned(), shown_by.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

/// The tests that a row names.
fn named(shown_by: &str) -> impl Iterator<Item = &str> {
    shown_by.split('`').filter(|test| test.contains("::"))
}

/// What the table says of this crate's tests.
fn tabled(tests: &Path) -> BTreeSet<Claim> {
    let claims = |(rule, shown_by): (String, String)| {
        let tests =
            named(&shown_by).filter(|test| test.matches("::").count() == 2 && test.starts_with("api::"));
        tests.map(|test| (rule.clone(), test.to_owned())).collect::<Vec<_>>()
    };
    rows(tests).into_iter().flat_map(claims).collect()
}

/// The names of all functions below a folder.
fn functions(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.append(&mut functions(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let heads = text.split("fn ").skip(1);
            names.extend(heads.filter_map(|head| Some(head.split_once(['(', '<'])?.0.to_owned())));
        }
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
fn each_rule_has_one_row_and_each_row_names_tests_that_there_are() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let functions = functions(&tests);
    let mut rules = BTreeSet::new();
    for (rule, shown_by) in rows(&tests) {
        for test in named(&shown_by) {
            let name = test.rsplit("::").next().unwrap();
            assert!(functions.contains(name) || is_module(&tests, test), "{rule}: there is no {test}");
        }
        assert!(rules.insert(rule.clone()), "{rule} has two rows");
    }
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
