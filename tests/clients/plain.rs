//! Makes what two servers' clients print comparable: hides what each server chooses for itself, and no more.

use std::collections::HashMap;

/// Values that each server has of its own. JSON and etcdctl's `fields` output name them in quotes before a
/// colon.
const HIDDEN: &[&str] = &[
    "raft_term",
    "RaftTerm",
    "raftTerm",
    "raftIndex",
    "RaftIndex",
    "raftAppliedIndex",
    "RaftAppliedIndex",
    "dbSize",
    "DBSize",
    "dbSizeInUse",
    "DBSizeInUse",
    "took",
    "Took",
    "peerURLs",
    "PeerURL",
    "token",
];

/// The names under which ids appear: the first id that a session prints is `ID1`, in hexadecimal and in
/// decimal, so that which id it is is compared while its value is not.
#[derive(Debug, Default)]
pub struct Ids(HashMap<u64, usize>);

impl Ids {
    fn name(&mut self, id: u64) -> String {
        let next = self.0.len() + 1;
        format!("ID{}", self.0.entry(id).or_insert(next))
    }

    /// Names every id in `text`: a word of 14 to 16 hexadecimal digits or of 17 to 20 decimal ones. No
    /// revision, count or hash is as long. etcdctl pads a short one with spaces to 16 digits; they go with
    /// it.
    pub fn hide(&mut self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        for word in words(text) {
            match id(word) {
                Some(id) => {
                    let padding = " ".repeat(16_usize.saturating_sub(word.len()));
                    if hidden.ends_with(&format!(" {padding}")) {
                        hidden.truncate(hidden.len() - padding.len());
                    }
                    hidden += &self.name(id);
                }
                None => hidden += word,
            }
        }
        hidden
    }
}

fn id(word: &str) -> Option<u64> {
    match word.len() {
        14..=16 => u64::from_str_radix(word, 16).ok(),
        17..=20 => word.parse().ok(),
        _ => None,
    }
}

/// Cuts `text` into runs of letters and digits and what is between them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let kind = |c: char| c.is_alphanumeric();
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = rest.find(|c| kind(c) != kind(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

/// Hides the values of the [`HIDDEN`] fields, and of `more`.
pub fn hide_fields(text: &str, more: &[String]) -> String {
    let mut text = text.to_owned();
    for name in HIDDEN.iter().copied().chain(more.iter().map(String::as_str)) {
        let name = format!("\"{name}\"");
        let mut from = 0;
        while let Some(at) = text[from..].find(&name) {
            let end_of_name = from + at + name.len();
            let rest = &text[end_of_name..];
            let value = rest.trim_start().strip_prefix(':').map(str::trim_start);
            from = end_of_name;
            if let Some(value) = value {
                let start = text.len() - value.len();
                let end = start + length_of_value(value);
                text.replace_range(start..end, "-");
                from = start + 1;
            }
        }
    }
    text
}

fn length_of_value(value: &str) -> usize {
    let after = |end: char| value[1..].find(end).map_or(value.len(), |at| at + 2);
    match value.chars().next() {
        Some('"') => after('"'),
        Some('[') => after(']'),
        _ => value.find([',', '}', '\n', ' ']).unwrap_or(value.len()),
    }
}

/// Hides all numbers with their units, and the widths of columns that hang on them.
pub fn hide_numbers(text: &str) -> String {
    const UNITS: [&str; 9] = ["B", "kB", "MB", "GB", "ns", "µs", "ms", "s", "m"];
    let mut hidden = String::new();
    let mut after_number = false;
    for word in words(text) {
        let digits = word.trim_end_matches(char::is_alphabetic);
        let number = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
        let unit = after_number && UNITS.contains(&word);
        after_number = number || (after_number && matches!(word, " " | "."));
        match word {
            _ if number => hidden.push('N'),
            _ if unit => {}
            _ => hidden += word,
        }
    }
    while hidden.contains("N.N") {
        hidden = hidden.replace("N.N", "N");
    }
    hidden
}

/// Hides the address for peers, which no client of these sessions uses.
pub fn hide_peers(text: &str) -> String {
    const HOST: &str = "http://127.0.0.1:";
    let text = text.replace("http://localhost:2380", "PEERS");
    let mut parts = text.split(HOST);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |hidden, part| hidden + "PEERS" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Orders the members of etcdctl's `ETCD_INITIAL_CLUSTER`. Servers list members by their ids, and the id of
/// an added member comes from the time of day.
pub fn order_members(text: &str) -> String {
    let ordered = text.split_inclusive('\n').map(|line| {
        let members = line.strip_prefix("ETCD_INITIAL_CLUSTER=\"").and_then(|rest| rest.strip_suffix("\"\n"));
        let Some(members) = members else { return line.to_owned() };
        let mut members: Vec<_> = members.split(',').collect();
        members.sort_unstable();
        format!("ETCD_INITIAL_CLUSTER=\"{}\"\n", members.join(","))
    });
    ordered.collect()
}

/// Makes table rows independent of the widths of their columns, which follow ids and numbers.
pub fn narrow_tables(text: &str) -> String {
    let mut narrowed = String::new();
    for line in text.split_inclusive('\n') {
        let table = line.starts_with(['|', '+', '│', '┌', '├', '└']);
        if !table {
            narrowed += line;
            continue;
        }
        let mut last = '\0';
        for c in line.chars() {
            if c != last || !matches!(c, ' ' | '-' | '─') {
                narrowed.push(c);
            }
            last = c;
        }
    }
    narrowed
}

/// Takes away the spaces between the parts of the gateway's JSON and of an alarm in a status. Go's protobuf
/// library has one here or another there on purpose, by a hash of the program that it is built into, and so
/// in the texts of its errors.
pub fn without_spaces(text: &str) -> String {
    let mut plain = String::new();
    for line in text.split_inclusive('\n') {
        if !line.starts_with('{') {
            plain += &line.replace("  alarm:", " alarm:");
            continue;
        }
        let (mut in_string, mut escaped) = (false, false);
        for c in line.chars() {
            match c {
                '"' if !escaped => in_string = !in_string,
                ' ' if !in_string => continue,
                _ => {}
            }
            escaped = c == '\\' && !escaped;
            plain.push(if c == '\u{a0}' { ' ' } else { c });
        }
    }
    plain
}

/// etcdctl's protobuf output, with the header cut down to its revision: field numbers and values in
/// hexadecimal.
pub fn protobuf(bytes: &[u8]) -> String {
    let Some(fields) = fields(bytes) else { return format!("no protobuf: {bytes:x?}") };
    let lines = fields.iter().map(|(number, value)| match value {
        Value::Bytes(header) if *number == 1 => {
            let revision = self::fields(header).into_iter().flatten().find(|(number, _)| *number == 3);
            format!("header with {revision:?}")
        }
        value => format!("{number}: {value:?}"),
    });
    lines.map(|line| line + "\n").collect()
}

#[derive(Debug)]
enum Value {
    Number(#[expect(dead_code, reason = "printed by Debug")] u64),
    Bytes(Vec<u8>),
}

fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            2 => {
                let length = varint(&mut bytes)? as usize;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(value.to_vec())
            }
            _ => return None,
        };
        fields.push((key >> 3, value));
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[test]
fn only_values_that_a_server_chooses_are_masked() {
    let mut ids = Ids::default();
    assert_eq!(
        ids.hide("lease 32698f2c0d8a1b05 granted, 3631962823434312453 = 0x32698f2c0d8a1b06"),
        "lease ID1 granted, ID2 = 0x32698f2c0d8a1b06"
    );
    assert_eq!(ids.hide("Member  2698f2c0d8a1b05 removed"), "Member ID3 removed");
    assert_eq!(
        ids.hide("{\"ID\":3632591993819503365,\"hash\":2468013579}"),
        "{\"ID\":ID1,\"hash\":2468013579}"
    );
    let json = "{\"header\":{\"raft_term\":\"2\",\"revision\":3},\"peerURLs\":[\"a\",\"b\"],\"took\":12}";
    let hidden = "{\"header\":{\"raft_term\":-,\"revision\":3},\"peerURLs\":-,\"took\":-}";
    assert_eq!(hide_fields(json, &[]), hidden);
    assert_eq!(
        hide_fields("\"RaftTerm\" : 2\n\"Revision\" : 3\n", &[]),
        "\"RaftTerm\" : -\n\"Revision\" : 3\n"
    );
    assert_eq!(hide_numbers("took = 1.25ms, 20 kB, 3.7.3, a1"), "took = N, N , N, a1");
    assert_eq!(
        order_members("ETCD_INITIAL_CLUSTER=\"new=B,default=A\"\nx=\"b,a\"\n"),
        "ETCD_INITIAL_CLUSTER=\"default=A,new=B\"\nx=\"b,a\"\n"
    );
    assert_eq!(narrow_tables("+-----+\n| a   |\n a  b\n"), "+-+\n| a |\n a  b\n");
    assert_eq!(
        without_spaces("{\"a\": \"b \\\" c\", \"d\": 1}\n200 ok"),
        "{\"a\":\"b \\\" c\",\"d\":1}\n200 ok"
    );
    assert_eq!(
        protobuf(b"\x0a\x04\x18\x05\x20\x09\x10\x01"),
        "header with Some((3, Number(5)))\n2: Number(1)\n"
    );
}
