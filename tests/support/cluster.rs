//! Members of a cluster that are started with etcd's flags: the same for a jetway and for an etcd.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use crate::client::Client;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::proxy::Proxy;
use crate::server::{Launch, Server, Target};

/// The members, each with a name, a client URL and a peer URL of its own.
#[derive(Debug)]
pub struct Cluster {
    pub members: Vec<Server>,
    target: Target,
    names: Vec<String>,
    scheme: &'static str,
    more: Vec<String>,
    /// The ways to the members' peer ports, if these are not reached straight.
    pub routes: Vec<Proxy>,
}

impl Cluster {
    /// Members of the target under test that are yet to be started.
    pub fn prepare(count: usize) -> Self {
        Self::prepare_with(count, "http", &[])
    }

    /// As [`Self::prepare`], with a scheme for the peer URLs and more flags.
    pub fn prepare_with(count: usize, scheme: &'static str, more: &[&str]) -> Self {
        Self::prepare_as(Target::from_env(), count, scheme, more)
    }

    /// As [`Self::prepare_with`], for either server.
    pub fn prepare_as(target: Target, count: usize, scheme: &'static str, more: &[&str]) -> Self {
        let more = more.iter().map(ToString::to_string).collect();
        let mut cluster =
            Self { members: Vec::new(), target, names: Vec::new(), scheme, more, routes: Vec::new() };
        for _ in 0..count {
            cluster.add();
        }
        let all = cluster.list(0..count);
        for member in 0..count {
            cluster.set_flags(member, &all, "new", &[]);
        }
        cluster
    }

    /// As [`Self::prepare`], each member on a host of the network.
    pub fn prepare_on(network: &Network) -> Self {
        let mut cluster = Self::prepare(network.hosts.len());
        for (member, host) in cluster.members.iter_mut().zip(&network.hosts) {
            member.set_host(host.clone());
        }
        let all = cluster.list(0..network.hosts.len());
        for member in 0..network.hosts.len() {
            cluster.set_flags(member, &all, "new", &[]);
        }
        cluster
    }

    /// As [`Self::prepare`]; the members reach each other through proxies.
    pub async fn prepare_behind_proxies(count: usize) -> Self {
        let mut cluster = Self::prepare(count);
        for member in &cluster.members {
            cluster.routes.push(Proxy::to(member.peer_address(), usize::MAX).await);
        }
        let all = cluster.list(0..count);
        for member in 0..count {
            cluster.set_flags(member, &all, "new", &[]);
        }
        cluster
    }

    /// One more member, without flags.
    pub fn add(&mut self) -> usize {
        self.members.push(Server::create(self.target, Launch::default()));
        self.names.push(format!("m{}", self.members.len()));
        self.members.len() - 1
    }

    /// The value of `--initial-cluster` for these members.
    pub fn list(&self, members: impl IntoIterator<Item = usize>) -> String {
        let entries = members.into_iter().map(|of| format!("{}={}", self.names[of], self.advertised(of)));
        entries.collect::<Vec<_>>().join(",")
    }

    /// Exchanges two members, so that another one is the first.
    pub fn swap(&mut self, one: usize, other: usize) {
        self.members.swap(one, other);
        self.names.swap(one, other);
    }

    pub fn name(&self, member: usize) -> &str {
        &self.names[member]
    }

    /// Forgets the member that was added last.
    pub fn forget_last(&mut self) {
        self.members.pop();
        self.names.pop();
    }

    /// The name of a member from its next start on.
    pub fn rename(&mut self, member: usize, name: &str) {
        name.clone_into(&mut self.names[member]);
    }

    pub fn peer_url(&self, member: usize) -> String {
        format!("{}://{}", self.scheme, self.members[member].peer_address())
    }

    /// The peer URL by which the others reach a member.
    fn advertised(&self, member: usize) -> String {
        match self.routes.get(member) {
            Some(route) => format!("{}://{}", self.scheme, route.address),
            None => self.peer_url(member),
        }
    }

    /// The flags of a member's next start.
    pub fn set_flags(&mut self, member: usize, initial_cluster: &str, state: &str, more: &[&str]) {
        let (peer, advertised) = (self.peer_url(member), self.advertised(member));
        let mut flags = vec!["--name", &self.names[member], "--listen-peer-urls", &peer];
        flags.extend(["--initial-advertise-peer-urls", &advertised, "--initial-cluster", initial_cluster]);
        flags.extend(["--initial-cluster-state", state, "--initial-cluster-token", "of-a-test"]);
        flags.extend(self.more.iter().map(String::as_str));
        flags.extend(more);
        let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        self.members[member].set_args(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Starts all members together and waits until each serves.
    pub async fn start(count: usize) -> Self {
        let mut cluster = Self::prepare(count);
        cluster.start_all().await;
        cluster
    }

    /// As [`Self::start`], of jetways whatever the target under test is: etcd has no such behaviour.
    pub async fn start_jetways(count: usize) -> Self {
        let mut cluster = Self::prepare_as(Target::Jetway, count, "http", &[]);
        cluster.start_all().await;
        cluster
    }

    pub async fn start_all(&mut self) {
        for member in &mut self.members {
            member.begin();
        }
        for member in &mut self.members {
            member.is_up().await;
        }
    }

    /// The members on which the stream has copies beside its leader, by a member's metrics, and whether each
    /// copy is current. etcd has no such metric.
    pub async fn replicas(&self, by: usize) -> BTreeMap<String, bool> {
        let metrics = Metrics::scrape(&self.members[by].address()).await;
        let of = |(series, value): &(String, f64)| {
            let server =
                series.strip_prefix("jetway_stream_replica_current{server=\"")?.strip_suffix("\"}")?;
            Some((server.to_owned(), *value > 0.5))
        };
        metrics.series.iter().filter_map(of).collect()
    }

    /// Waits until the stream has a current copy on each of these members, and on no other.
    pub async fn has_copies_on(&self, by: usize, members: &[usize]) {
        if self.members[by].target() == Target::Etcd {
            return;
        }
        let names: Vec<&str> = members.iter().map(|&member| self.name(member)).collect();
        let what = format!("copies on {names:?}");
        crate::eventually(&what, async || {
            let replicas = self.replicas(by).await;
            let fits = replicas.iter().all(|(name, current)| *current && names.contains(&name.as_str()));
            (fits && replicas.len() + 1 == names.len()).then_some(())
        })
        .await;
    }

    /// A client for each member.
    pub async fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for member in &self.members {
            clients.push(member.client().await);
        }
        clients
    }

    /// The member whose id the others name as the leader, once all members agree.
    pub async fn leader(&self, clients: &[Client]) -> usize {
        crate::eventually("one leader", async || {
            let mut asked: JoinSet<_> =
                clients.iter().cloned().map(|client| async move { client.status().await }).collect();
            let mut statuses = Vec::new();
            while let Some(status) = asked.join_next().await {
                statuses.push(status.ok()?.ok()?);
            }
            let leader = statuses.first()?.leader;
            if leader == 0 || statuses.iter().any(|status| status.leader != leader) {
                return None;
            }
            let members = clients[0].members().await.ok()?.members;
            let name = &members.iter().find(|member| member.id == leader)?.name;
            self.names.iter().position(|known| known == name)
        })
        .await
    }
}
