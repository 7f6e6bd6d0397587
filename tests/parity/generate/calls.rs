//! Calls of the other services: maintenance, members, locks, elections and auth.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::{Generator, PASSWORDS, ROLES, ROOT, USERS};
use crate::ops::*;
use crate::session::Step;

impl Generator {
    pub(super) fn maintenance(&mut self) -> Op {
        let id = self.random.random_range(0..4_u64).to_string();
        let urls =
            *[&["http://"][..], &[], &["127.0.0.1:1"], &["http://a"]].choose(&mut self.random).expect("some");
        match self.random.random_range(0..9) {
            0 => maintenance("Status", json!({})),
            1 => maintenance("Defragment", json!({})),
            2 => maintenance("Alarm", json!({"alarm": self.random.random_range(0..4)})),
            3 => {
                let action = self.random.random_range(0..3);
                // Without a type nothing is raised; the raising ones are made elsewhere.
                let alarm = if action == 1 { 0 } else { self.random.random_range(0..4) };
                maintenance("Alarm", json!({"action": action, "memberID": id, "alarm": alarm}))
            }
            // Three instances are three members.
            4 if !self.setup.instances => cluster("MemberList", json!({"linearizable": self.chance(50)})),
            5 => cluster("MemberAdd", json!({"peerURLs": urls, "isLearner": self.chance(50)})),
            6 => cluster("MemberRemove", json!({"ID": id})),
            7 => cluster("MemberUpdate", json!({"ID": id, "peerURLs": urls})),
            _ => cluster("MemberPromote", json!({"ID": id})),
        }
    }

    pub(super) fn locks(&mut self) -> Op {
        let name = BASE64.encode(self.key().0);
        let lease = self.lease().id;
        let key = format!("{}/{lease:x}", *["a", "b", ""].choose(&mut self.random).expect("some"));
        let key = BASE64.encode(key);
        let rev = self.random.random_range(0..60_i64).to_string();
        let leader = json!({"name": name, "key": key, "rev": rev, "lease": lease.to_string()});
        let (method, request) = match self.random.random_range(0..7) {
            0..2 => ("v3lockpb.Lock/Unlock", json!({"key": key})),
            2 => ("v3electionpb.Election/Leader", json!({"name": name})),
            3 => ("v3electionpb.Election/Resign", json!({"leader": leader})),
            4 => ("v3electionpb.Election/Proclaim", json!({"leader": leader, "value": name})),
            5 => ("v3electionpb.Election/Resign", json!({})),
            _ => ("v3electionpb.Election/Proclaim", json!({"value": name})),
        };
        Op::Call(Call::new(method, request))
    }

    pub(super) fn contend(&mut self) -> Contend {
        use Ending::*;
        let endings = [Release, Revoke, Delete, Cancel, Lose];
        Contend {
            election: self.chance(50),
            name: self.key(),
            leases: (self.lease().id, self.lease().id),
            values: (self.value(), self.value()),
            ending: *endings.choose(&mut self.random).expect("some endings"),
        }
    }

    /// The client's user from now on.
    pub(super) fn identity(&mut self) -> Op {
        match self.random.random_range(0..10) {
            0 => Op::Token(String::new()),
            1 => Op::Token(
                ["no token", "abcdefghijklmnop.7", "a.b.c"]
                    .choose(&mut self.random)
                    .expect("some")
                    .to_string(),
            ),
            _ => {
                let name = self.user();
                let password =
                    if name == ROOT.0 && self.chance(90) { ROOT.1.into() } else { self.password() };
                Op::Login(Login { name, password })
            }
        }
    }

    pub(super) fn user(&mut self) -> String {
        (*USERS.choose(&mut self.random).expect("some users")).into()
    }

    pub(super) fn role(&mut self) -> String {
        (*ROLES.choose(&mut self.random).expect("some roles")).into()
    }

    pub(super) fn password(&mut self) -> String {
        if self.chance(2) {
            return "x".repeat(self.random.random_range(71..74));
        }
        let weights = if self.chance(70) { &PASSWORDS[..1] } else { &PASSWORDS[..] };
        (*weights.choose(&mut self.random).expect("some passwords")).into()
    }

    pub(super) fn permission(&mut self) -> Value {
        let (key, end) = self.key_range(40);
        let kind = self.random.random_range(0..3);
        json!({"permType": kind, "key": BASE64.encode(key.0), "range_end": BASE64.encode(end.0)})
    }

    pub(super) fn auth(&mut self) -> Op {
        let (user, role) = (self.user(), self.role());
        let (method, request) = match self.random.random_range(0..100) {
            0..6 => ("AuthEnable", json!({})),
            6..8 => ("AuthDisable", json!({})),
            8..14 => ("AuthStatus", json!({})),
            14..26 => {
                let password = if user == ROOT.0 { ROOT.1.into() } else { self.password() };
                let no_password = user != ROOT.0 && self.chance(10);
                let user = if self.chance(3) { String::new() } else { user };
                (
                    "UserAdd",
                    json!({"name": user, "password": password, "options": {"no_password": no_password}}),
                )
            }
            26..32 => ("UserGet", json!({"name": user})),
            32..35 => ("UserList", json!({})),
            35..39 => ("UserDelete", json!({"name": user})),
            39..45 if user != ROOT.0 => {
                let password = self.password();
                ("UserChangePassword", json!({"name": user, "password": password}))
            }
            39..57 => ("UserGrantRole", json!({"user": user, "role": role})),
            57..62 => ("UserRevokeRole", json!({"name": user, "role": role})),
            62..70 => {
                let role = if self.chance(3) { String::new() } else { role };
                ("RoleAdd", json!({"name": role}))
            }
            70..76 => ("RoleGet", json!({"role": role})),
            76..79 => ("RoleList", json!({})),
            79..82 => ("RoleDelete", json!({"role": role})),
            82..95 => {
                let permission = self.permission();
                ("RoleGrantPermission", json!({"name": role, "perm": permission}))
            }
            95..99 => {
                let (key, end) = self.key_range(40);
                let (key, end) = (BASE64.encode(key.0), BASE64.encode(end.0));
                ("RoleRevokePermission", json!({"role": role, "key": key, "range_end": end}))
            }
            _ => ("RoleGrantPermission", json!({"name": role})),
        };
        Op::Call(Call::new(&format!("etcdserverpb.Auth/{method}"), request))
    }
}

pub(super) fn maintenance(method: &str, request: Value) -> Op {
    Op::Call(Call::new(&format!("etcdserverpb.Maintenance/{method}"), request))
}

fn cluster(method: &str, request: Value) -> Op {
    Op::Call(Call::new(&format!("etcdserverpb.Cluster/{method}"), request))
}

/// Each client is somebody.
pub(super) fn logins(steps: &mut Vec<Step>) {
    for (client, (name, password)) in [ROOT, ("u", "p"), ("v", "p")].into_iter().enumerate() {
        let login = Login { name: name.into(), password: password.into() };
        steps.push(Step { client, op: Op::Login(login) });
    }
}
