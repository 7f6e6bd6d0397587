//! Damage: each file of the embedded store, and jetway's own mark beside it, is cut, changed or removed in
//! many ways. The next start serves all the data as it was, or it refuses and names the trouble. It never
//! serves anything else.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use jetway::proto::authpb::{Role, permission::Type};
use jetway::proto::etcdserverpb::{HashKvRequest, HashKvResponse, PutRequest, RangeRequest};
use jetway::proto::mvccpb::KeyValue;

use super::files_below;
use super::tail::{copy, kill_both, marked};
use support::auth::{add_user, enable, permission};
use support::client::{Client, all, op, put, revision, run};
use support::server::Server;

const SYNC: &[&str] = &["--sync", "group", "--bcrypt-cost", "4"];
const ACCEPT: &[&str] =
    &["--sync", "group", "--bcrypt-cost", "4", "--accept-data-loss", "--log-level", "debug"];
/// Of the store, below the data directory.
const STREAM: &str = "nats/jetstream/$G/streams/KV_jetway";
const MARK: &str = "synced-jetway";
/// Cases that run at once.
const AT_ONCE: usize = 4;

/// The damage that is done to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Emptied,
    /// So many bytes are missing at its end.
    Cut(usize),
    /// One bit is changed at so many hundredths of the file.
    Flipped(u64),
    Removed,
}

const HARMS: &[Harm] = &[
    Harm::Emptied,
    Harm::Cut(10),
    // Several records.
    Harm::Cut(3000),
    Harm::Flipped(0),
    Harm::Flipped(20),
    Harm::Flipped(50),
    Harm::Flipped(80),
    Harm::Flipped(100),
    Harm::Removed,
];

impl Harm {
    fn inflict(self, file: &Path) {
        let mut bytes = fs::read(file).unwrap();
        match self {
            Harm::Emptied => bytes.clear(),
            Harm::Cut(missing) => bytes.truncate(bytes.len().saturating_sub(missing)),
            Harm::Flipped(at) => {
                // Not the first and the last byte: those of a header's middle, and of the last record's end.
                let last = bytes.len() - 1;
                let at = (last as u64 * at / 100).clamp(6.min(last as u64), last.saturating_sub(4) as u64);
                bytes[at as usize] ^= 0x10;
            }
            Harm::Removed => return fs::remove_file(file).unwrap(),
        }
        fs::write(file, bytes).unwrap();
    }
}

/// Everything that a client can see.
#[derive(Debug, PartialEq)]
struct Seen {
    revision: i64,
    kvs: Vec<KeyValue>,
    /// Behind the floor, between, and at the end.
    hashes: Vec<HashKvResponse>,
    history: Vec<Vec<KeyValue>>,
    leases: Vec<(i64, i64, Vec<bytes::Bytes>)>,
    users: Vec<(String, Vec<String>)>,
    roles: Vec<Role>,
}

impl Seen {
    fn compare(&self, before: &Seen) -> Result<(), String> {
        let same = [
            ("revision", self.revision == before.revision),
            ("keys", self.kvs == before.kvs),
            ("hashes", self.hashes == before.hashes),
            ("history", self.history == before.history),
            ("leases", self.leases == before.leases),
            ("users", self.users == before.users),
            ("roles", self.roles == before.roles),
        ];
        let other: Vec<_> = same.into_iter().filter(|(_, same)| !same).map(|(what, _)| what).collect();
        if other.is_empty() {
            return Ok(());
        }
        let hashes = (&self.hashes, &before.hashes);
        Err(format!(
            "other data is served: {other:?}, revision {} for {}, {hashes:?}",
            self.revision, before.revision
        ))
    }
}

/// Looks at everything as root. Fails where root cannot log in, or where anybody may do what needs a
/// password.
async fn look(server: &Server, floor: i64, end: i64) -> Result<Seen, String> {
    let nobody = server.client().await;
    let refused = nobody.get("/k/0").await.err().map(|status| status.message().to_owned());
    if refused.as_deref() != Some("etcdserver: user name is empty") {
        return Err(format!("without a name a read is answered with {refused:?}"));
    }
    let name = |status: tonic::Status| format!("{status:?}");
    let answer = nobody.authenticate("reader", "reader").await.map_err(name)?;
    let reader = nobody.with_token(&answer.token);
    if reader.get("/k/0").await.map_err(name)?.kvs.len() != 1
        || reader.put_request(put("/k/0", "")).await.is_ok()
    {
        return Err("a user may read less, or write more".into());
    }
    let answer = nobody.authenticate("root", "root").await.map_err(name)?;
    let client = nobody.with_token(&answer.token);
    let now = client.range(all("")).await.map_err(name)?;
    let (mut hashes, mut history) = (Vec::new(), Vec::new());
    // The hash at the floor itself is remembered as it was before the compaction, until a restart.
    for at in [floor + 1, floor.midpoint(end), end] {
        let path = "/etcdserverpb.Maintenance/HashKV";
        let mut hash: HashKvResponse =
            client.unary(path, HashKvRequest { revision: at }).await.map_err(name)?;
        // Term and index move with each start.
        hash.header = None;
        hashes.push(hash);
        history.push(client.range(RangeRequest { revision: at, ..all("") }).await.map_err(name)?.kvs);
    }
    let below = client.range(RangeRequest { revision: floor - 1, ..all("") }).await.err();
    if below.is_none_or(|status| !status.message().ends_with("has been compacted")) {
        return Err("the compaction floor is lower".into());
    }
    let mut leases = Vec::new();
    for lease in client.leases().await.map_err(name)?.leases {
        let mut left = client.lease_time_to_live(lease.id, true).await.map_err(name)?;
        left.keys.sort();
        leases.push((lease.id, left.granted_ttl, left.keys));
    }
    leases.sort();
    let mut users = Vec::new();
    for user in client.user_list().await.map_err(name)?.users {
        let roles = client.user_get(&user).await.map_err(name)?.roles;
        users.push((user, roles));
    }
    let mut roles = Vec::new();
    for role in ["reader", "writer"] {
        let perm = client.role_get(role).await.map_err(name)?.perm;
        roles.push(Role { name: role.into(), key_permission: perm });
    }
    Ok(Seen { revision: revision(&now.header), kvs: now.kvs, hashes, history, leases, users, roles })
}

/// A data directory and what it holds.
struct Prepared {
    name: &'static str,
    dir: PathBuf,
    seen: Seen,
    floor: i64,
}

/// A little of everything, over several blocks, with much of it compacted and a history above the floor.
async fn fill(client: &Client) -> i64 {
    client.lease_grant(7, 6000).await.unwrap();
    client.lease_grant(8, 7000).await.unwrap();
    client.lease_grant(9, 8000).await.unwrap();
    for at in 0..60 {
        client.put(format!("/large/{}", at % 10), vec![b'a' + (at % 26) as u8; 200_000]).await;
        client.put(format!("/k/{}", at % 20), format!("first {at}")).await;
        let txn = run((0..3).map(|key| op(put(format!("/t/{key}"), format!("first {at}")))).collect());
        client.txn(txn).await.unwrap();
        let lease = 7 + at % 3;
        client.put_request(PutRequest { lease, ..put(format!("/leased/{}", at % 9), "v") }).await.unwrap();
    }
    client.lease_revoke(9).await.unwrap();
    client.delete("/k/19").await;
    client.delete("/large/9").await;
    let floor = client.revision().await - 40;
    client.compact(floor).await.unwrap();
    client.defragment().await.unwrap();
    for at in 0..30 {
        client.put(format!("/k/{}", at % 20), format!("second {at}")).await;
        client.put(format!("/new/{at}"), "n").await;
    }
    client.delete("/new/29").await;
    floor
}

/// Prepares a directory that was stopped in good order, and one whose processes were killed. Each holds an
/// index of the stream that nats-server has written: that of the second one is older than its end.
async fn prepare(server: &mut Server) -> [Prepared; 2] {
    let client = server.client().await;
    let root = enable(&client).await;
    add_user(&root, "reader", &[permission(Type::Read, "/", "0")]).await;
    add_user(&root, "writer", &[permission(Type::Readwrite, "/k/", "/k0")]).await;
    let floor = fill(&root).await;
    let end = root.revision().await;
    server.stop().await;
    let clean = server.dir().join("clean");
    copy(&server.dir().join("data"), &clean);
    server.restart().await;
    let seen = look(server, floor, end).await.expect("it is whole");
    let clean = Prepared { name: "stopped", dir: clean, seen, floor };

    let root = server.client().await.login("root", "root").await;
    for at in 0..20 {
        root.put(format!("/k/{}", at % 20), format!("third {at}")).await;
    }
    root.put("/large/0", vec![b'z'; 100_000]).await;
    root.lease_revoke(8).await.unwrap();
    let floor = root.revision().await - 30;
    root.compact(floor).await.unwrap();
    root.defragment().await.unwrap();
    root.put("/k/end", "end").await;
    let end = root.revision().await;
    let seen = look(server, floor, end).await.expect("it is whole");
    marked(server, &root).await;
    kill_both(server);
    let killed = server.dir().join("killed");
    copy(&server.dir().join("data"), &killed);
    [clean, Prepared { name: "killed", dir: killed, seen, floor }]
}

struct Case {
    prepared: Arc<Prepared>,
    file: PathBuf,
    harm: Option<Harm>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} {:?}", self.prepared.name, self.file.display(), self.harm)
    }
}

impl Case {
    /// Returns whether the damaged data was served, which is right then; fails with a description otherwise.
    async fn try_it(&self) -> Result<bool, String> {
        let Prepared { dir, seen, floor, .. } = &*self.prepared;
        let mut server = Server::prepare(SYNC);
        let data = server.dir().join("data");
        copy(dir, &data);
        if let Some(harm) = self.harm {
            harm.inflict(&data.join(&self.file));
        }
        let Err(problem) = server.try_restart().await else {
            let now = look(&server, *floor, seen.revision).await?;
            return now.compare(seen).map(|()| true);
        };
        let log = server.log();
        let reason = log.lines().rev().find(|line| line.starts_with("jetway: ")).unwrap_or_default();
        let names = ["index ", "sequence ", "meta.inf", MARK];
        if !reason.contains("--accept-data-loss") || !names.iter().any(|name| reason.contains(name)) {
            return Err(format!("{problem}, and the reason is not named: {reason:?}\n{log}"));
        }
        // The loss can be accepted, and is over with the first response.
        for args in [ACCEPT, SYNC] {
            server.set_args(args);
            server
                .try_restart()
                .await
                .map_err(|problem| format!("with {args:?}: {problem}\n{}", server.log()))?;
            kill_both(&mut server);
        }
        println!("    {reason}");
        Ok(false)
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.join(MARK)];
    found.extend(files_below(&dir.join(STREAM)));
    found.sort();
    found.into_iter().map(|path| path.strip_prefix(dir).unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_data_is_served_right_or_refused() {
    let mut server = Server::start_with(SYNC).await;
    let mut cases = Vec::new();
    for prepared in prepare(&mut server).await.map(Arc::new) {
        let files = files(&prepared.dir);
        let blocks = files.iter().filter(|file| file.extension().is_some_and(|of| of == "blk")).count();
        assert!(blocks > 1, "{files:?}");
        cases.push(Case { prepared: Arc::clone(&prepared), file: PathBuf::new(), harm: None });
        for file in files {
            for harm in HARMS {
                cases.push(Case { prepared: Arc::clone(&prepared), file: file.clone(), harm: Some(*harm) });
            }
        }
    }
    assert!(cases.len() >= 40, "{} cases", cases.len());
    // To look at some cases only.
    if let Ok(part) = std::env::var("JETWAY_DAMAGE") {
        cases.retain(|case| case.to_string().contains(&part));
    }
    let count = cases.len();
    let running = futures_util::stream::iter(cases).map(async |case| {
        let outcome = case.try_it().await;
        match &outcome {
            Ok(true) => println!("{case}: served"),
            Ok(false) => println!("{case}: refused"),
            Err(problem) => println!("{case}: WRONG: {problem}"),
        }
        (case.harm.is_none(), outcome)
    });
    let outcomes: Vec<_> = running.buffer_unordered(AT_ONCE).collect().await;
    let wrong = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
    let refused = outcomes.iter().filter(|(_, outcome)| *outcome == Ok(false)).count();
    println!("{count} cases, {refused} refused, {wrong} wrong");
    assert_eq!(wrong, 0, "see above");
    assert!(outcomes.iter().all(|(is_whole, outcome)| !is_whole || *outcome == Ok(true)), "no harm was done");
    assert!(refused >= 10, "the harm does nothing");
}
