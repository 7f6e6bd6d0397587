//! The top-level entries of a nats-server configuration, as nats-server's own scanner finds them.

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// In lower case.
    pub(super) key: String,
    pub(super) spelling: String,
    /// A plain or quoted value; empty for a map, a list and a text block.
    pub(super) value: String,
    /// A map or a list, brackets included.
    pub(super) nested: String,
}

/// Lists the top-level entries of a configuration, as nats-server's own scanner finds them. An entry is `key:
/// value`, `key = value`, `key value` or `key { … }`. Line ends, commas or semicolons separate entries. `#`
/// and `//` begin comments. Braces at the top level, as those of JSON, separate entries and hold no level of
/// their own: more entries may follow them. Text that this scanner reads otherwise is a mistake to
/// nats-server, which then does not start.
pub(super) fn top_level(text: &str) -> Vec<Entry> {
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
}
