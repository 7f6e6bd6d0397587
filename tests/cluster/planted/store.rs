//! A store without a fault, and the record of its calls and watches.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use support::history::*;

const KEYS: [&str; 3] = ["a", "b", "c"];
const TTL: Time = 1_000;

/// A store whose calls take effect at a moment between their begin and their end.
pub(super) struct Store {
    random: StdRng,
    revision: i64,
    time: Time,
    state: State,
    history: History,
}

impl Store {
    pub(super) fn run(seed: u64, calls: usize) -> History {
        let mut store = Store {
            random: StdRng::seed_from_u64(seed),
            revision: 1,
            time: 0,
            state: State::new(),
            history: History { begin: 1, watches: vec![Vec::new(); 2], ..History::default() },
        };
        for number in 0..calls {
            store.call(number);
        }
        store.lease();
        store.history.end = store.revision;
        for watch in &mut store.history.watches {
            watch.push(Response::Progress(store.revision));
        }
        store.history
    }

    fn call(&mut self, number: usize) {
        let key = KEYS[self.random.random_range(0..KEYS.len())].to_owned();
        let value = number.to_string();
        let found = self.state.get(&key).map_or(0, |pair| pair.mod_revision);
        let is_serializable = self.random.random_bool(0.3);
        let request = match self.random.random_range(0..6) {
            0 => Request::Put { key, value, lease: 0 },
            1 => {
                let other = KEYS.iter().find(|other| **other != key).expect("there are more").to_string();
                Request::PutAll { puts: vec![(key, value), (other, format!("{number} too"))] }
            }
            2 => Request::Delete { key },
            3 => Request::Swap { key, expected: found - i64::from(self.random.random_bool(0.3)), value },
            4 => Request::Read { key: Some(key), is_serializable },
            _ => Request::Read { key: None, is_serializable },
        };
        let mut outcome = self.carry_out(&request);
        self.time += 10;
        // Calls overlap their neighbours, whose moments lie between.
        let (before, behind) = (self.random.random_range(0..25), self.random.random_range(1..25));
        if self.random.random_bool(0.1) && !matches!(request, Request::Read { .. }) {
            outcome = Outcome::Unknown;
        }
        self.history.calls.push(Call {
            begin: self.time.saturating_sub(before),
            end: self.time + behind,
            request,
            outcome,
        });
    }

    fn carry_out(&mut self, request: &Request) -> Outcome {
        match request {
            Request::Put { key, value, lease } => self.write(key, Some((value, *lease))),
            Request::PutAll { puts } => {
                self.write_all(puts.iter().map(|(key, value)| (key.as_str(), Some((value, 0)))))
            }
            Request::Swap { key, expected, value }
                if self.state.get(key).map_or(0, |pair| pair.mod_revision) == *expected =>
            {
                self.write(key, Some((value, 0)))
            }
            Request::Delete { key } if self.state.contains_key(key) => self.write(key, None),
            Request::Read { key: None, .. } => {
                Outcome::Read(self.revision, self.state.values().cloned().collect())
            }
            Request::Delete { key } | Request::Swap { key, .. } | Request::Read { key: Some(key), .. } => {
                Outcome::Read(self.revision, self.state.get(key).cloned().into_iter().collect())
            }
        }
    }

    fn write(&mut self, key: &str, value: Option<(&String, i64)>) -> Outcome {
        self.write_all([(key, value)])
    }

    fn write_all<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a str, Option<(&'a String, i64)>)>,
    ) -> Outcome {
        self.revision += 1;
        let mut events = Vec::new();
        for (key, value) in changes {
            let previous = self.state.get(key).cloned();
            let pair = value.map(|(value, lease)| Pair {
                key: key.to_owned(),
                value: value.clone(),
                create_revision: previous.as_ref().map_or(self.revision, |before| before.create_revision),
                mod_revision: self.revision,
                version: previous.as_ref().map_or(1, |before| before.version + 1),
                lease,
            });
            events.push(Event { revision: self.revision, key: key.to_owned(), pair, previous });
        }
        for event in &events {
            apply(&mut self.state, event);
        }
        for watch in &mut self.history.watches {
            watch.push(Response::Events(self.time + 5, events.clone()));
        }
        Outcome::Wrote(self.revision)
    }

    /// A key that goes with its lease.
    fn lease(&mut self) {
        let asked = self.time;
        self.history.renewals.push(Renewal { lease: 7, asked, time_to_live: TTL });
        let put = Request::Put { key: "leased".to_owned(), value: "leased".to_owned(), lease: 7 };
        let outcome = self.carry_out(&put);
        let end = self.time + 5;
        self.history.calls.push(Call { begin: self.time, end, request: put, outcome });
        self.time += TTL;
        self.write("leased", None);
    }
}
