//! Hosts with a network between them that can be cut: each is a network namespace of the kernel.
//!
//! It needs the rights of root. `make faults-network` runs the tests in a namespace of their own, so that
//! nothing outside can reach the servers, and all is gone when they end.

use std::path::Path;
use std::process::Command;

const BRIDGE: &str = "jetway-bridge";
/// Addresses that no network uses but for measurements.
const NET: &str = "198.18.0";

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: String,
    name: String,
}

impl Host {
    /// A command that runs a program on it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.name], args].concat());
    }
}

/// Hosts that reach each other and that this process reaches.
#[derive(Debug)]
pub struct Network {
    pub hosts: Vec<Host>,
}

impl Network {
    /// Builds a network.
    pub fn new(count: usize) -> Self {
        let links = output(&["-o", "link", "show", "up"]);
        assert!(
            !links.lines().any(|link| !link.contains(": lo:")),
            "run this by `make faults-network`, in a network namespace of its own:\n{links}"
        );
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", BRIDGE, "type", "bridge"]);
        ip(&["addr", "add", &format!("{NET}.254/24"), "dev", BRIDGE]);
        ip(&["link", "set", BRIDGE, "up"]);
        let hosts = (1..=count).map(|number| {
            let host = Host { address: format!("{NET}.{number}"), name: format!("jetway-{number}") };
            let link = format!("to-{number}");
            ip(&["netns", "add", &host.name]);
            ip(&["link", "add", &link, "type", "veth", "peer", "name", "net", "netns", &host.name]);
            ip(&["link", "set", &link, "master", BRIDGE, "up"]);
            host.ip(&["addr", "add", &format!("{}/24", host.address), "dev", "net"]);
            host.ip(&["link", "set", "lo", "up"]);
            host.ip(&["link", "set", "net", "up"]);
            host
        });
        Self { hosts: hosts.collect() }
    }

    /// Packets from one host to another one are lost from now on.
    pub fn cut(&self, from: usize, to: usize) {
        self.hosts[from].ip(&["route", "replace", "blackhole", &format!("{}/32", self.hosts[to].address)]);
    }

    /// Ends all cuts.
    pub fn heal(&self) {
        for host in &self.hosts {
            host.ip(&["route", "flush", "type", "blackhole"]);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            drop(Command::new("ip").args(["netns", "del", &host.name]).status());
        }
        drop(Command::new("ip").args(["link", "del", BRIDGE]).status());
    }
}

fn ip(args: &[&str]) {
    output(args);
}

fn output(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
