//! Random sessions over few keys, leases and revisions, so that requests meet each other all the time.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::session::*;
use crate::support::keys::{TO_THE_END, prefix_end};
use crate::watchers::STREAMS;

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

#[derive(Debug)]
pub struct Generator {
    random: StdRng,
    keys: Vec<Blob>,
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
        Self { random, keys }
    }

    pub fn session(&mut self, ops: usize) -> Session {
        Session((0..ops).map(|_| self.op()).collect())
    }

    fn op(&mut self) -> Op {
        match self.random.random_range(0..1000) {
            0..180 => Op::Range(self.range()),
            180..200 => Op::RangeStream(self.range()),
            200..430 => Op::Put(self.put()),
            430..530 => Op::Delete(self.delete()),
            530..740 => {
                let mut txn = self.txn(2);
                spare_etcd(&mut txn);
                Op::Txn(txn)
            }
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

    fn key(&mut self) -> Blob {
        match self.random.random_range(0..100) {
            0 => Blob::default(),
            1..30 => self.keys.choose(&mut self.random).expect("some keys").clone(),
            _ => Blob(HOT.choose(&mut self.random).expect("some keys").to_vec()),
        }
    }

    /// A key and an end of every kind.
    fn key_range(&mut self, single: u32) -> (Blob, Blob) {
        let key = self.key();
        if self.chance(single) {
            return (key, Blob::default());
        }
        match self.random.random_range(0..10) {
            0..3 => {
                let end = Blob(prefix_end(&key.0).to_vec());
                (key, end)
            }
            3..5 => (key, Blob(TO_THE_END.to_vec())),
            5 => (Blob(b"\0".to_vec()), Blob(TO_THE_END.to_vec())),
            6 => {
                let end = self.key();
                (key, end)
            }
            _ => {
                let other = self.key();
                (key.clone().min(other.clone()), key.max(other))
            }
        }
    }

    fn value(&mut self) -> Blob {
        let length = if self.chance(5) { 3000 } else { 3 };
        let length = self.random.random_range(0..=length);
        // Few letters, so that values are often equal.
        Blob((0..length).map(|_| *b"abz\0\xff".choose(&mut self.random).expect("some letters")).collect())
    }

    /// A revision from everywhere: near the current one, near the floor, in the future, nonsense.
    fn rev(&mut self) -> Rev {
        match self.random.random_range(0..20) {
            0..12 => Rev::Now(-self.random.random_range(0..20)),
            12..16 => Rev::Floor(self.random.random_range(-2..6)),
            16 => Rev::Now(self.random.random_range(1..4)),
            17 => Rev::At(self.random.random_range(-2..5)),
            18 => Rev::Now(0),
            _ => Rev::Unset,
        }
    }

    fn range(&mut self) -> Range {
        let (key, end) = self.key_range(30);
        let mut range = Range { key, end, ..Range::default() };
        if self.chance(30) {
            range.limit = self.random.random_range(-1..6);
        }
        if self.chance(30) {
            range.revision = self.rev();
        }
        if self.chance(30) {
            range.order = self.random.random_range(0..3);
            range.target = self.random.random_range(0..5);
        }
        if self.chance(2) {
            range.order = self.random.random_range(-1..6);
            range.target = self.random.random_range(-1..7);
        }
        range.serializable = self.chance(10);
        range.keys_only = self.chance(15);
        range.count_only = self.chance(10);
        for field in [&mut range.min_mod, &mut range.max_mod, &mut range.min_create, &mut range.max_create] {
            if self.chance(6) {
                *field = self.rev();
            }
        }
        range
    }

    fn put(&mut self) -> Put {
        let mut put = Put { key: self.key(), value: self.value(), ..Put::default() };
        if self.chance(25) {
            put.lease = self.lease().id;
        }
        put.prev_kv = self.chance(30);
        if self.chance(8) {
            put.ignore_value = true;
            if self.chance(90) {
                put.value = Blob::default();
            }
        }
        if self.chance(8) {
            put.ignore_lease = true;
            if self.chance(90) {
                put.lease = 0;
            }
        }
        put
    }

    fn delete(&mut self) -> Delete {
        let (key, end) = self.key_range(70);
        Delete { key, end, prev_kv: self.chance(40) }
    }

    fn txn(&mut self, depth: u32) -> Txn {
        let compares = self.random.random_range(0..3);
        let compare = (0..compares).map(|_| self.compare()).collect();
        Txn { compare, success: self.txn_ops(depth), failure: self.txn_ops(depth) }
    }

    fn txn_ops(&mut self, depth: u32) -> Vec<TxnOp> {
        let count = self.random.random_range(0..5);
        (0..count).map(|_| self.txn_op(depth)).collect()
    }

    fn txn_op(&mut self, depth: u32) -> TxnOp {
        match self.random.random_range(0..100) {
            0..30 => TxnOp::Range(self.range()),
            30..70 => TxnOp::Put(self.put()),
            70..85 => TxnOp::Delete(self.delete()),
            85 => TxnOp::Nothing,
            _ if depth > 0 => TxnOp::Txn(self.txn(depth - 1)),
            _ => TxnOp::Put(self.put()),
        }
    }

    fn compare(&mut self) -> Compare {
        let (key, end) = self.key_range(75);
        let target = self.random.random_range(0..5);
        let fitting = if self.chance(95) { target } else { self.random.random_range(0..6) };
        let given = match fitting {
            0 => Some(Given::Version(self.random.random_range(0..4))),
            1 => Some(Given::Create(self.rev())),
            2 => Some(Given::Mod(self.rev())),
            3 => Some(Given::Value(self.value())),
            4 => Some(Given::Lease(if self.chance(50) { 0 } else { self.lease().id })),
            _ => None,
        };
        let (result, target) = if self.chance(98) {
            (self.random.random_range(0..4), target)
        } else {
            (self.random.random_range(0..7), self.random.random_range(0..8))
        };
        Compare { key, end, result, target, given }
    }

    fn compact(&mut self) -> Compact {
        let revision = if self.chance(70) { Rev::Now(-self.random.random_range(0..30)) } else { self.rev() };
        Compact { revision, physical: self.chance(30) }
    }

    /// Leases that no session outlives; what expires depends on the clock.
    fn grant(&mut self) -> Grant {
        let ttl = match self.random.random_range(0..20) {
            0 => 9_000_000_000,
            1 => 9_000_000_001,
            2 => i64::MAX,
            _ => self.random.random_range(5_000..10_000),
        };
        Grant { id: self.lease().id, ttl }
    }

    fn lease(&mut self) -> Lease {
        Lease { id: *LEASES.choose(&mut self.random).expect("some leases"), keys: self.chance(50) }
    }

    fn watch(&mut self) -> Watch {
        let (key, end) = self.key_range(30);
        let watch_ref = self.watch_ref();
        let mut watch = Watch { stream: watch_ref.stream, key, end, ..Watch::default() };
        if self.chance(60) {
            watch.start = self.rev();
        }
        if self.chance(30) {
            watch.id = watch_ref.id;
        }
        watch.prev_kv = self.chance(50);
        watch.fragment = self.chance(20);
        watch.progress_notify = self.chance(20);
        if self.chance(20) {
            watch.filters =
                (0..self.random.random_range(1..3)).map(|_| self.random.random_range(0..3)).collect();
        }
        watch
    }

    fn watch_ref(&mut self) -> WatchRef {
        WatchRef { stream: self.random.random_range(0..STREAMS), id: self.random.random_range(0..8) }
    }
}

/// Takes out of a transaction what kills etcd 3.7.3: a put that keeps the value or lease of a key that the
/// transaction has deleted before. Its check looks at the state before the transaction, the put then finds no key,
/// and etcd panics, at every restart again. Only a delete to the end of the keyspace gets past the check for
/// duplicate keys, so a transaction has either such deletes or such puts.
fn spare_etcd(txn: &mut Txn) {
    let mut sweeps = false;
    visit(txn, &mut |op| sweeps |= matches!(op, TxnOp::Delete(delete) if delete.end.0 == TO_THE_END));
    if sweeps {
        visit(txn, &mut |op| {
            if let TxnOp::Put(put) = op {
                (put.ignore_value, put.ignore_lease) = (false, false);
            }
        });
    }
}

fn visit(txn: &mut Txn, see: &mut impl FnMut(&mut TxnOp)) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        see(op);
        if let TxnOp::Txn(inner) = op {
            visit(inner, see);
        }
    }
}
