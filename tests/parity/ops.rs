//! The operations of a session as values, and their text: JSON without the fields that are zero.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One request, or a point where the watchers must have caught up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Range(Range),
    RangeStream(Range),
    Put(Put),
    /// A put of a value of this many bytes.
    Big(Big),
    Delete(Delete),
    Txn(Txn),
    /// A transaction of this many puts.
    Many(Big),
    Compact(Compact),
    Grant(Grant),
    Revoke(Lease),
    TimeToLive(Lease),
    KeepAlive(Lease),
    Leases,
    /// A lease that is granted, gets keys, and is waited for until it has expired.
    Expire(Expire),
    Watch(Watch),
    CancelWatch(WatchRef),
    Progress(WatchRef),
    /// A message without a request.
    WatchNothing(WatchRef),
    /// Ends a watch stream and opens another one.
    Reopen(WatchRef),
    /// Waits for all events that are due and compares them.
    Settle,
    HashKv(HashKv),
    /// A call by name, with its request in protobuf's JSON.
    Call(Call),
    /// A call by name, with any bytes.
    Raw(Raw),
    /// Authenticate; the client keeps the token if there is one.
    Login(Login),
    /// The client uses this as its token, or none if empty.
    Token(String),
    /// Two clients want a lock or a leadership.
    Contend(Contend),
    /// Kills servers and starts them again. Watches end with that.
    Kill(Victim),
    /// Another instance becomes the writer while the session goes on. Nothing else happens.
    Writer(Change),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Big {
    pub key: Blob,
    pub count: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expire {
    pub id: i64,
    pub ttl: i64,
    pub keys: Vec<Blob>,
    pub renew: bool,
    /// The process that is killed before the lease expires.
    pub kill: Option<Victim>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HashKv {
    pub revision: Rev,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub method: String,
    #[serde(default)]
    pub request: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Raw {
    pub method: String,
    #[serde(default)]
    pub bytes: Blob,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    pub name: String,
    pub password: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contend {
    pub election: bool,
    pub name: Blob,
    pub leases: (i64, i64),
    pub values: (Blob, Blob),
    pub ending: Ending,
}

/// How the first of two who want the same gives way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Unlock or Resign.
    #[default]
    Release,
    /// Its lease is revoked.
    Revoke,
    /// Its key is deleted.
    Delete,
    /// The second one gives up.
    Cancel,
    /// The second one loses its key first, and then the first releases.
    Lose,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Victim {
    Server,
    Nats,
    Both,
}

/// How the writer changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// By MoveLeader.
    Move,
    /// The writer's process is killed.
    Kill,
    /// The writer's process is asked to stop.
    Stop,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Range {
    pub key: Blob,
    pub end: Blob,
    pub limit: i64,
    pub revision: Rev,
    pub order: i32,
    pub target: i32,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    pub min_mod: Rev,
    pub max_mod: Rev,
    pub min_create: Rev,
    pub max_create: Rev,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Put {
    pub key: Blob,
    pub value: Blob,
    pub lease: i64,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delete {
    pub key: Blob,
    pub end: Blob,
    pub prev_kv: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<TxnOp>,
    pub failure: Vec<TxnOp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnOp {
    Range(Range),
    Put(Put),
    Delete(Delete),
    Txn(Txn),
    /// A oneof without a member.
    Nothing,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compare {
    pub key: Blob,
    pub end: Blob,
    pub result: i32,
    pub target: i32,
    pub operand: Option<Operand>,
}

/// The union of a compare, which need not fit its target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operand {
    Version(i64),
    Create(Rev),
    Mod(Rev),
    Value(Blob),
    Lease(i64),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compact {
    pub revision: Rev,
    pub physical: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    pub id: i64,
    pub ttl: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    pub id: i64,
    pub keys: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    pub stream: usize,
    pub key: Blob,
    pub end: Blob,
    pub start: Rev,
    pub progress_notify: bool,
    pub filters: Vec<i32>,
    pub prev_kv: bool,
    pub id: i64,
    pub fragment: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchRef {
    pub stream: usize,
    pub id: i64,
}

/// Bytes that read as text: each byte is the character of its number.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blob(pub Vec<u8>);

impl From<Blob> for String {
    fn from(blob: Blob) -> Self {
        blob.0.into_iter().map(char::from).collect()
    }
}

impl TryFrom<String> for Blob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes: Result<_, _> = text.chars().map(u8::try_from).collect();
        Ok(Self(bytes.map_err(|_| format!("{text:?} holds a character above 255"))?))
    }
}

impl From<&Blob> for Bytes {
    fn from(blob: &Blob) -> Self {
        blob.0.clone().into()
    }
}

/// A revision, absolute or relative to what the session has seen, so that it keeps its meaning when
/// operations before it are dropped.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rev {
    /// The field is not set.
    #[default]
    Unset,
    At(i64),
    /// Current plus this.
    Now(i64),
    /// The compacted revision plus this.
    Floor(i64),
}

impl From<Rev> for String {
    fn from(rev: Rev) -> Self {
        match rev {
            Rev::Unset => Self::new(),
            Rev::At(revision) => revision.to_string(),
            Rev::Now(plus) => format!("now{plus:+}"),
            Rev::Floor(plus) => format!("floor{plus:+}"),
        }
    }
}

impl TryFrom<String> for Rev {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |digits: &str| digits.parse::<i64>().map_err(|error| format!("{text:?}: {error}"));
        if text.is_empty() {
            Ok(Self::Unset)
        } else if let Some(plus) = text.strip_prefix("now") {
            Ok(Self::Now(number(plus)?))
        } else if let Some(plus) = text.strip_prefix("floor") {
            Ok(Self::Floor(number(plus)?))
        } else {
            Ok(Self::At(number(&text)?))
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = serde_json::to_value(self).expect("an operation has a text form");
        drop_zeros(&mut value);
        write!(f, "{value}")
    }
}

/// Removes the fields that are empty, at every depth.
pub fn drop_zeros(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(drop_zeros);
            // A variant's payload is kept even if empty: it is an object, and only plain values are dropped.
            let variant = fields.len() == 1;
            fields.retain(|_, field| match field {
                Value::Null | Value::Bool(false) => variant,
                Value::Number(number) => variant || number.as_i64() != Some(0),
                Value::String(text) => variant || !text.is_empty(),
                Value::Array(items) => variant || !items.is_empty(),
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(drop_zeros),
        _ => {}
    }
}
