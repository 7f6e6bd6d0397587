//! Real clients of several languages, each in a scripted session: once against etcd and once against the
//! server under test (`JETWAY_TEST_TARGET`), both fresh. The client must print the same, except for values
//! that each server chooses for itself.
//!
//! The clients come pinned from `make` (see `tests/peers`). Those that need Node or Python are run by `make
//! clients`.

mod certificates;
mod curl;
mod etcdctl;
mod go;
mod plain;
mod process;
mod program;
mod script;
mod scripted;
