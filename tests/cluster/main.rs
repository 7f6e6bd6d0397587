//! Members that form a cluster of their own, started with the flags with which people start etcd. With
//! `JETWAY_TEST_TARGET=etcd` the same tests run against etcd, but for those of nats-server's part.

mod clocks;
mod cycles;
mod damage;
mod deployment;
mod discovery;
mod dropin;
mod elastic;
mod etcdctl;
mod faults;
mod forming;
mod histories;
mod members;
mod phantoms;
mod planted;
mod power_cuts;
mod refusals;
mod rot;
mod shrinking;
mod slow_disks;
mod stream_leader;
mod tls;
mod upgrade;
mod votes;
