//! A client program as a child process: what it prints is collected while it runs.

use std::io::{Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::server::{signal, spawn};

/// The longest that a client may take for one step. Some steps wait for a lease to expire.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The end of [`Process::lines`] if the program prints no more.
pub const GAVE_UP: &str = "<and no more>\n";

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// `None` where a signal ended it.
    pub code: Option<i32>,
}

pub struct Process {
    child: Child,
    stdout: Printed,
    stderr: Printed,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = spawn(command).unwrap_or_else(|error| panic!("start {name}: {error}"));
        let stdout = Printed::collect(child.stdout.take().expect("it is piped"));
        let stderr = Printed::collect(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr }
    }

    /// Runs `command` on `input` to its end.
    pub fn run(command: Command, input: &str) -> Ended {
        let mut process = Self::start(command);
        process.send(input);
        process.end()
    }

    /// Writes to its standard input. That it may have ended already shows in how it ended.
    pub fn send(&mut self, text: &str) {
        if let Some(stdin) = &mut self.child.stdin {
            drop(stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()));
        }
    }

    /// The next `count` lines of its output, or fewer if it ends before or writes no more.
    pub fn lines(&mut self, count: usize) -> String {
        self.stdout.take_lines(count)
    }

    /// The output that [`Self::lines`] has not returned yet.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.stdout.shared.0.lock().unwrap().bytes).into_owned()
    }

    /// Not by SIGINT, which a process that was started in the background may ignore.
    pub fn terminate(&mut self) {
        signal(self.child.id(), libc::SIGTERM);
    }

    /// Ends its input and waits for its end; the output is what [`Self::lines`] has not handed out.
    pub fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            // One that hangs shows in how it ended.
            if Instant::now() > deadline {
                self.child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Ended { stdout: self.stdout.rest(), stderr: self.stderr.rest(), code: status.code() }
    }
}

/// The output that a thread reads from one of the child's pipes.
struct Printed {
    shared: Arc<(Mutex<Pipe>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Pipe {
    bytes: Vec<u8>,
    ended: bool,
}

impl Printed {
    fn collect(mut pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::<(Mutex<Pipe>, Condvar)>::default();
        let writer = shared.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                let count = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = writer.0.lock().unwrap();
                state.bytes.extend(&buffer[..count]);
                state.ended = count == 0;
                writer.1.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        Self { shared, reader: Some(reader) }
    }

    fn take_lines(&self, count: usize) -> String {
        let deadline = Instant::now() + TIMEOUT;
        let mut state = self.shared.0.lock().unwrap();
        loop {
            let ends = state.bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            let last = ends.map(|(at, _)| at + 1).nth(count.saturating_sub(1));
            if let Some(end) = last.or_else(|| state.ended.then_some(state.bytes.len())) {
                let taken = state.bytes.drain(..end).collect::<Vec<_>>();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let printed = std::mem::take(&mut state.bytes);
                return String::from_utf8_lossy(&printed).into_owned() + GAVE_UP;
            }
            state = self.shared.1.wait_timeout(state, left).unwrap().0;
        }
    }

    fn rest(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading a pipe does not panic");
        }
        std::mem::take(&mut self.shared.0.lock().unwrap().bytes)
    }
}
