//! etcd's own command line: every command it has.

use crate::script::session;

#[tokio::test]
async fn keys() {
    session("etcdctl/keys.txt", &[]).await;
}

#[tokio::test]
async fn transactions() {
    session("etcdctl/transactions.txt", &[]).await;
}

#[tokio::test]
async fn leases() {
    session("etcdctl/leases.txt", &[]).await;
}

#[tokio::test]
async fn watches() {
    session("etcdctl/watches.txt", &[]).await;
}

#[tokio::test]
async fn concurrency() {
    session("etcdctl/concurrency.txt", &[]).await;
}

#[tokio::test]
async fn maintenance() {
    session("etcdctl/maintenance.txt", &[]).await;
}

#[tokio::test]
async fn auth() {
    session("etcdctl/auth.txt", &[]).await;
}

#[tokio::test]
async fn mirror() {
    session("etcdctl/mirror.txt", &[]).await;
}

#[tokio::test]
async fn offline() {
    session("etcdctl/offline.txt", &[]).await;
}
