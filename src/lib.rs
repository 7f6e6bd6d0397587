//! jetway: the etcd v3 API over a NATS JetStream key-value bucket.
//!
//! jetway is not an implementation of Raft and not a fork of etcd. JetStream gives order, durability and
//! replication. jetway gives etcd's data model: revisions, transactions, watches, leases, users.
//!
//! # One log with one writer
//!
//! The stream of a bucket is one ordered log. One instance at a time writes it: the *writer*. All other
//! instances are *followers*. Each message of the log is a [record]: a version of a key, a lease, the
//! compaction floor, users and roles, a token, an alarm, a member, or a record of the log's own (epoch,
//! barrier, trim, stop). Every instance reads the same log, finds the valid records by the same rule
//! ([`record::Chain`]), and applies them in the same order, so all have the same state at the same index.
//!
//! ```text
//!        client
//!          | gRPC, JSON
//!          v
//!      transport ---> api ---> engine                 a follower sends its calls to the writer, over NATS
//!                               |
//!             writer: planner --> log::Pipeline --> nats-server --> acknowledgement
//!                        ^                               |                |
//!                        | snapshot         log::Consumer (followers)     |
//!                        |                               v                v
//!                      core <------------------------ applier <------ valid records, in order
//!                        |
//!                        '---> core::routing ---> watch ---> api ---> client
//! ```
//!
//! ## A put
//!
//! 1. `api` claims room under the quota and checks the request. Then alarms and the number of open writes may
//!    refuse it.
//! 2. The engine hands the call to its node, a task that owns the chain, the open calls and the role of the
//!    instance. A follower's node sends the call to the writer's over NATS.
//! 3. The writer's planner checks the permissions, and plans the writes on the visible state and the records
//!    in flight.
//! 4. The pipeline appends a record for each write. Each message is guarded by the sequence right before its
//!    own (`Nats-Expected-Last-Sequence`), so the pipeline sends the next message before the last one is
//!    acknowledged. Up to 16,384 messages or 32 MiB are in flight. Messages of a log that is
//!    shared wait until few are in flight, for 5 ms at most, and then go together.
//! 5. nats-server acknowledges. The pipeline emits the records in order, and the chain confirms that they are
//!    valid.
//! 6. A thread of its own (`engine::apply`) takes what has come, waits until the disk has it where jetway
//!    syncs it (`durability`), applies it with `applier`, and publishes the new state. Then it sends the
//!    answers that wait for this state.
//! 7. A follower reads the same records by its consumer, applies them, and answers its client when its own
//!    state shows the record of the call. A refusal, or an answer without a record, comes from the writer
//!    over NATS.
//!
//! ## A watch event
//!
//! 1. The apply thread has published a state. The routing task ([`core::routing`]) reads the events that are
//!    new in the event log.
//! 2. It finds the watchers of each key, and puts the event into the queue of each stream that has one. It
//!    takes no lock.
//! 3. The stream of the Watch call ([`watch`]) takes events from its queue when its connection asks for a
//!    response.
//! 4. A watcher that starts in the past, or whose stream's queue is full, reads the event log by itself until
//!    it has caught up.
//!
//! ## A read
//!
//! A range takes the published state and needs no lock. A linearizable read must know first that this state
//! is new enough. With the embedded nats-server of a member that is alone it always is. Otherwise the writer
//! proves that it still writes: by a record that was sent after the read came, by the votes of most members
//! in a cluster of its own (`engine::votes`), or by a barrier, which all reads that wait share. A follower's
//! call carries its vote. Then the read waits for the records that were sent before it came: another instance
//! may have read them. With `--linearizable-reads leader` the writer proves nothing. A serializable read
//! takes the state as it is.
//!
//! ## A change of the writer
//!
//! 1. A follower that has read the log to its end, is not stopping and was not removed from its cluster,
//!    wants to write if neither a heartbeat nor a record has come for one to two election timeouts (a random
//!    time), if the writer asks it to (`etcdctl move-leader`, SIGTERM), if NATS reports that nobody receives
//!    the calls to the writer, if the last writer was this instance itself, or if the log has no epoch record
//!    yet.
//! 2. It asks the other instances for their index, unless the writer has asked it to take over. If one has
//!    applied more than this one has read, it waits and tries again. After ten such answers without a new
//!    message it ends: the log has lost its tail. In a cluster of its own most members promise with their
//!    answers that they vote for no older epoch.
//! 3. It appends an epoch record, which is guarded by the end of the log. If several followers try at once,
//!    one gets the place.
//! 4. Every instance learns the new writer from this record. Records of the old epoch behind it are not
//!    valid. A deposed writer reads the log up to this record, and so learns which of its calls are in it. It
//!    sends the other calls to the new writer.
//! 5. When everything before its epoch record is visible, the new writer gives each lease its full TTL plus
//!    the longest election timeout, and plans calls.
//!
//! With the embedded nats-server of a member that is alone no other instance can reach the log. There are no
//! heartbeats and no barriers then.
//!
//! ## A change of the number of members
//!
//! The list of members in the log decides whether the embedded nats-server runs alone or in a cluster
//! (`server::elastic`).
//!
//! 1. Once a second member is listed, two servers beside the store make JetStream's metadata (`log::seed`):
//!    a clustered server deletes streams that its metadata does not list.
//! 2. The instance shares the log from its next epoch on (`engine::mode`), although nobody else is there yet.
//! 3. The supervisor stops nats-server, puts the metadata into the store (`nats_server::conversion`), and
//!    starts it as the only server of a cluster. The instance follows and writes again, as after any restart.
//! 4. The reconciler of the servers (`engine::server_group`) gives the stream more copies as members come.
//!    With one copy this process syncs the files; with more each server syncs its own.
//! 5. A new member loads the log at a pace (`engine::follow::pace`), which leaves time to the writer.
//!
//! The way back begins before a removal that leaves one member: the stream has its only copy there first.
//! Then nats-server is started by itself, and the instance keeps the log alone from its next epoch on.
//!
//! # Another region
//!
//! A JetStream mirror of the stream has the same sequences, and so the same log (`log::mirror`). Its
//! instances follow it and have no writer in reach: [`ReadOnly`](log::ReadOnly) refuses everything that would
//! ask one. They are ready when they have come to the end of the primary's log once
//! (`engine::follow::read_only`).
//!
//! A promotion takes the setting `mirror` from the stream (`log::promote`), and an instance there appends the
//! next epoch record. Before that the primary is fenced, if it can be reached: its stream loses the subjects
//! of keys. Else it is fenced when it returns (`engine::read_only`). Its records behind the end of the mirror
//! stay there alone.
//!
//! # Modules
//!
//! From the lowest layer to the highest one. A module imports only from modules above it in this table.
//!
//! | module | content | touches |
//! |---|---|---|
//! | [`types`] | `Revision`, `Sequence`, `LogIndex`, `Epoch`, `LeaseId`, `KeyRange` | nothing |
//! | `planted` | faults for a campaign that must find them, with a feature alone | a variable |
//! | `primitive` | atomics, locks, wakers and clocks, with stand-ins for loom | nothing |
//! | `long_work` | work that would hold a worker of the runtime for long | threads |
//! | [`proto`], `error` | messages of the API, etcd's errors | nothing |
//! | `version`, `duration`, [`memory`], `disk` | versions, Go's durations, freed memory, room on disks | the system |
//! | [`telemetry`] | the registry of metrics, the program's log | standard output, files |
//! | [`core`] | index of versions, event log, published state, routing of events | memory only |
//! | `txn` | plans a request on a state: an answer, or writes | pure |
//! | `auth` | users, roles, permissions, tokens | pure, and a clock |
//! | `lease` | leases, the keys on them, deadlines | a clock |
//! | [`watch`] | streams of the Watch call | the core |
//! | [`record`] | records of the log, the rule of validity | pure |
//! | `applier` | applies valid records to the core and the tables | pure |
//! | `snapshot` | the store as a file of etcd's, and the way back | files, S3 |
//! | `client` | calls of etcd's API to another server | sockets |
//! | [`log`] | subjects, headers, the stream, appending, reading, messages between instances | NATS |
//! | `durability` | syncs the files of the embedded server | files |
//! | [`nats_server`] | supervises the embedded nats-server, alone or as a member of a cluster | processes |
//! | `restore` | snapshots of etcd, and running servers, as the log of an empty bucket | files, NATS, sockets |
//! | `engine` | the node and its roles, planner, compaction, quota, integrity | all above |
//! | [`cli`] | flags, environment, config file | the settings of all above |
//! | `api` | the gRPC services | engine, watch |
//! | `gateway` | JSON over HTTP and WebSockets, as calls of the services | api |
//! | `auto_compaction` | `--auto-compaction-mode` | engine |
//! | `snapshot_schedule` | `--snapshot-schedule` | engine, files, S3 |
//! | `transport` | listeners, connections, TLS, deadlines, keepalive, HTTP routes | sockets |
//! | [`server`] | starts and stops all of it | everything |
//!
//! Some changes, and the places to make them:
//!
//! | change | place |
//! |---|---|
//! | a new kind of record | `record` (`Body`), `log::codec`, `applier`; a unit test of each |
//! | another rule for transactions | `txn`, then `tests/parity` |
//! | a new command | `cli::commands` |
//! | a new flag | `cli::flags`, then the file of its subject in `cli`, `src/cli/FLAGS.md` |
//! | a field of a response | `proto/`, the file of the service in `api` |
//! | a new gRPC method | as for a field; its path for JSON in `gateway::routes`; a new service in `server::services` |
//! | another NATS error to be retried | `log`: `ApiError::is_transient` for requests; `AppendError` for records, after which `engine::follow::takeover` decides |
//! | a field of a record | as for a new kind; raise `record::FORMAT` |
//! | a field of a call or an answer between instances | `engine::proposal::wire`; `log::messenger` carries it |
//! | a setting of the stream | `log::stream_settings` |
//! | a new metric | `engine::counters` or `engine::gauges` for the engine and leases, else `metrics` of the module |
//! | a longer queue of a Watch stream | `core::routing::queue` |
//! | another rule of takeover | `tests/model` first, then `engine::follow::takeover` |
//! | another step from one member to several | `server::elastic`; `nats_server::conversion` for the files |
//!
//! # Invariants
//!
//! The headers of the modules number their own, such as I1 to I4 in [`core`], H1 to H3 in [`core::routing`],
//! C1 to C3 in `record::chain`, A1 to A4 in `applier`, E1 to E3 in `engine` and N1 to N3 in `engine::node`.
//! Three of them carry the others:
//!
//! - C2, **nothing is skipped.** Behind the last trim record no sequence of the stream may be missing. An
//!   instance that misses one loads the log again if a newer trim record explains it, else it ends.
//! - E3, **an answer rests on a proof.** A write is answered when its record is valid, durable and visible.
//!   If other instances may write, an answer without a record waits for a message that was sent after the
//!   call came. Only the renewal of a lease may rest on a message that was sent within the last election
//!   timeout.
//! - E2, **a call happens at most once.** A call without an answer is sent again to the same writer, which
//!   plans it once. It is sent to another writer only if an epoch record proves that it is not in the log.
//!
//! # Stored format
//!
//! The format is number 2 ([`record::FORMAT`]). The bucket `B` is the stream `KV_B`. A key is a subject:
//! `/registry/pods/a` is `$KV.B.=.registry.pods.a`. Letters, digits, `-` and `_` stand for themselves, a
//! slash is a dot, any other byte is `=XX`, an empty piece is `=`. A value is the payload of a message, a
//! delete is a marker of JetStream's key-value buckets, so `nats kv` can read the bucket. The header `Jetway`
//! holds the numbers and the kind of a record (`log::codec`). Records other than keys have subjects below
//! `$KV.B.=_.`, which no key has, and payloads of JSON or none. jetway refuses a bucket of another format or
//! of another program.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | sequence | the number of a message in the stream; JetStream assigns it |
//! | index | the number of a valid record in the log; etcd's Raft index |
//! | revision | the number of a change of keys; etcd's revision |
//! | epoch | the time of one writer; etcd's Raft term |
//! | nonce | a random number that an epoch's writer puts into each record |
//! | valid | a record with the current epoch and nonce and the next index, or an epoch record with the next epoch; all other messages are void |
//! | batch | the records of one transaction; it is valid when its last record is |
//! | primary | the stream that may be written, where there is a mirror |
//! | mirror, origin | JetStream's copy of a stream in another region; the stream that it copies |
//! | standby | the mirror, as its primary knows it |
//! | promotion | a mirror becomes the primary |
//! | fence | the settings that keep records out of a replaced primary |
//! | barrier | a message that changes nothing; it proves that its sender still writes |
//! | vote, promise | a member's word to the writer that no other instance has become the writer; its word to a candidate that it votes for no older epoch |
//! | poll | the writer's question for votes |
//! | floor | the compacted revision |
//! | trim record | permits that records up to an index are missing, because a compaction removes them |
//! | digest | a checksum of the state, which instances compare |
//! | mark | a file beside the embedded store: the index and the digest up to which it was synced |
//! | operation | the id of a call: the start of an instance, and a counter |
//! | copy | a replica of the stream (`num_replicas`) |
//! | alone | no other instance can reach the log: the embedded server admits this one only |
//! | heard of | a message of that instance has come lately |
//! | in flight | sent and not acknowledged |
//! | acknowledged | JetStream has stored the message on most replicas |
//! | published, visible | readers see it |
//!
//! # Models
//!
//! - `tests/model` simulates the protocol of the log. `make model` runs random schedules, plants each known
//!   fault, and fails if one of them is not caught.
//! - `make loom` runs the lock-free parts in every order of steps with at most two forced switches of
//!   threads.
//! - `make miri` runs the tests of the parts without I/O under miri.

#![warn(missing_debug_implementations, unreachable_pub)]
#![warn(clippy::pedantic, clippy::print_stdout, clippy::unwrap_used)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "revisions, sequences and lengths cross between i64 (etcd's wire), u64 (NATS) and usize all the time"
)]
#![allow(
    clippy::module_name_repetitions,
    reason = "a name repeats its module if the field's term does (`Revision`, `RevisionMap`)"
)]
#![allow(
    clippy::doc_markdown,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::similar_names,
    clippy::too_many_lines,
    reason = "they find style, and no mistakes"
)]
#![cfg_attr(
    jetway_loom,
    allow(private_interfaces, dead_code, reason = "the stand-ins of the models are no interface")
)]

mod api;
mod applier;
mod auth;
mod auto_compaction;
pub mod cli;
mod client;
pub mod core;
mod disk;
mod durability;
mod duration;
mod engine;
mod error;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod lease;
pub mod log;
mod long_work;
pub mod memory;
pub mod nats_server;
mod planted;
mod primitive;
pub mod proto;
pub mod record;
mod restore;
pub mod server;
mod snapshot;
mod snapshot_schedule;
pub mod telemetry;
mod transport;
mod txn;
pub mod types;
mod version;
pub mod watch;
