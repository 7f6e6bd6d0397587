//! Each kind of file that nats-server keeps for a member of a cluster is damaged in each way, on one member
//! at a time: Jepsen's report on NATS 2.12.1 has shown losses by that. The end is the right data through each
//! member, or a refusal that names the damage and a remedy that works.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use support::client::{Client, all};
use support::cluster::Cluster;
use support::eventually;
use support::server::{Server, Target};

use super::faults::all_meet;
use super::forming::{all_hold_the_same, writes_again};
use super::members::started;
use super::rot::is_named_in;
use super::stream_leader::is_led_by;

/// A kind of file in a store, the largest one of which is damaged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// Messages of the stream.
    Messages,
    /// The index of the stream's messages.
    Index,
    /// The stream's settings.
    Settings,
    /// Raft's log of a group, the stream's or that of the metadata.
    Log(Group),
    /// The newest snapshot of a group.
    Snapshot(Group),
    /// The members of a group.
    Peers(Group),
    /// The term and the vote of a group.
    Term(Group),
}

/// A Raft group of NATS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Group {
    Stream,
    Metadata,
}

const PARTS: [Part; 11] = [
    Part::Messages,
    Part::Index,
    Part::Settings,
    Part::Log(Group::Stream),
    Part::Snapshot(Group::Stream),
    Part::Peers(Group::Stream),
    Part::Term(Group::Stream),
    Part::Log(Group::Metadata),
    Part::Snapshot(Group::Metadata),
    Part::Peers(Group::Metadata),
    Part::Term(Group::Metadata),
];

impl Part {
    /// The largest file of this kind below a data directory; of the same size, the last one.
    fn file(self, data: &Path) -> Option<PathBuf> {
        let stream = data.join("nats/jetstream/JW/streams/KV_jetway");
        let group = |group| match group {
            Group::Metadata => data.join("nats/jetstream/$SYS/_js_/_meta_"),
            Group::Stream => {
                let groups = fs::read_dir(data.join("nats/jetstream/$SYS/_js_")).unwrap();
                let of_stream =
                    |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("S-");
                groups.map(|entry| entry.unwrap().path()).find(of_stream).expect("a group of the stream")
            }
        };
        let (folder, ending) = match self {
            Part::Messages => (stream.join("msgs"), ".blk"),
            Part::Index => (stream.join("msgs"), "index.db"),
            Part::Settings => (stream, "meta.inf"),
            Part::Log(of) => (group(of).join("msgs"), ".blk"),
            Part::Snapshot(of) => (group(of).join("snapshots"), ""),
            Part::Peers(of) => (group(of), "peers.idx"),
            Part::Term(of) => (group(of), "tav.idx"),
        };
        let files = fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path());
        let fits = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().ends_with(ending);
        // A file may go while the server runs.
        let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
        files.filter(fits).filter(|path| size(path) > 0).max_by_key(size)
    }
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    /// A bit in the middle is another one.
    Flipped,
    /// The last third is missing.
    Cut,
    Removed,
}

const HARMS: [Harm; 3] = [Harm::Flipped, Harm::Cut, Harm::Removed];

impl Harm {
    fn inflict(self, file: &Path) {
        use std::os::unix::fs::FileExt as _;
        let open = || fs::File::options().read(true).write(true).open(file).unwrap();
        match self {
            // In place, since a server may have it open.
            Harm::Flipped => {
                let (file, mut byte) = (open(), [0]);
                let middle = file.metadata().unwrap().len() / 2;
                file.read_exact_at(&mut byte, middle).unwrap();
                byte[0] ^= 0x10;
                file.write_all_at(&byte, middle).unwrap();
            }
            Harm::Cut => {
                let file = open();
                file.set_len(file.metadata().unwrap().len() * 2 / 3).unwrap();
            }
            Harm::Removed => fs::remove_file(file).unwrap(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    part: Part,
    harm: Harm,
    /// Damaged while the server runs, which then dies with the machine; else while it is stopped.
    is_running: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { part, harm, is_running } = self;
        write!(f, "{part:?} {harm:?} {}", if *is_running { "while it runs" } else { "while it is stopped" })
    }
}

/// The end of a case.
#[derive(Debug)]
enum End {
    /// There is no such file.
    Skipped,
    /// All is right, and nobody needed to do anything.
    Healed,
    /// The log names the damaged copy, and another one is read.
    Named,
    /// The member does not start, and its log names a remedy.
    Refused,
}

struct Bench {
    cluster: Cluster,
    clients: Vec<Client>,
    /// The keys that were written, each with its number as the value's beginning.
    keys: usize,
}

/// Several of them fill a block of the store.
const BYTES: usize = 50_000;

impl Bench {
    async fn start() -> Self {
        let cluster = Cluster::start_jetways(3).await;
        let clients = cluster.clients().await;
        all_meet(&cluster, &clients).await;
        Self { cluster, clients, keys: 0 }
    }

    async fn write(&mut self, through: usize) {
        for key in self.keys..self.keys + 20 {
            writes_again(&self.clients[through]).await;
            self.clients[through].put(format!("/ledger/{key}"), format!("{key} {}", "v".repeat(BYTES))).await;
        }
        self.keys += 20;
    }

    /// Each member has all that was written, and the same.
    async fn is_whole(&self) {
        all_hold_the_same(&self.clients).await;
        for client in &self.clients {
            let kvs = client.range(all("/ledger/")).await.unwrap().kvs;
            assert_eq!(kvs.len(), self.keys, "keys are lost");
            for kv in kvs {
                let (key, value) = (String::from_utf8(kv.key.to_vec()).unwrap(), kv.value);
                let number = key.rsplit('/').next().unwrap();
                let begins = value.starts_with(format!("{number} v").as_bytes());
                assert!(begins && value.ends_with(b"vv"), "{key} has another value");
            }
        }
    }

    /// Whether a log names the copy of a member as damaged, behind a length of each log.
    fn is_named(&self, member: usize, behind: &[usize]) -> bool {
        let logs = self.cluster.members.iter().map(Server::log);
        let by_others =
            logs.zip(behind).any(|(log, behind)| is_named_in(&log[*behind..], self.cluster.name(member)));
        let own = self.cluster.members[member].log();
        by_others || own[behind[member]..].contains("the store of this member is damaged")
    }

    /// The remedy of the log: the member begins again without data.
    async fn begins_again(&mut self, member: usize) {
        fs::remove_dir_all(self.cluster.members[member].dir().join("data")).unwrap();
        self.cluster.members[member].restart().await;
        self.cluster.has_copies_on(member, &[0, 1, 2]).await;
    }

    /// The copy of a member is read by the others when they start, if its damage is not found before.
    async fn copy_is_read(&mut self, member: usize, behind: &[usize]) {
        let (next, other) = ((member + 1) % 3, (member + 2) % 3);
        let leader = self.cluster.leader(&self.clients).await;
        if leader != member {
            let id = started(&self.clients[next], self.cluster.name(member)).await.id;
            self.clients[leader].move_leader(id).await.unwrap();
        }
        eventually("the damaged copy to lead", async || {
            let leads = is_led_by(&self.cluster, member).await;
            (leads || self.is_named(member, behind)).then_some(())
        })
        .await;
        for restarted in [next, other] {
            assert!(self.cluster.members[restarted].stop().await.success());
            self.cluster.members[restarted].restart().await;
            all_meet(&self.cluster, &self.clients).await;
        }
    }

    async fn run(&mut self, case: Case, member: usize) -> End {
        let next = (member + 1) % 3;
        self.write(next).await;
        let data = self.cluster.members[member].dir().join("data");
        let behind: Vec<_> = self.cluster.members.iter().map(|member| member.log().len()).collect();
        if !case.is_running {
            assert!(self.cluster.members[member].stop().await.success());
        }
        let file = case.part.file(&data);
        if let Some(file) = &file {
            case.harm.inflict(file);
        }
        self.write(next).await;
        if case.is_running {
            self.cluster.members[member].kill_machine();
            self.write(next).await;
        }
        let served = self.cluster.members[member].try_restart().await;
        if file.is_none() {
            served.unwrap();
            return End::Skipped;
        }
        if let Err(problem) = served {
            let log = self.cluster.members[member].log();
            assert!(
                log[behind[member]..].contains("remove its --data-dir"),
                "{case}: {problem} without a remedy\n{log}"
            );
            self.begins_again(member).await;
            self.is_whole().await;
            return End::Refused;
        }
        self.is_whole().await;
        if !self.is_named(member, &behind) {
            self.copy_is_read(member, &behind).await;
            self.is_whole().await;
        }
        if !self.is_named(member, &behind) {
            self.cluster.has_copies_on(member, &[0, 1, 2]).await;
            return End::Healed;
        }
        assert!(self.cluster.members[member].stop().await.success());
        self.begins_again(member).await;
        self.is_whole().await;
        End::Named
    }
}

async fn run(cases: impl Iterator<Item = Case>) {
    if Target::from_env() == Target::Etcd {
        return;
    }
    let mut bench = Bench::start().await;
    for (at, case) in cases.enumerate() {
        println!("{case} on member {}", at % 3);
        let begun = std::time::Instant::now();
        let end = bench.run(case, at % 3).await;
        println!("{case}: {end:?} in {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_of_one_member_costs_nothing() {
    let case = |(part, harm, is_running)| Case { part, harm, is_running };
    let cases = [
        (Part::Messages, Harm::Flipped, false),
        (Part::Messages, Harm::Cut, true),
        (Part::Index, Harm::Removed, false),
        (Part::Log(Group::Stream), Harm::Flipped, false),
        (Part::Log(Group::Stream), Harm::Cut, true),
        (Part::Snapshot(Group::Stream), Harm::Flipped, false),
        (Part::Log(Group::Metadata), Harm::Removed, false),
        (Part::Snapshot(Group::Metadata), Harm::Flipped, true),
    ];
    run(cases.into_iter().map(case)).await;
}

/// Without its metadata NATS knows no stream. The cluster does not begin anew then, and its data is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_its_metadata_does_not_begin_empty() {
    if Target::from_env() == Target::Etcd {
        return;
    }
    let mut bench = Bench::start().await;
    bench.write(0).await;
    for member in &mut bench.cluster.members {
        assert!(member.stop().await.success());
    }
    let metadata = |server: &Server| server.dir().join("data/nats/jetstream/$SYS/_js_/_meta_");
    for member in &mut bench.cluster.members {
        fs::rename(metadata(member), member.dir().join("kept")).unwrap();
    }
    let behind: Vec<_> = bench.cluster.members.iter().map(|member| member.log().len()).collect();
    for member in &mut bench.cluster.members {
        member.begin();
    }
    let refuses = "do not know stream KV_jetway any more";
    // The first ones that end take the majority away from the last one.
    eventually("a refusal", async || {
        let mut members = bench.cluster.members.iter_mut();
        members.any(|member| member.has_ended().is_some() && member.log().contains(refuses)).then_some(())
    })
    .await;
    for (member, behind) in bench.cluster.members.iter_mut().zip(behind) {
        member.kill_machine();
        assert!(!member.log()[behind..].contains("ready to serve"), "{}", member.log());
        fs::remove_dir_all(metadata(member)).unwrap();
        fs::rename(member.dir().join("kept"), metadata(member)).unwrap();
    }
    bench.cluster.start_all().await;
    bench.is_whole().await;
}

#[ignore = "a quarter of an hour: make damage"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_damaged_file_of_one_member_costs_nothing() {
    let only = std::env::var("CASE").unwrap_or_default();
    let cases = PARTS.into_iter().flat_map(|part| {
        let ways = HARMS.into_iter().flat_map(|harm| [false, true].map(|is_running| (harm, is_running)));
        ways.map(move |(harm, is_running)| Case { part, harm, is_running })
    });
    run(cases.filter(|case| case.to_string().contains(&only))).await;
}
