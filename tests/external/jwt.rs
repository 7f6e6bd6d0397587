//! JWTs of NATS, as `nsc` makes them: an operator, its accounts and their users.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

pub fn key(kind: KeyPairType) -> KeyPair {
    KeyPair::new_from_raw(kind, rand::random()).unwrap()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A JWT about `subject`, signed by `issuer`.
fn sign(issuer: &KeyPair, subject: &KeyPair, issued: u64, nats: &Value) -> String {
    let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let id: u64 = rand::random();
    let claims = encode(json!({
        "jti": format!("{id:x}"), "iat": issued, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": "test", "nats": nats,
    }));
    let text = format!("{header}.{claims}");
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap()))
}

/// An operator with an account for data.
pub struct Operator {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

impl Operator {
    pub fn new() -> Self {
        let [operator, system, account] =
            [KeyPairType::Operator, KeyPairType::Account, KeyPairType::Account].map(key);
        Self { operator, system, account }
    }

    /// The configuration of a server, where the account has revoked the JWTs of some users.
    pub fn config(&self, revoked: &[&KeyPair]) -> String {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        });
        let revocations: serde_json::Map<String, Value> =
            revoked.iter().map(|user| (user.public_key(), now().into())).collect();
        let account =
            json!({ "limits": limits, "revocations": revocations, "type": "account", "version": 2 });
        let system = json!({ "type": "account", "version": 2, "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        } });
        let of = |key: &KeyPair, claims: &Value| {
            format!("{}: {}", key.public_key(), sign(&self.operator, key, now(), claims))
        };
        format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}\n{}\n}}\n",
            sign(&self.operator, &self.operator, now(), &json!({ "type": "operator", "version": 2 })),
            self.system.public_key(),
            of(&self.account, &account),
            of(&self.system, &system),
        )
    }

    /// A credentials file for a user whose JWT is a minute old.
    pub fn credentials(&self, user: &KeyPair) -> String {
        let claims = json!({
            "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2,
        });
        let jwt = sign(&self.account, user, now() - 60, &claims);
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().unwrap()
        )
    }
}
