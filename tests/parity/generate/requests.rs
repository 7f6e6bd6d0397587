//! Keys, revisions and requests of KV, leases and watches.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{Generator, HOT, LEASES};
use crate::ops::*;
use crate::watchers::STREAMS;
use support::keys::{TO_THE_END, prefix_end};

impl Generator {
    pub(super) fn victim(&mut self) -> Victim {
        // A restart makes etcd forget a hash, and with NATS alone jetway does not restart.
        let first = usize::from(self.hash);
        [Victim::Nats, Victim::Server, Victim::Both][first..]
            .choose(&mut self.random)
            .copied()
            .expect("some victims")
    }

    pub(super) fn expire(&mut self) -> Expire {
        let keys = (0..self.random.random_range(0..4)).map(|_| self.key()).collect();
        let kill = (self.topics.kills && self.chance(25)).then(|| self.victim());
        let ttl = self.random.random_range(-1..3);
        Expire { id: self.random.random_range(10..13), ttl, keys, renew: self.chance(30), kill }
    }

    pub(super) fn key(&mut self) -> Blob {
        match self.random.random_range(0..100) {
            0 => Blob::default(),
            1..30 => self.keys.choose(&mut self.random).expect("some keys").clone(),
            _ => Blob(HOT.choose(&mut self.random).expect("some keys").to_vec()),
        }
    }

    /// A key and an end of every kind.
    pub(super) fn key_range(&mut self, single: u32) -> (Blob, Blob) {
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
            // Whether an inverted range is permitted hangs with etcd on the shape of a tree.
            6 if !self.auth => {
                let end = self.key();
                (key, end)
            }
            _ => {
                let other = self.key();
                if self.auth && key == other {
                    return (key, Blob::default());
                }
                (key.clone().min(other.clone()), key.max(other))
            }
        }
    }

    pub(super) fn value(&mut self) -> Blob {
        let length = if self.chance(5) { 3000 } else { 3 };
        let length = self.random.random_range(0..=length);
        // Few letters, so that values are often equal.
        Blob((0..length).map(|_| *b"abz\0\xff".choose(&mut self.random).expect("some letters")).collect())
    }

    /// A revision from everywhere: near the current one, near the floor, in the future, nonsense.
    pub(super) fn rev(&mut self) -> Rev {
        match self.random.random_range(0..20) {
            0..12 => Rev::Now(-self.random.random_range(0..20)),
            12..16 => Rev::Floor(self.random.random_range(-2..6)),
            16 => Rev::Now(self.random.random_range(1..4)),
            17 => Rev::At(self.random.random_range(-2..5)),
            18 if self.chance(10) => Rev::At(*[i64::MAX, i64::MIN].choose(&mut self.random).expect("some")),
            18 => Rev::Now(0),
            _ => Rev::Unset,
        }
    }

    pub(super) fn range(&mut self) -> Range {
        let (key, end) = self.key_range(30);
        let mut range = Range { key, end, ..Range::default() };
        if self.chance(30) {
            range.limit = match self.random.random_range(0..50) {
                0 => i64::MAX,
                1 => i64::MIN,
                _ => self.random.random_range(-1..6),
            };
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

    pub(super) fn put(&mut self) -> Put {
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

    pub(super) fn delete(&mut self) -> Delete {
        let (key, end) = self.key_range(70);
        Delete { key, end, prev_kv: self.chance(40) }
    }

    pub(super) fn txn(&mut self, depth: u32) -> Txn {
        let compares = self.random.random_range(0..3);
        let compare = (0..compares).map(|_| self.compare()).collect();
        Txn { compare, success: self.txn_ops(depth), failure: self.txn_ops(depth) }
    }

    pub(super) fn txn_ops(&mut self, depth: u32) -> Vec<TxnOp> {
        let count = self.random.random_range(0..5);
        (0..count).map(|_| self.txn_op(depth)).collect()
    }

    pub(super) fn txn_op(&mut self, depth: u32) -> TxnOp {
        match self.random.random_range(0..100) {
            0..30 => TxnOp::Range(self.range()),
            30..70 => TxnOp::Put(self.put()),
            70..85 => TxnOp::Delete(self.delete()),
            85 => TxnOp::Nothing,
            _ if depth > 0 => TxnOp::Txn(self.txn(depth - 1)),
            _ => TxnOp::Put(self.put()),
        }
    }

    pub(super) fn compare(&mut self) -> Compare {
        let (key, end) = self.key_range(75);
        let target = self.random.random_range(0..5);
        let fitting = if self.chance(95) { target } else { self.random.random_range(0..6) };
        let operand = match fitting {
            0 => Some(Operand::Version(self.random.random_range(0..4))),
            1 => Some(Operand::Create(self.rev())),
            2 => Some(Operand::Mod(self.rev())),
            3 => Some(Operand::Value(self.value())),
            4 => Some(Operand::Lease(if self.chance(50) { 0 } else { self.lease().id })),
            _ => None,
        };
        let (result, target) = if self.chance(98) {
            (self.random.random_range(0..4), target)
        } else {
            (self.random.random_range(0..7), self.random.random_range(0..8))
        };
        Compare { key, end, result, target, operand }
    }

    pub(super) fn compact(&mut self) -> Compact {
        let revision = if self.chance(70) { Rev::Now(-self.random.random_range(0..30)) } else { self.rev() };
        Compact { revision, physical: self.hash || self.chance(30) }
    }

    /// Leases that no session outlives; what expires depends on the clock.
    pub(super) fn grant(&mut self) -> Grant {
        let ttl = match self.random.random_range(0..20) {
            0 => 9_000_000_000,
            1 => 9_000_000_001,
            2 => i64::MAX,
            _ => self.random.random_range(5_000..10_000),
        };
        Grant { id: if self.chance(5) { 0 } else { self.lease().id }, ttl }
    }

    pub(super) fn lease(&mut self) -> Lease {
        Lease { id: *LEASES.choose(&mut self.random).expect("some leases"), keys: self.chance(50) }
    }

    pub(super) fn watch(&mut self) -> Watch {
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

    pub(super) fn watch_ref(&mut self) -> WatchRef {
        WatchRef { stream: self.random.random_range(0..STREAMS), id: self.random.random_range(0..8) }
    }
}
