//! `curl` on the JSON gateway and on etcd's other HTTP paths.

use crate::script::{QUICK_PASSWORDS, session};

#[tokio::test]
async fn gateway_keys() {
    session("curl/keys.txt", &[]).await;
}

#[tokio::test]
async fn gateway_streams() {
    session("curl/streams.txt", &[]).await;
}

#[tokio::test]
async fn gateway_cluster() {
    session("curl/cluster.txt", &[]).await;
}

#[tokio::test]
async fn gateway_auth() {
    session("curl/auth.txt", &QUICK_PASSWORDS).await;
}
