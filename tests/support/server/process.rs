//! Processes: their start, their signals, and the children that they have.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{LazyLock, Mutex, mpsc};

/// Sends `signal` to one process.
pub fn signal(pid: u32, signal: i32) {
    #[expect(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
    // SAFETY: kill(2) takes two numbers and touches no memory of ours.
    let result = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(result, 0, "signal {signal} to {pid}: {}", io::Error::last_os_error());
}

/// Whether the process runs. One that nobody has collected yet is dead.
pub fn alive(pid: u32) -> bool {
    status_of(pid, "State:").is_some_and(|state| !state.starts_with('Z'))
}

/// The nats-server that a process runs as its child.
pub fn nats_of(parent: u32) -> Option<u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(
        |&pid| {
            parent_of(pid) == Some(parent)
                && name_of(pid).as_deref() == Some("nats-server")
                && !is_asked_for_its_version(pid)
                && alive(pid)
        },
    )
}

fn parent_of(pid: u32) -> Option<u32> {
    status_of(pid, "PPid:")?.parse().ok()
}

fn status_of(pid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(field))?.trim().to_owned())
}

/// jetway asks each nats-server before it runs it.
fn is_asked_for_its_version(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"--version\0"))
}

fn name_of(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

/// Lets the process open so many files and no more; it cannot raise the limit itself.
pub(super) fn limit_descriptors(command: &mut Command, descriptors: u64) {
    let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: descriptors };
    #[expect(unsafe_code, reason = "only the child can limit itself")]
    let limit_child = move || {
        // SAFETY: setrlimit reads the limits during the call only.
        match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: between fork and exec the closure makes one async-signal-safe call and allocates nothing.
    unsafe {
        command.pre_exec(limit_child);
    }
}

/// Starts a process that the kernel kills when this one ends, however it ends.
///
/// The kernel ties that promise to the thread that started the child, and test threads come and go, so one
/// thread that lives as long as the process starts them all. The child gets none of the servers' variables
/// that this process has, except the path of nats-server: they are settings of the tests.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                drop(answer.send(command.spawn()));
            }
        });
        Mutex::new(jobs)
    });
    #[expect(unsafe_code, reason = "only the child itself can ask for this signal")]
    let die_with_us = || {
        // SAFETY: prctl with this option takes plain numbers and touches no memory of ours.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: between fork and exec the closure makes one async-signal-safe call and allocates nothing.
    unsafe {
        command.pre_exec(die_with_us);
    }
    let set: Vec<OsString> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    let is_setting = |name: &OsString| {
        let text = name.to_string_lossy();
        ["ETCD_", "KINE_", "JETWAY_"].iter().any(|prefix| text.starts_with(prefix))
            && text != "JETWAY_NATS_SERVER"
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name) && !set.contains(name)) {
        command.env_remove(name);
    }
    let (answer, child) = mpsc::channel();
    SPAWNER.lock().unwrap().send((command, answer)).expect("the spawner lives");
    child.recv().expect("the spawner answers")
}
