//! Answers in a form in which equal behaviour is equal.

use std::sync::LazyLock;

use bytes::Bytes;
use jetway::proto::etcdserverpb::range_request::SortTarget;
use jetway::proto::etcdserverpb::request_op::Request;
use jetway::proto::etcdserverpb::response_op::Response;
use jetway::proto::etcdserverpb::*;
use jetway::proto::mvccpb::KeyValue;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// The response to a request, or its error.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    KeepAlive(LeaseKeepAliveResponse),
    Leases(LeaseLeasesResponse),
    Watch(WatchResponse),
    HashKv(HashKvResponse),
    /// The answer of a call by name, or what remains of it to be compared.
    Message(Value),
    /// Of an operation that makes several calls.
    Several(Vec<Answer>),
    /// The call waits for something that the session does not bring about.
    Blocked,
    /// The request has no answer of its own.
    Silence,
    Error(Code, String),
}

impl Answer {
    pub fn of<T>(answer: Result<T, Status>, wrap: impl FnOnce(T) -> Self) -> Self {
        match answer {
            Ok(message) => wrap(message),
            Err(status) => Self::error(&status),
        }
    }

    pub fn put(answer: Result<PutResponse, Status>) -> Self {
        Self::of(answer, |mut m| {
            mask(&mut m.header);
            Self::Put(m)
        })
    }

    pub fn grant(answer: Result<LeaseGrantResponse, Status>) -> Self {
        Self::of(answer, |mut m| {
            mask(&mut m.header);
            Self::Grant(m)
        })
    }

    pub fn revoke(answer: Result<LeaseRevokeResponse, Status>) -> Self {
        Self::of(answer, |mut m| {
            mask(&mut m.header);
            Self::Revoke(m)
        })
    }

    pub fn error(status: &Status) -> Self {
        // The rest is a text of Go's protobuf, which differs from build to build on purpose.
        let unreadable = "grpc: error unmarshalling request";
        let text = if status.message().starts_with(unreadable) { unreadable } else { status.message() };
        Self::Error(status.code(), text.to_owned())
    }

    /// The revision in the header, if there is one.
    pub fn revision(&self) -> Option<i64> {
        if let Self::Message(message) = self {
            let revision = &message["header"]["revision"];
            return revision.as_i64().or_else(|| revision.as_str()?.parse().ok());
        }
        self.header().map(|header| header.revision)
    }

    fn header(&self) -> Option<&ResponseHeader> {
        match self {
            Self::Range(m) => m.header.as_ref(),
            Self::Put(m) => m.header.as_ref(),
            Self::Delete(m) => m.header.as_ref(),
            Self::Txn(m) => m.header.as_ref(),
            Self::Compact(m) => m.header.as_ref(),
            Self::Grant(m) => m.header.as_ref(),
            Self::Revoke(m) => m.header.as_ref(),
            Self::TimeToLive(m) => m.header.as_ref(),
            Self::KeepAlive(m) => m.header.as_ref(),
            Self::Leases(m) => m.header.as_ref(),
            Self::Watch(m) => m.header.as_ref(),
            Self::HashKv(m) => m.header.as_ref(),
            Self::Message(_) | Self::Several(_) | Self::Blocked | Self::Silence | Self::Error(..) => None,
        }
    }
}

/// Keeps of the ids only whether they are there, which is the difference between a nested header and an outer
/// one.
pub fn mask(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
        header.raft_term = u64::from(header.raft_term != 0);
    }
}

pub fn range(request: &RangeRequest, mut response: RangeResponse) -> RangeResponse {
    mask(&mut response.header);
    order_ties(request, &mut response);
    response
}

/// The sort of a range is not stable, so elements that compare equal may come in any order, and where a limit
/// cuts through them, any of them may be the ones that come.
fn order_ties(request: &RangeRequest, response: &mut RangeResponse) {
    let Ok(target) = SortTarget::try_from(request.sort_target) else { return };
    if target == SortTarget::Key {
        return;
    }
    // The values that were sorted are not in the answer.
    let hidden = target == SortTarget::Value && request.keys_only;
    let tied = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => false,
        SortTarget::Version => a.version == b.version,
        SortTarget::Create => a.create_revision == b.create_revision,
        SortTarget::Mod => a.mod_revision == b.mod_revision,
        SortTarget::Value => hidden || a.value == b.value,
    };
    let runs = response.kvs.chunk_by_mut(tied).count();
    for (n, run) in response.kvs.chunk_by_mut(tied).enumerate() {
        run.sort_by(|a, b| a.key.cmp(&b.key));
        if response.more && n + 1 == runs {
            for kv in run {
                let of_target = |is: SortTarget, number| if target == is { number } else { 0 };
                *kv = KeyValue {
                    version: of_target(SortTarget::Version, kv.version),
                    create_revision: of_target(SortTarget::Create, kv.create_revision),
                    mod_revision: of_target(SortTarget::Mod, kv.mod_revision),
                    value: if target == SortTarget::Value { kv.value.clone() } else { Default::default() },
                    ..Default::default()
                };
            }
        }
    }
}

pub fn txn(request: &TxnRequest, mut response: TxnResponse) -> TxnResponse {
    mask(&mut response.header);
    let taken = if response.succeeded { &request.success } else { &request.failure };
    for (op, answer) in taken.iter().zip(&mut response.responses) {
        answer.response = match (&op.request, answer.response.take()) {
            (Some(Request::RequestRange(q)), Some(Response::ResponseRange(r))) => {
                Some(Response::ResponseRange(range(q, r)))
            }
            (Some(Request::RequestTxn(q)), Some(Response::ResponseTxn(r))) => {
                Some(Response::ResponseTxn(txn(q, r)))
            }
            (_, Some(Response::ResponsePut(mut r))) => {
                mask(&mut r.header);
                Some(Response::ResponsePut(r))
            }
            (_, Some(Response::ResponseDeleteRange(mut r))) => {
                mask(&mut r.header);
                Some(Response::ResponseDeleteRange(r))
            }
            (_, other) => other,
        };
    }
    response
}

/// The method that `/package.Service/Method` without its first slash names.
pub fn method(name: &str) -> MethodDescriptor {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(jetway::proto::DESCRIPTORS).expect("the descriptors of proto/ are whole")
    });
    let (service, name) = name.split_once('/').expect("a service and a method");
    let service = POOL.get_service_by_name(service).unwrap_or_else(|| panic!("no service {service}"));
    let method = service.methods().find(|method| method.name() == name);
    method.unwrap_or_else(|| panic!("no method {name}"))
}

/// The bytes of a message in protobuf's JSON.
pub fn encode(descriptor: MessageDescriptor, request: &Value) -> Bytes {
    let request = if request.is_null() { &json!({}) } else { request };
    let message = DynamicMessage::deserialize(descriptor, request).expect("a request in protobuf's JSON");
    prost::Message::encode_to_vec(&message).into()
}

/// The answer of a call as protobuf's JSON, without what differs between any two clusters.
pub fn message(descriptor: MessageDescriptor, bytes: Bytes) -> Answer {
    let name = descriptor.name().to_owned();
    let message = match DynamicMessage::decode(descriptor, bytes) {
        Ok(message) => message,
        Err(error) => return Answer::Error(Code::DataLoss, format!("{name}: {error}")),
    };
    let mut value = serde_json::to_value(message).expect("a message has a JSON form");
    mask_value(&mut value);
    match name.as_str() {
        "StatusResponse" => mask_status(&mut value),
        // etcd lists them in the order of one of Go's maps, which changes from call to call.
        "AlarmResponse" => {
            if let Some(alarms) = value.get_mut("alarms").and_then(Value::as_array_mut) {
                alarms.sort_by_key(Value::to_string);
            }
        }
        // The remaining time depends on the clock.
        "LeaseTimeToLiveResponse" => {
            value.as_object_mut().and_then(|fields| fields.remove("TTL"));
            if let Some(Value::Array(keys)) = value.get_mut("keys") {
                keys.sort_by_key(Value::to_string);
            }
        }
        _ => {}
    }
    Answer::Message(value)
}

fn mask_value(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    // A field that is zero is not there at all.
                    "clusterId" | "memberId" | "raftTerm" | "ID" | "token" => *field = json!("some"),
                    "peerURLs" | "clientURLs" => *field = json!(field.as_array().map(Vec::len)),
                    _ => mask_value(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_value),
        _ => {}
    }
}

/// Sizes and raft's numbers are each server's own; so is its version. etcd reports another storage version at
/// first.
fn mask_status(status: &mut Value) {
    for name in
        ["version", "storageVersion", "dbSize", "dbSizeInUse", "leader", "raftIndex", "raftAppliedIndex"]
    {
        if let Some(field) = status.get_mut(name) {
            *field = json!("some");
        }
    }
    // The text form of a message is made to differ from build to build, by a second space; and alarms come in
    // any order.
    if let Some(Value::Array(errors)) = status.get_mut("errors") {
        for error in &mut *errors {
            let words = error.as_str().unwrap_or_default().split_whitespace();
            *error = json!(words.collect::<Vec<_>>().join(" "));
        }
        errors.sort_by_key(Value::to_string);
    }
}
