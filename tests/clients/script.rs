//! Sessions as text: commands of etcdctl and curl, run on a fresh etcd and on a fresh server under test. All
//! that they print, and their exit codes, must be equal.
//!
//! A line is one of
//!
//! - `etcdctl ARGS` or `curl PATH ARGS`, which must succeed; with `! ` before it, which must fail. Lines
//!   below it that begin with `|` are its input. A word may be quoted with `'` or `"`; `$NAME` is a variable,
//!   `$ADDRESS` and `$OTHER` the server and a second one of the same kind, `$TMP` a folder. `$SECURE` is the
//!   server's URL for clients with certificates, which are in the folder `$CERTS`, and `$AS_NAME` are
//!   etcdctl's flags for the one of this name.
//! - `~` before a command hides the numbers it prints, and `sorted` the order of its lines.
//! - `differs TEXT` after a command: the output of the server under test is another one by design, with TEXT
//!   in it.
//! - `let NAME = word N` or `let NAME = json FIELD`: from what the last command printed.
//! - `hide FIELD`: the value of this JSON field is each server's own.
//! - `start NAME COMMAND` runs it in the background; `await NAME N` is for N lines of its output, `send NAME
//!   LINE` writes to its input, `terminate NAME` sends SIGTERM and waits for its end as `end NAME` does.
//! - `until TEXT COMMAND` runs the command again until TEXT is in its output.
//! - `stop`, `serve`: the server ends, and serves again.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::certificates::{CLIENTS, Certificates, STRANGER};
use crate::plain::{self, Ids};
use crate::process::{self, Ended, Process};
use support::server::{Server, Target, peer};

/// A line of the script with its number and the input of its command.
struct Statement {
    number: usize,
    text: String,
    input: String,
    /// A text that the server under test prints by design in place of etcd's.
    differs: Option<String>,
}

fn parse(script: &str) -> Vec<Statement> {
    let mut lines: Vec<Statement> = Vec::new();
    for (number, text) in script.lines().enumerate() {
        let text = text.trim_start();
        if let Some(input) = text.strip_prefix('|') {
            let line = lines.last_mut().expect("input has its command above it");
            line.input += input.strip_prefix(' ').unwrap_or(input);
            line.input += "\n";
        } else if let Some(differs) = text.strip_prefix("differs ") {
            lines.last_mut().expect("a difference has its command above it").differs = Some(differs.into());
        } else if !text.is_empty() && !text.starts_with('#') {
            lines.push(Statement {
                number: number + 1,
                text: text.into(),
                input: String::new(),
                differs: None,
            });
        }
    }
    lines
}

/// The longest time for `until`, and the time between two of its commands.
const UNTIL: Duration = Duration::from_secs(60);
const UNTIL_PAUSE: Duration = Duration::from_millis(50);

/// Passwords are hashed for nearly nothing, since a machine under load takes its time.
pub const QUICK_PASSWORDS: [&str; 2] = ["--bcrypt-cost", "4"];

/// Runs the script in `tests/clients/NAME` on both servers and compares.
pub async fn session(name: &str, flags: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    let script = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let target = Target::from_env();
    let (expected, output) = tokio::join!(run(Target::Etcd, &script, flags), run(target, &script, flags));
    let mut report = String::new();
    for (line, (expected, output)) in parse(&script).iter().zip(expected.iter().zip(&output)) {
        let unexpected = line.text.split(' ').next().is_some_and(|verb| match verb {
            "await" => expected.ends_with(process::GAVE_UP),
            "etcdctl" | "curl" | "~" | "sorted" | "!" => {
                expected.ends_with("exit Some(0)") == line.text.contains("! ")
            }
            _ => false,
        });
        if unexpected {
            writeln!(report, "--- {name}:{}: {}\nunexpected:\n{expected}", line.number, line.text).unwrap();
        }
        let by_design = line.differs.as_ref().filter(|_| target != Target::Etcd);
        if by_design.map_or(expected != output, |text| !output.contains(text)) {
            writeln!(
                report,
                "--- {name}:{}: {}\netcd:\n{expected}\njetway:\n{output}",
                line.number, line.text
            )
            .unwrap();
        }
    }
    if std::env::var_os("JETWAY_CLIENTS_PRINT").is_some() {
        for (line, output) in parse(&script).iter().zip(&expected) {
            println!("{name}:{}: {}\n{output}", line.number, line.text);
        }
    }
    assert!(report.is_empty(), "etcd and the server under test differ:\n{report}");
}

/// The output of each line of the script on a fresh server.
async fn run(target: Target, script: &str, flags: &[&str]) -> Vec<String> {
    let (server, certificates) = if script.contains("$SECURE") {
        let (server, certificates) = Certificates::launch(target, flags).await;
        (server, Some(certificates))
    } else {
        (Server::launch(target, flags).await, None)
    };
    let needs_other = script.contains("$OTHER");
    let other = if needs_other { Some(Server::launch(target, flags).await) } else { None };
    let lines = parse(script);
    let runtime = Handle::current();
    let job = tokio::task::spawn_blocking(move || {
        let mut interpreter = Interpreter::new(server, other, certificates, runtime);
        lines.iter().map(|line| interpreter.step(line)).collect()
    });
    job.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// One server with what the script has made so far.
struct Interpreter {
    server: Server,
    runtime: Handle,
    ids: Ids,
    /// Text that is the server's own, and the name under which it is compared.
    own: Vec<(String, String)>,
    variables: HashMap<String, String>,
    hidden: Vec<String>,
    background: HashMap<String, Process>,
    /// The output of the last command as it was printed, for `let`.
    last: String,
    /// For files of the session, and gone with it.
    folder: tempfile::TempDir,
    _other: Option<Server>,
    _certificates: Option<Certificates>,
}

impl Interpreter {
    fn new(
        server: Server,
        other: Option<Server>,
        certificates: Option<Certificates>,
        runtime: Handle,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut own = vec![(server.address(), "ADDRESS".into())];
        let mut variables = HashMap::from([
            ("ADDRESS".into(), server.address()),
            ("TMP".into(), folder.path().to_str().unwrap().to_owned()),
        ]);
        own.push((folder.path().to_str().unwrap().into(), "TMP".into()));
        if let Some(other) = &other {
            own.push((other.address(), "OTHER".into()));
            variables.insert("OTHER".into(), other.address());
        }
        if let Some(certificates) = &certificates {
            own.push((certificates.endpoint(), "SECURE".into()));
            variables.insert("SECURE".into(), certificates.endpoint());
            variables.insert("CERTS".into(), certificates.folder().to_str().unwrap().into());
            for name in CLIENTS.into_iter().chain([STRANGER]) {
                variables.insert(format!("AS_{}", name.to_uppercase()), certificates.flags(name));
            }
        }
        Self {
            server,
            runtime,
            ids: Ids::default(),
            own,
            variables,
            hidden: Vec::new(),
            background: HashMap::new(),
            last: String::new(),
            folder,
            _other: other,
            _certificates: certificates,
        }
    }

    fn step(&mut self, line: &Statement) -> String {
        let text = self.fill(&line.text);
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let at = || format!("line {}: {}", line.number, line.text);
        match verb {
            "let" => {
                let (name, how) = rest.split_once(" = ").unwrap_or_else(|| panic!("{}", at()));
                let value = pick(&self.last, how);
                let output = value
                    .as_ref()
                    .map_or_else(|| format!("nothing there in {:?}", self.last), |_| String::new());
                self.variables.insert(name.into(), value.unwrap_or_else(|| "nothing".into()));
                output
            }
            "hide" => {
                self.hidden.push(rest.into());
                String::new()
            }
            "stop" => {
                self.runtime.block_on(self.server.stop());
                String::new()
            }
            "serve" => {
                self.runtime.block_on(self.server.restart());
                String::new()
            }
            "start" => {
                let (name, command) = rest.split_once(' ').unwrap_or_else(|| panic!("{}", at()));
                let process = Process::start(self.command(command));
                self.background.insert(name.into(), process);
                String::new()
            }
            "await" => {
                let (name, count) = rest.split_once(' ').unwrap_or_else(|| panic!("{}", at()));
                let count = count.parse().unwrap_or_else(|_| panic!("{}", at()));
                self.last = self.process(name).lines(count);
                self.own_hidden(&self.last.clone())
            }
            "send" => {
                let (name, text) = rest.split_once(' ').unwrap_or_else(|| panic!("{}", at()));
                self.process(name).send(&format!("{text}\n"));
                String::new()
            }
            "until" => {
                let (expected, command) = rest.split_once(' ').unwrap_or_else(|| panic!("{}", at()));
                let deadline = Instant::now() + UNTIL;
                while !String::from_utf8_lossy(&Process::run(self.command(command), "").stdout)
                    .contains(expected)
                {
                    assert!(Instant::now() < deadline, "{}: {expected} does not appear", at());
                    std::thread::sleep(UNTIL_PAUSE);
                }
                String::new()
            }
            "terminate" | "end" => {
                let mut process = self.background.remove(rest).unwrap_or_else(|| panic!("{}", at()));
                if verb == "terminate" {
                    // Output that is not awaited may come before the signal or not at all.
                    let surplus = process.so_far();
                    assert!(surplus.is_empty(), "{}: it has printed more than is awaited: {surplus:?}", at());
                    process.terminate();
                }
                let ended = process.end();
                format!("{}exit {:?}", self.output(&ended), ended.code)
            }
            _ => self.run(&text, &self.fill(&line.input)),
        }
    }

    fn process(&mut self, name: &str) -> &mut Process {
        self.background.get_mut(name).unwrap_or_else(|| panic!("no {name} was started"))
    }

    /// Runs a command to its end.
    fn run(&mut self, text: &str, input: &str) -> String {
        let mut command = text;
        let (mut numbers, mut sorted) = (false, false);
        while let Some((mark @ ("~" | "sorted" | "!"), rest)) = command.split_once(' ') {
            numbers |= mark == "~";
            sorted |= mark == "sorted";
            command = rest;
        }
        let mut ended = Process::run(self.command(command), input);
        if command.contains("-w protobuf") {
            ended.stdout = plain::protobuf(&ended.stdout).into_bytes();
        }
        let mut output = self.output(&ended);
        if numbers {
            output = plain::hide_numbers(&output);
        }
        if sorted {
            let mut lines: Vec<_> = output.split_inclusive('\n').collect();
            lines.sort_unstable();
            output = lines.concat();
        }
        format!("{output}exit {:?}", ended.code)
    }

    fn output(&mut self, ended: &Ended) -> String {
        self.last = String::from_utf8_lossy(&ended.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        // etcdctl's own log lines are JSON with times in them.
        let errors = stderr.split_inclusive('\n').filter(|line| !line.starts_with('{'));
        let output = self.last.clone() + &errors.collect::<String>();
        self.own_hidden(&output)
    }

    fn own_hidden(&mut self, printed: &str) -> String {
        let mut output = plain::hide_fields(printed, &self.hidden);
        for (own, name) in &self.own {
            output = output.replace(own, name);
        }
        let output = plain::order_members(&plain::hide_peers(&self.ids.hide(&output)));
        plain::without_spaces(&plain::narrow_tables(&output))
    }

    /// Puts the variables in, the longest names first, since one may begin another.
    fn fill(&self, text: &str) -> String {
        let mut names: Vec<_> = self.variables.iter().collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
    }

    fn command(&self, text: &str) -> Command {
        let mut words = split(text).into_iter();
        match words.next().as_deref() {
            Some("etcdctl") => {
                let mut command = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
                command.current_dir(self.folder.path());
                command.args(words);
                // A flag on the command line and its variable together are refused. Its own patience ends
                // before a loaded machine's.
                let endpoint = self.server.endpoint();
                for (flag, variable, value) in [
                    ("--endpoints", "ETCDCTL_ENDPOINTS", &endpoint[..]),
                    ("--dial-timeout", "ETCDCTL_DIAL_TIMEOUT", "30s"),
                    ("--command-timeout", "ETCDCTL_COMMAND_TIMEOUT", "30s"),
                ] {
                    if !text.contains(flag) {
                        command.env(variable, value);
                    }
                }
                command
            }
            Some("curl") => {
                let path = words.next().expect("curl has a path");
                let mut command = Command::new("curl");
                command.args(["--silent", "--show-error", "--no-buffer", "--max-time", "60"]);
                command.args(["--write-out", "\n%{http_code} %{content_type}\n"]);
                let server = if path.starts_with("https:") { String::new() } else { self.server.endpoint() };
                command.arg(server + &path).args(words);
                command
            }
            other => panic!("{other:?} is no command of a script"),
        }
    }
}

/// The part of `printed` that `how` names.
fn pick(printed: &str, how: &str) -> Option<String> {
    match how.split_once(' ')? {
        ("word", number) => printed.split_whitespace().nth(number.parse::<usize>().ok()? - 1).map(Into::into),
        ("json", field) => {
            let json: serde_json::Value = serde_json::from_str(printed.lines().next()?).ok()?;
            match json.get(field)? {
                serde_json::Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            }
        }
        _ => None,
    }
}

/// Splits at spaces; a quoted part is taken as it is.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c == ' ' => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn a_script_is_read_line_by_line() {
    let lines = parse("# a comment\n\netcdctl txn\n  | put a 1\n  |\nstop\n");
    let read: Vec<_> = lines.iter().map(|line| (line.number, &line.text[..], &line.input[..])).collect();
    assert_eq!(read, [(3, "etcdctl txn", "put a 1\n\n"), (6, "stop", "")]);
    assert_eq!(split("get '' \"a b\" x'y z'  w"), ["get", "", "a b", "xy z", "w"]);
    assert_eq!(pick("lease 1f granted", "word 2").as_deref(), Some("1f"));
    assert_eq!(pick("{\"ID\":\"7\"}\n200", "json ID").as_deref(), Some("7"));
}
