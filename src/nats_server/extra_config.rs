//! The user's own nats-server configuration, included into jetway's.
//!
//! Only its top-level keys are read, and those of the files that it includes. They show whether the file sets
//! a key that jetway must set itself, or one that cannot work. Of the block `jetstream` the domain may be
//! set. A file whose keys cannot be made out passes here: nats-server's own parser refuses it. Case does not
//! matter in keys, as in nats-server.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use super::Error;

/// Keys that jetway sets, by all of nats-server's names for them. The supervisor relies on the listener, the
/// login, the store and the log that they set. The keys of accounts would leave the account of jetway's
/// streams without JetStream.
const OWNED: &[&str] = &[
    "listen",
    "port",
    "host",
    "net",
    "tls",
    "authorization",
    "server_name",
    "store_dir",
    "storedir",
    "ports_file_dir",
    "log_file",
    "logfile",
    "logtime",
    "logtime_utc",
    "syslog",
    "remote_syslog",
    "max_payload",
    "max_control_line",
    "accounts",
    "operator",
    "operators",
    "resolver",
    "trusted",
    "trusted_keys",
    "no_auth_user",
];

/// Keys that make JetStream wait for other servers, and delete the streams of a server of its own.
const CLUSTERED: &[&str] = &["cluster", "gateway"];
/// The block with the store, of which only the domain may be set.
const JETSTREAM: &str = "jetstream";

/// Most levels of included files.
const DEEPEST: u32 = 16;

/// The reason for which a configuration cannot be used.
#[derive(Debug, ThisError)]
pub enum ExtraConfigError {
    #[error("{0}")]
    Path(io::Error),
    #[error("{file}: {source}", file = .file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("its includes nest more than {DEEPEST} deep")]
    Nesting,
    #[error("it sets `{0}`, which is jetway's to set; remove it there")]
    OwnedKey(String),
    #[error(
        "it sets `{0}`, which cannot work: the nats-servers of several jetways become a cluster by --initial-cluster alone; \
         remove it there, or name the servers of a NATS cluster of your own in --endpoint. Leaf nodes (`leafnodes`) work"
    )]
    Clustered(String),
    #[error(
        "it sets `{JETSTREAM}` to more than {{ domain: NAME }}; the rest is jetway's to set: the store is below --data-dir"
    )]
    JetStream,
    #[error("it sets the domain {0:?}, and --nats-js-domain is {1:?}; give one of them")]
    Domains(String, String),
    #[error("its path must be valid UTF-8 without quotes, backslashes and line breaks")]
    PathCharacters,
}

#[derive(Debug)]
pub(super) struct ExtraConfig {
    path: PathBuf,
    domain: Option<String>,
}

impl ExtraConfig {
    /// Reads a file. `domain` is that of the flags.
    pub(super) fn read(path: &Path, domain: Option<&str>) -> Result<Self, Error> {
        let refused = |reason| Error::ExtraConfig { path: path.to_owned(), reason };
        let path = path.canonicalize().map_err(|error| refused(ExtraConfigError::Path(error)))?;
        let mut entries = Vec::new();
        collect_entries(&path, 0, &mut entries).map_err(refused)?;
        let find = |keys: &[&str]| entries.iter().find(|entry| keys.contains(&entry.key.as_str()));
        if let Some(entry) = find(OWNED) {
            return Err(refused(ExtraConfigError::OwnedKey(entry.key.clone())));
        }
        if let Some(entry) = find(CLUSTERED) {
            return Err(refused(ExtraConfigError::Clustered(entry.key.clone())));
        }
        let own_domain = domain_of(&entries).map_err(refused)?;
        if let (Some(own), Some(domain)) = (&own_domain, domain)
            && own != domain
        {
            return Err(refused(ExtraConfigError::Domains(own.clone(), domain.to_owned())));
        }
        if path.to_str().is_none_or(|path| path.contains(['"', '\'', '\\', '\n'])) {
            return Err(refused(ExtraConfigError::PathCharacters));
        }
        Ok(Self { path, domain: own_domain })
    }

    /// The JetStream domain that it sets.
    pub(super) fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The line that includes it into a file in `dir`. nats-server joins even an absolute name to the
    /// directory of the including file, so the name goes up to the root and down again.
    pub(super) fn include_line(&self, dir: &Path) -> String {
        let up = "../".repeat(dir.components().count());
        let path = self.path.to_str().expect("checked when read").trim_start_matches('/');
        format!("include '{up}{path}'\n")
    }
}

/// The JetStream domain, where the block sets nothing else. jetway's own block follows the file and replaces
/// this one, so the key must have the same spelling.
fn domain_of(entries: &[Entry]) -> Result<Option<String>, ExtraConfigError> {
    let mut domain = None;
    for entry in entries.iter().filter(|entry| entry.key == JETSTREAM) {
        let settings = top_level(&entry.nested);
        let is_enabled = matches!(entry.value.as_str(), "enabled" | "true" | "on" | "yes");
        let is_harmless =
            settings.iter().all(|setting| setting.key == "domain" && !setting.value.starts_with('$'));
        if entry.spelling != JETSTREAM || !is_harmless || (settings.is_empty() && !is_enabled) {
            return Err(ExtraConfigError::JetStream);
        }
        domain = settings.into_iter().next_back().map(|setting| setting.value).or(domain);
    }
    Ok(domain)
}

/// Appends the top-level entries of a file and of the files that it includes at its top level.
fn collect_entries(path: &Path, depth: u32, entries: &mut Vec<Entry>) -> Result<(), ExtraConfigError> {
    if depth > DEEPEST {
        return Err(ExtraConfigError::Nesting);
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| ExtraConfigError::Read { file: path.to_owned(), source })?;
    for entry in top_level(&text) {
        if entry.key == "include" {
            let dir = path.parent().unwrap_or(Path::new("/"));
            // In nats-server a leading slash does not make the name absolute.
            collect_entries(&dir.join(entry.value.trim_start_matches('/')), depth + 1, entries)?;
        } else {
            entries.push(entry);
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// In lower case.
    key: String,
    spelling: String,
    /// A plain or quoted value; empty for a map, a list and a text block.
    value: String,
    /// A map or a list, brackets included.
    nested: String,
}

/// Lists the top-level entries of a configuration, as nats-server's own scanner finds them. An entry is `key:
/// value`, `key = value`, `key value` or `key { … }`. Line ends, commas or semicolons separate entries. `#`
/// and `//` begin comments. Braces at the top level, as those of JSON, separate entries and hold no level of
/// their own: more entries may follow them. Text that this scanner reads otherwise is a mistake to
/// nats-server, which then does not start.
fn top_level(text: &str) -> Vec<Entry> {
    let mut scanner = Scanner { rest: text };
    let mut entries = Vec::new();
    loop {
        scanner.skip_between("{}");
        if scanner.rest.is_empty() {
            return entries;
        }
        let before = scanner.rest.len();
        let spelling = scanner.key();
        let (value, nested) = scanner.value();
        entries.push(Entry { key: spelling.to_lowercase(), spelling, value, nested: nested.to_owned() });
        scanner.take_while(|c| !is_line_end(c) && !matches!(c, ',' | ';' | '{' | '}' | '#' | '/'));
        if scanner.rest.len() == before {
            return entries;
        }
    }
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        self.take(self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len()))
    }

    fn at_comment(&self) -> bool {
        self.rest.starts_with('#') || self.rest.starts_with("//")
    }

    /// Skips separators and comments.
    fn skip_between(&mut self, separators: &str) {
        loop {
            self.take_while(|c| c.is_whitespace() || c == ',' || c == ';' || separators.contains(c));
            if !self.at_comment() {
                return;
            }
            self.take_while(|c| !is_line_end(c));
        }
    }

    fn key(&mut self) -> String {
        match self.rest.chars().next() {
            // In a key no character is escaped.
            Some(quote @ ('"' | '\'')) => self.quoted(quote, false),
            _ => self.take_while(|c| !c.is_whitespace() && !matches!(c, ':' | '=' | '{')).to_owned(),
        }
    }

    fn quoted(&mut self, quote: char, has_escapes: bool) -> String {
        self.take(1);
        let mut escaped = false;
        let end = self.rest.find(|c| {
            let ends = c == quote && !escaped;
            escaped = has_escapes && c == '\\' && !escaped;
            ends
        });
        let inside = self.take(end.unwrap_or(self.rest.len())).to_owned();
        self.take(usize::from(!self.rest.is_empty()));
        inside
    }

    /// The value after a key: a plain one, or a map or a list.
    fn value(&mut self) -> (String, &'a str) {
        self.take_while(|c| c.is_whitespace() || c == ':' || c == '=');
        if self.rest.starts_with(['{', '[']) {
            let nested = self.rest;
            self.skip_nested();
            return (String::new(), &nested[..nested.len() - self.rest.len()]);
        }
        (self.scalar(), "")
    }

    /// A plain or quoted value, or a block of text, for which it returns nothing.
    fn scalar(&mut self) -> String {
        match self.rest.chars().next() {
            Some('"') => self.quoted('"', true),
            Some('\'') => self.quoted('\'', false),
            Some('(') => {
                // A text block ends at a `)` that is alone on its line. The line end is left.
                let mut end = 0;
                for line in self.rest.split_inclusive('\n') {
                    if line.trim_end() == ")" {
                        end += 1;
                        break;
                    }
                    end += line.len();
                }
                self.take(end);
                String::new()
            }
            _ => {
                let mut escaped = false;
                let end = self.rest.find(|c: char| {
                    let ends = c.is_whitespace() || matches!(c, ',' | ';' | ']' | '}' | '\'');
                    let ends = ends && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                });
                let word = self.take(end.unwrap_or(self.rest.len())).to_owned();
                self.take(usize::from(self.rest.starts_with('\'')));
                word
            }
        }
    }

    /// Skips a map or list, from its opening bracket to the closing one, with everything in it.
    fn skip_nested(&mut self) {
        let mut open = vec![self.take(1) == "{"];
        while let Some(is_map) = open.last().copied() {
            self.skip_between("");
            match self.rest.chars().next() {
                None => return,
                Some('}' | ']') => {
                    self.take(1);
                    open.pop();
                    continue;
                }
                Some(_) => {}
            }
            let before = self.rest.len();
            if is_map && !self.rest.starts_with('{') {
                self.key();
                self.take_while(|c| c.is_whitespace() || c == ':' || c == '=');
            }
            if self.rest.starts_with(['{', '[']) {
                open.push(self.take(1) == "{");
            } else {
                self.scalar();
            }
            if self.rest.len() == before {
                return;
            }
        }
    }
}

/// For fuzzing: a configuration of any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let entries = top_level(&text);
    // Each entry takes at least one byte of the text.
    assert!(entries.len() <= text.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        top_level(text).into_iter().map(|entry| entry.key).collect()
    }

    #[test]
    fn top_level_keys_in_every_spelling() {
        assert_eq!(keys("port: 4222\nhost=1.2.3.4; debug true\n"), ["port", "host", "debug"]);
        assert_eq!(
            keys("Cluster { name: a, routes: [ nats://u:p@h:1 ] } \n trace: false"),
            ["cluster", "trace"]
        );
        assert_eq!(
            keys("{\"leafnodes\": {\"remotes\": [{\"url\": \"nats://a\"}]}, \"cluster\": {}}"),
            ["leafnodes", "cluster"]
        );
        assert_eq!(keys("# cluster {}\n// cluster {}\nhttp: 8222 # cluster: 1\n"), ["http"]);
        assert_eq!(
            keys("accounts { A { users: [{user: a, password: \"}\"}] } }\ncluster: $X"),
            ["accounts", "cluster"]
        );
        assert_eq!(keys("text (\ncluster {}\n)\nhttp: 1"), ["text", "http"]);
        assert_eq!(keys("accounts {\n # don't stop {\n A: {}\n}\n'cluster' {}"), ["accounts", "cluster"]);
        assert_eq!(keys("password: it's\ncluster {}"), ["password", "cluster"]);
        assert_eq!(keys(""), [""; 0]);
    }

    #[test]
    fn unfinished_text_ends_the_scan() {
        for text in ["a {", "a \"", "a", "{", "a: [ {", "\"a", "a (", ":", "="] {
            top_level(text);
        }
    }

    #[test]
    fn includes_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("top.conf"), "include sub/a.conf\nhttp: 1").unwrap();
        std::fs::write(dir.path().join("sub/a.conf"), "include \"b.conf\"").unwrap();
        std::fs::write(dir.path().join("sub/b.conf"), "jetstream { domain: x }").unwrap();
        let extra = ExtraConfig::read(&dir.path().join("top.conf"), None).unwrap();
        assert_eq!(extra.domain(), Some("x"));

        std::fs::write(dir.path().join("sub/b.conf"), "include ../top.conf").unwrap();
        let refused = ExtraConfig::read(&dir.path().join("top.conf"), None).unwrap_err().to_string();
        assert!(refused.contains("nest more than"), "{refused}");
    }

    #[test]
    fn keys_that_jetway_sets_or_that_cannot_work_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("top.conf");
        for (text, words) in [
            ("Listen: 0.0.0.0:4222", "it sets `listen`"),
            ("{ debug: false }\nlisten: 0.0.0.0:4222", "it sets `listen`"),
            ("cluster { name: c }", "it sets `cluster`, which cannot work"),
            ("Gateway { name: g }", "it sets `gateway`, which cannot work"),
            ("jetstream { domain: d, store_dir: \"/d\" }", "more than { domain: NAME }"),
            ("jetstream: false", "more than { domain: NAME }"),
            ("JetStream { domain: d }", "more than { domain: NAME }"),
            ("jetstream { domain: $D }", "more than { domain: NAME }"),
            ("jetstream { domain: a }", "the domain \"a\", and --nats-js-domain is \"b\""),
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = ExtraConfig::read(&path, Some("b")).unwrap_err().to_string();
            assert!(refused.contains(words), "{text}: {refused}");
        }
        for (text, domain) in [
            ("jetstream { domain: b }", Some("b")),
            ("jetstream: {\n domain = \"b\" # mine\n}", Some("b")),
            ("jetstream: enabled", None),
            ("leafnodes { remotes: [ { url: \"nats-leaf://h\" } ] }", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(ExtraConfig::read(&path, Some("b")).unwrap().domain(), domain, "{text}");
        }
        std::fs::write(dir.path().join("part.conf"), "debug: false\nlisten: 1").unwrap();
        for text in [
            "Listen: 0.0.0.0:4222",
            "{ debug: false }\nlisten: 0.0.0.0:4333",
            "{ debug: false } listen: 1",
            "{ debug: false }, { listen: 1 }",
            "{{ debug: false }\n listen: 1 }",
            "} listen: 1",
            "debug: false\rlisten: 1",
            "# a comment\rlisten: 1",
            "debug: false # , a: \"\nlisten: 1\nb: \"",
            "x: 'a\\'\nlisten: 1\ny: 'b'",
            "\"x\\\": 1\nlisten: 1\ny: \"\"",
            "x { y: '\\' }\nlisten: 1\nz: ''",
            "x [ a'b' ] \nlisten: 1",
            "x { y: it's }\nlisten: 1",
            "{\"debug\": false, \"LISTEN\": \"0.0.0.0:1\"}",
            "'listen' 1",
            "port=$PORT\nPORT=4333",
            "x: 1; net = 0.0.0.0",
            "Include part.conf",
            "{ include 'part.conf' }",
            "http: 8222\n\nAccounts: {A: {}}",
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = ExtraConfig::read(&path, None).map(drop).expect_err(text).to_string();
            assert!(refused.contains("which is jetway's to set"), "{text}: {refused}");
        }
        // A key of the same name further down is another one.
        let nested = "leafnodes { listen: 1, authorization { token: \"}\" }, tls {} }\nx (\nlisten: 1\n)\n";
        std::fs::write(&path, nested).unwrap();
        ExtraConfig::read(&path, None).unwrap();
    }
}
