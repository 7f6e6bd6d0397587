//! Three members that are started as people start three etcds, each with addresses, files and a client port
//! of its own.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::certificates::{Material, Template};
use support::eventually;
use support::program::{Program, Running, WorkingFolder, etcdctl, try_etcdctl};
use support::server::{Port, Target};

/// The machines, certificates and processes of three members. They share the port numbers, since each
/// machine is an address of the loopback interface.
pub struct Deployment {
    pub folder: WorkingFolder,
    material: Material,
    target: Target,
    scheme: &'static str,
    names: [&'static str; 3],
    client: Port,
    peer: Port,
    metrics: Port,
    pub members: Vec<Option<Running>>,
}

/// The address under which the others reach a member's machine.
pub fn host(member: usize) -> String {
    format!("127.0.1.1{member}")
}

/// The address that stands for the loopback interface of a member's machine.
fn local(member: usize) -> String {
    format!("127.0.2.1{member}")
}

impl Deployment {
    /// The scheme is that of the client URLs.
    pub fn new(scheme: &'static str, names: [&'static str; 3]) -> Self {
        Self::of(Target::from_env(), scheme, names)
    }

    /// As [`Self::new`], for either server.
    pub fn of(target: Target, scheme: &'static str, names: [&'static str; 3]) -> Self {
        let material = Material::create();
        for (member, name) in names.iter().enumerate() {
            let (host, local) = (host(member), local(member));
            for kind in ["server", "peer"] {
                let hosts = &[&host, &local, *name, "localhost"];
                let pair = material.authority.issue(Template { name, hosts, ..Template::default() });
                material.write(&format!("{kind}{member}.pem"), pair.cert);
                material.write(&format!("{kind}{member}.key"), pair.key);
            }
        }
        let pair = material.authority.issue(Template { name: "client", ..Template::default() });
        material.write("client.pem", pair.cert);
        material.write("client.key", pair.key);
        let [client, peer, metrics] = [Port::claim(), Port::claim(), Port::claim()];
        let folder = WorkingFolder::new();
        Self {
            folder,
            material,
            target,
            scheme,
            names,
            client,
            peer,
            metrics,
            members: vec![None, None, None],
        }
    }

    /// Replaces `{names}` with the values of a member. `{host0}` is the first member's host, `{host}` its
    /// own.
    pub fn fill(&self, member: usize, text: &str) -> String {
        let mut text = text
            .replace("{client}", &self.client.number.to_string())
            .replace("{peer}", &self.peer.number.to_string())
            .replace("{metrics}", &self.metrics.number.to_string())
            .replace("{name}", self.names[member])
            .replace("{host}", &host(member))
            .replace("{local}", &local(member))
            .replace("{data}", &self.folder.arg(&format!("{}.etcd", self.names[member])))
            .replace("{ca.pem}", &self.material.arg("ca.pem"));
        for other in 0..3 {
            text = text.replace(&format!("{{host{other}}}"), &host(other));
        }
        for file in ["server.pem", "server.key", "peer.pem", "peer.key"] {
            let own = file.replace('.', &format!("{member}."));
            text = text.replace(&format!("{{{file}}}"), &self.material.arg(&own));
        }
        text
    }

    /// A member's command with these arguments, one a line, and these variables.
    pub fn command(&self, member: usize, args: &str, variables: &[(&str, &str)]) -> Command {
        let program = match self.target {
            Target::Jetway => Program::Link,
            Target::Etcd => Program::Etcd,
        };
        let mut command = self.folder.command(program);
        command.args(self.fill(member, args).lines().map(str::trim).filter(|arg| !arg.is_empty()));
        command.envs(variables.iter().map(|(name, value)| (*name, self.fill(member, value))));
        command
    }

    /// The same command in a mount namespace of its own, in which this file takes the place of one of the
    /// system's.
    pub fn with_file(&self, file: &Path, place: &str, command: &Command) -> Command {
        let mut inside = self.folder.command_of("unshare".into());
        // Without a user namespace only root may mount.
        inside.args(["--map-root-user", "--mount", "sh", "-c"]);
        inside.arg("mount --bind \"$0\" \"$1\" && shift && exec \"$@\"").arg(file).arg(place);
        inside.arg(command.get_program()).args(command.get_args());
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside
    }

    /// Starts a member and waits for nothing.
    pub fn begin(&mut self, member: usize, command: Command) {
        let log = self.folder.path(&format!("{}.log", self.names[member]));
        self.members[member] = Some(Running::begin(command, &log));
    }

    pub fn log(&self, member: usize) -> String {
        self.members[member].as_ref().expect("it was started").log()
    }

    /// Waits until a member serves.
    pub async fn serves(&mut self, member: usize) {
        self.members[member].as_mut().expect("it was started").serves().await;
    }

    /// Asks a member to stop, and waits until it has without an error.
    pub async fn stop(&mut self, member: usize) {
        let status = self.members[member].take().expect("it was started").stop().await;
        // etcd ends by the signal itself.
        let clean = if self.target == Target::Etcd { None } else { Some(0) };
        assert_eq!(status, clean);
    }

    /// Starts all members with these arguments and variables, and waits until they serve.
    pub async fn start(&mut self, args: &str, variables: &[(&str, &str)]) {
        for member in 0..3 {
            let command = self.command(member, args, variables);
            self.begin(member, command);
        }
        self.all_serve().await;
    }

    /// As [`Self::start`], each member with this file in place of one of the system's.
    pub async fn start_with_file(&mut self, file: &Path, place: &str, args: &str) {
        self.begin_with_file(file, place, args);
        self.all_serve().await;
    }

    /// The same, and waits for nothing.
    pub fn begin_with_file(&mut self, file: &Path, place: &str, args: &str) {
        for member in 0..3 {
            let command = self.with_file(file, place, &self.command(member, args, &[]));
            self.begin(member, command);
        }
    }

    /// Waits until all members serve.
    pub async fn all_serve(&mut self) {
        for member in 0..3 {
            self.serves(member).await;
        }
    }

    /// Adds a member as a learner, starts it with the members of the answer, and promotes it, as `kubeadm
    /// join` does. The first member is asked. Returns its arguments, with `{cluster}` filled in.
    pub async fn join(&mut self, member: usize, args: &str, peer_url: &str) -> String {
        let first = self.flags(&[0]);
        let url = self.fill(member, peer_url);
        let add = ["member", "add", self.names[member], "--learner", "--peer-urls", &url];
        let printed = eventually("a learner that is added", async || try_etcdctl(&first, &add).ok()).await;
        let line = |name: &str| {
            let value = printed.lines().find_map(|line| line.strip_prefix(name)).expect("a line of its own");
            value.trim_start_matches('=').trim_matches('"').to_owned()
        };
        let id = printed.split_whitespace().nth(1).expect("the id").to_owned();
        let args = args.replace("{cluster}", &line("ETCD_INITIAL_CLUSTER"));
        let args = format!("{args}\n--initial-cluster-state={}", line("ETCD_INITIAL_CLUSTER_STATE"));
        let command = self.command(member, &args, &[]);
        self.begin(member, command);
        let promote = ["member", "promote", &id];
        eventually("a learner that is promoted", async || try_etcdctl(&first, &promote).ok()).await;
        self.serves(member).await;
        args
    }

    /// The flags with which etcdctl reaches these members.
    pub fn flags(&self, members: &[usize]) -> Vec<String> {
        let urls: Vec<_> = members.iter().map(|&member| self.client_url(member)).collect();
        let mut flags = vec![format!("--endpoints={}", urls.join(","))];
        if self.scheme == "https" {
            for (name, file) in [("cacert", "ca.pem"), ("cert", "client.pem"), ("key", "client.key")] {
                flags.push(format!("--{name}={}", self.material.arg(file)));
            }
        }
        flags
    }

    pub fn client_url(&self, member: usize) -> String {
        format!("{}://{}:{}", self.scheme, host(member), self.client.number)
    }

    /// The output of etcdctl, which is given all members.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        etcdctl(&self.flags(&[0, 1, 2]), args)
    }

    /// The same as JSON; `None` if etcdctl fails.
    pub fn json(&self, args: &[&str]) -> Option<Value> {
        let printed = try_etcdctl(&self.flags(&[0, 1, 2]), &[args, &["--write-out=json"]].concat()).ok()?;
        printed.lines().find_map(|line| serde_json::from_str(line).ok())
    }

    /// The statuses of all members, in their order, once each has the same leader.
    pub async fn statuses(&self) -> Vec<Value> {
        eventually("one leader in the statuses of all members", async || {
            let Value::Array(statuses) = self.json(&["endpoint", "status", "--cluster"])? else {
                return None;
            };
            let of = |member: usize| {
                let url = self.client_url(member);
                statuses.iter().find(|status| status["Endpoint"] == url.as_str()).cloned()
            };
            let statuses = [of(0)?, of(1)?, of(2)?];
            let leader = &statuses[0]["Status"]["leader"];
            (*leader != 0 && statuses.iter().all(|status| status["Status"]["leader"] == *leader))
                .then_some(statuses.to_vec())
        })
        .await
    }

    /// The member that leads.
    pub async fn leader(&self) -> usize {
        let statuses = self.statuses().await;
        let leads = |status: &Value| status["Status"]["leader"] == status["Status"]["header"]["member_id"];
        statuses.iter().position(leads).expect("the leader is one of the members")
    }

    /// Checks with etcdctl that the members are one etcd, whose peer URLs have this form.
    pub async fn is_one_etcd(&self, peer_url: &str) {
        for member in 0..3 {
            let (key, value) = (format!("/from/{member}"), self.names[member]);
            assert_eq!(etcdctl(&self.flags(&[member]), &["put", &key, value]), "OK\n");
        }
        for member in 0..3 {
            let read = etcdctl(&self.flags(&[member]), &["get", "/from/", "--prefix", "--print-value-only"]);
            assert_eq!(read.lines().collect::<Vec<_>>(), self.names);
        }
        let members = eventually("three started members", async || {
            let members = self.etcdctl(&["member", "list"]);
            (members.matches(", started, ").count() == 3).then_some(members)
        })
        .await;
        for member in 0..3 {
            let (name, client) = (self.names[member], self.client_url(member));
            let line = format!(", started, {name}, {}, {client}, false", self.fill(member, peer_url));
            assert!(members.lines().any(|shown| shown.ends_with(&line)), "{line}\n{members}");
        }
        assert_eq!(self.statuses().await.len(), 3);
    }

    /// A member does not warn of anything that its command line asks for.
    pub fn warn_of_nothing(&self) {
        for member in 0..3 {
            let log = self.log(member);
            let warnings: Vec<_> = log
                .lines()
                .filter(|line| line.contains("\"level\":\"warn\""))
                .filter(|line| line.contains("--") || line.contains("ETCD_"))
                .collect();
            assert!(self.target == Target::Etcd || warnings.is_empty(), "{warnings:#?}");
        }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.names {
                let log = std::fs::read_to_string(self.folder.path(&format!("{name}.log")));
                println!("the log of {name}:\n{}", log.unwrap_or_default());
            }
        }
    }
}
