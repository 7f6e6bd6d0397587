//! Random sessions over few keys, leases and revisions, so that requests meet each other all the time.

mod calls;
mod malformed;
mod requests;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::ops::*;
use crate::session::{Session, Setup, Step};
use crate::watchers::STREAMS;
use calls::{logins, maintenance};

/// Keys that most operations use.
const HOT: [&[u8]; 6] = [b"a", b"b", b"c", b"a/b", b"a/c", b"/x/y"];

/// Keys that are hard to map onto something else.
const ODD: [&[u8]; 26] = [
    b"\0",
    b"\0\0",
    b"a\0",
    b"a\0b",
    b" ",
    b"a b",
    b".",
    b"..",
    b"a.b",
    b"*",
    b">",
    b"a*",
    b"a.>",
    b"/",
    b"//",
    b"a/",
    b"a//b",
    b"a///b",
    b"=",
    b"=2E",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"a\xff",
    b"\xc3\xbc/\xe2\x82\xac",
];

const LEASES: [i64; 6] = [1, 2, 3, 7000, -4, i64::MAX];

/// The user who sees and may do everything. Sessions leave the password and roles alone, since the harness
/// itself is root while auth is on.
pub const ROOT: (&str, &str) = ("root", "root");

const USERS: [&str; 4] = ["root", "u", "v", "w"];
const ROLES: [&str; 4] = ["r", "s", "t", "root"];
const PASSWORDS: [&str; 3] = ["p", "q", ""];

/// Topics of sessions beside KV, watches and leases: `JETWAY_PARITY_TOPICS` names some, or all by default.
#[derive(Clone, Copy, Debug)]
pub struct Topics {
    pub hash: bool,
    pub maintenance: bool,
    pub locks: bool,
    pub auth: bool,
    pub malformed: bool,
    pub kills: bool,
    pub expiry: bool,
    pub instances: bool,
}

impl Topics {
    pub fn get() -> Self {
        let named = std::env::var("JETWAY_PARITY_TOPICS").unwrap_or_else(|_| LANDED.into());
        let is = |topic| named.split(',').any(|name| name == topic);
        Self {
            hash: is("hash"),
            maintenance: is("maintenance"),
            locks: is("locks"),
            auth: is("auth"),
            malformed: is("malformed"),
            kills: is("kills"),
            expiry: is("expiry"),
            instances: is("instances"),
        }
    }
}

const LANDED: &str = "maintenance,malformed,kills,expiry,hash,locks,auth,instances";

#[derive(Debug)]
pub struct Generator {
    random: StdRng,
    keys: Vec<Blob>,
    topics: Topics,
    setup: Setup,
    /// Every compaction waits for its end, since the hash of a store that is being compacted is anything with
    /// etcd.
    hash: bool,
    /// This session is about auth.
    auth: bool,
}

impl Generator {
    /// The same seed makes the same session.
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        // A few odd keys a session, often enough to meet again.
        let mut keys: Vec<Blob> = ODD.choose_multiple(&mut random, 6).map(|key| Blob(key.to_vec())).collect();
        if random.random_bool(0.3) {
            keys.push(Blob(vec![b'l'; random.random_range(200..2000)]));
        }
        if random.random_bool(0.5) {
            let length = random.random_range(1..20);
            keys.push(Blob((0..length).map(|_| random.random()).collect()));
        }
        let topics = Topics::get();
        let auth = random.random_bool(0.3) && topics.auth;
        let setup = Setup {
            external: random.random_bool(0.3) && topics.kills,
            instances: random.random_bool(0.3) && topics.instances,
            jwt: random.random_bool(0.3) && auth,
        };
        let hash = random.random_bool(0.6) && topics.hash;
        Self { random, keys, topics, setup, hash, auth }
    }

    pub fn session(&mut self, ops: usize) -> Session {
        let mut steps = Vec::with_capacity(ops);
        if self.auth {
            self.prologue(&mut steps);
        }
        while steps.len() < ops {
            self.steps(&mut steps);
        }
        // Operations that take seconds come a few times a session, however long it is.
        let kills = if self.topics.kills { self.random.random_range(0..3) } else { 0 };
        for _ in 0..kills {
            let op = Op::Kill(self.victim());
            self.insert(&mut steps, op);
        }
        if self.setup.instances {
            for _ in 0..self.random.random_range(1..6) {
                let changes = [Change::Move, Change::Kill, Change::Stop];
                let op = Op::Writer(*changes.choose(&mut self.random).expect("some changes"));
                self.insert(&mut steps, op);
            }
        }
        if self.topics.expiry && self.chance(50) {
            let op = Op::Expire(self.expire());
            self.insert(&mut steps, op);
        }
        Session { setup: self.setup, steps }
    }

    fn insert(&mut self, steps: &mut Vec<Step>, op: Op) {
        let at = self.random.random_range(0..=steps.len());
        let rest = steps.split_off(at);
        steps.push(Step { client: self.client(), op });
        if self.auth {
            logins(steps);
        }
        steps.extend(rest);
    }

    fn client(&mut self) -> usize {
        self.random.random_range(0..STREAMS)
    }

    /// Turns auth on, with users who may do a little.
    fn prologue(&mut self, steps: &mut Vec<Step>) {
        let call = |method: &str, request| {
            Step::from(Op::Call(Call::new(&format!("etcdserverpb.Auth/{method}"), request)))
        };
        steps.push(call("UserAdd", json!({"name": ROOT.0, "password": ROOT.1})));
        steps.push(call("UserGrantRole", json!({"user": "root", "role": "root"})));
        for (user, role) in [("u", "r"), ("v", "s")] {
            steps.push(call("UserAdd", json!({"name": user, "password": "p"})));
            steps.push(call("RoleAdd", json!({"name": role})));
            steps.push(call("UserGrantRole", json!({"user": user, "role": role})));
            for _ in 0..2 {
                let permission = self.permission();
                steps.push(call("RoleGrantPermission", json!({"name": role, "perm": permission})));
            }
        }
        if self.chance(80) {
            steps.push(call("AuthEnable", json!({})));
        }
        logins(steps);
    }

    /// One operation, or a few that belong together.
    fn steps(&mut self, steps: &mut Vec<Step>) {
        let client = self.client();
        let one = |op| Step { client, op };
        match self.random.random_range(0..1000) {
            0..15 if self.topics.malformed => steps.push(one(self.malformed())),
            15..20 if self.topics.maintenance => {
                let alarm = *["NOSPACE", "NOSPACE", "CORRUPT"].choose(&mut self.random).expect("some alarms");
                let member = self.random.random_range(0..3);
                let request =
                    |action| json!({"action": action, "memberID": member.to_string(), "alarm": alarm});
                steps.push(one(maintenance("Alarm", request("ACTIVATE"))));
                for _ in 0..self.random.random_range(0..8) {
                    let client = self.client();
                    steps.push(Step { client, op: self.op() });
                }
                // The first client, who most often may.
                steps.push(maintenance("Alarm", request("DEACTIVATE")).into());
            }
            20..30 if self.topics.maintenance => steps.push(one(self.maintenance())),
            30..50 if self.hash => steps.push(one(Op::HashKv(HashKv { revision: self.rev() }))),
            50..60 if self.topics.locks => steps.push(one(self.locks())),
            60..66 if self.topics.locks => steps.push(one(Op::Contend(self.contend()))),
            66..90 if self.auth => {
                steps.push(one(self.auth()));
                // A change makes every JWT old.
                if self.setup.jwt && self.chance(80) {
                    logins(steps);
                }
            }
            90..100 if self.auth => steps.push(one(self.identity())),
            100..102 => steps.push(one(Op::Reopen(self.watch_ref()))),
            102..104 => steps.push(one(Op::WatchNothing(self.watch_ref()))),
            104..107 => {
                let count = *[126, 127, 128, 129].choose(&mut self.random).expect("some counts");
                steps.push(one(Op::Many(Big { key: self.key(), count })));
            }
            107..109 => {
                // Near the two limits of a request's size, and what makes fragments. etcd adds about 22 bytes
                // that depend on who it is and who asks, so the first limit is not met exactly.
                let key = self.key();
                let key = if key.0.len() > 100 { Blob(b"a".to_vec()) } else { key };
                let count = match self.random.random_range(0..4) {
                    0 => 1_572_864 - key.0.len() - 26 - self.random.random_range(20..40),
                    1 => 1_572_864 - key.0.len() - 26 + self.random.random_range(4..40),
                    2 => 2_097_152 - self.random.random_range(0..30),
                    _ => self.random.random_range(100_000..1_500_000),
                };
                steps.push(one(Op::Big(Big { key, count })));
            }
            _ => steps.push(one(self.op())),
        }
    }

    fn op(&mut self) -> Op {
        match self.random.random_range(0..1000) {
            0..180 => Op::Range(self.range()),
            180..200 => {
                let mut range = self.range();
                // Without an order etcd sorts each chunk by itself and goes on after the chunk's last
                // element, so with another target than the key it repeats and skips keys. No client can want
                // that.
                if range.order == 0 {
                    range.target = 0;
                }
                Op::RangeStream(range)
            }
            200..430 => Op::Put(self.put()),
            430..530 => Op::Delete(self.delete()),
            530..740 => Op::Txn(self.spared_txn()),
            740..760 => Op::Compact(self.compact()),
            760..795 => Op::Grant(self.grant()),
            795..810 => Op::Revoke(self.lease()),
            810..830 => Op::TimeToLive(self.lease()),
            830..840 => Op::KeepAlive(self.lease()),
            840..850 => Op::Leases,
            850..910 => Op::Watch(self.watch()),
            910..950 => Op::CancelWatch(self.watch_ref()),
            950..975 => Op::Progress(self.watch_ref()),
            _ => Op::Settle,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }
}
