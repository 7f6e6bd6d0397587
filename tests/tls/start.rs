//! Invalid certificates and flags of TLS, which end the start.

use std::fs;

use crate::BOTH;
use support::certificates::{Material, Template};
use support::server::{Launch, Port, Server, Target};
use support::tls::{CERT, MUTUAL, TlsClient, TlsServer, get_over, with_paths};

/// Both servers refuse to start; jetway names the flag, the file, and the reason.
async fn refused(material: &Material, args: &[&str], words: &[&str]) {
    for target in BOTH {
        let port = Port::claim();
        let url = format!("https://127.0.0.1:{}", port.number);
        let args = with_paths(material, args);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let launch = Launch { args: &args, also_on: &[&url], ..Launch::default() };
        let (status, output) = Server::fails_to_start_as(target, launch).await;
        assert!(status.code().is_some_and(|code| code != 0), "{target:?} {args:?} ended with {status}");
        if target == Target::Jetway {
            assert!(!output.contains("panicked"), "{output}");
            for word in words {
                assert!(output.contains(word), "{word:?} is not in the output for {args:?}: {output}");
            }
        }
    }
}

#[tokio::test]
async fn bad_material_is_named() {
    let material = Material::create();
    let other = material.authority.issue(Template::default());
    material.write("other.key", &other.key);
    material.write("noise", "no PEM in here");
    material.write("damaged.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let key = ["--key-file", "@server.key"];
    let cert = ["--cert-file", "@server.pem"];
    let missing = ["--cert-file", "@missing.pem"];
    refused(&material, &[missing, key].concat(), &["--cert-file", "missing.pem", "No such file"]).await;
    let noise = ["--cert-file", "@noise"];
    refused(&material, &[noise, key].concat(), &["--cert-file", "noise", "PEM"]).await;
    let damaged = ["--cert-file", "@damaged.pem"];
    refused(&material, &[damaged, key].concat(), &["--cert-file", "damaged.pem"]).await;
    let missing = ["--key-file", "@missing.key"];
    refused(&material, &[cert, missing].concat(), &["--key-file", "missing.key", "No such file"]).await;
    let noise = ["--key-file", "@noise"];
    refused(&material, &[cert, noise].concat(), &["--key-file", "noise", "PEM"]).await;
    let other = ["--key-file", "@other.key"];
    let words = ["--key-file", "other.key", "does not match", "--cert-file"];
    refused(&material, &[cert, other].concat(), &words).await;
    let mutual = |ca| [&cert[..], &key, &["--client-cert-auth", "--trusted-ca-file", ca]].concat();
    refused(&material, &mutual("@missing.pem"), &["--trusted-ca-file", "missing.pem", "No such file"]).await;
    refused(&material, &mutual("@damaged.pem"), &["--trusted-ca-file", "damaged.pem"]).await;
}

#[tokio::test]
async fn bad_flags_are_named() {
    let material = Material::create();
    let with = |flags: &[&'static str]| [&CERT[..], flags].concat();
    let suites = ["--cipher-suites", "TLS_NONE"];
    let words =
        ["--cipher-suites", r#"unexpected TLS cipher suite "TLS_NONE""#, "TLS_ECDHE_RSA_WITH_AES_128_GCM"];
    refused(&material, &with(&suites), &words).await;
    let version = ["--tls-min-version", "TLS1.1"];
    let words = ["--tls-min-version", r#"unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)"#];
    refused(&material, &with(&version), &words).await;
    let versions = ["--tls-min-version", "TLS1.3", "--tls-max-version", "TLS1.2"];
    let words = ["--tls-m", "min version (TLS1.3) is greater than max version (TLS1.2)"];
    refused(&material, &with(&versions), &words).await;
    let both = ["--tls-min-version", "TLS1.3", "--cipher-suites", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
    let words = ["--cipher-suites", "cipher suites cannot be configured when only TLS1.3 is enabled"];
    refused(&material, &with(&both), &words).await;
    refused(&material, &[], &["--cert-file", "https://"]).await;
    let validity = ["--auto-tls", "--self-signed-cert-validity", "0"];
    refused(&material, &validity, &["--self-signed-cert-validity"]).await;
}

/// The flag `--auto-tls`: a certificate of one's own in the data directory, for the hosts of the listen URLs,
/// kept from one start to the next. Clients are not asked for theirs, whatever the other flags are.
#[tokio::test]
async fn a_certificate_is_made_where_there_is_none() {
    for target in BOTH {
        let flags = ["--auto-tls", "--client-cert-auth", "--trusted-ca-file", "@ca.pem"];
        let mut secure = TlsServer::start(target, Material::create(), &flags).await;
        let dir = secure.server.dir().join("data/fixtures/client");
        let cert = fs::read_to_string(dir.join("cert.pem")).unwrap();
        let key = fs::read_to_string(dir.join("key.pem")).unwrap();
        assert!(key.contains("PRIVATE KEY"), "{target:?}");
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert.as_bytes()).unwrap();
        let parsed = pem.parse_x509().unwrap();
        let organisation = parsed.subject().iter_organization().next().unwrap().as_str().unwrap();
        let validity = parsed.validity();
        let days = (validity.not_after.timestamp() - validity.not_before.timestamp()) / (24 * 60 * 60);
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            (organisation, days, names.value.general_names.is_empty()),
            ("etcd", 365, false),
            "{target:?}"
        );
        let stream = secure.client().trusting_any_server().connect().await.unwrap();
        let shown = &stream.get_ref().1.peer_certificates().unwrap()[0];
        assert_eq!(**shown, *pem.contents, "{target:?}");
        assert!(get_over(stream, "/version").await.unwrap().contains("etcdserver"), "{target:?}");
        secure.server.stop().await;
        secure.server.restart().await;
        assert_eq!(fs::read_to_string(dir.join("cert.pem")).unwrap(), cert, "{target:?}");
    }
}

/// A revocation list that is not there at the start refuses clients until it is.
#[tokio::test]
async fn a_revocation_list_may_come_later() {
    for target in BOTH {
        let flags = [&MUTUAL[..], &["--client-crl-file", "@crl"]].concat();
        let secure = TlsServer::start(target, Material::create(), &flags).await;
        let pair = secure.material.authority.issue(Template::default());
        let peer: TlsClient = secure.client().with_certificate(pair);
        peer.is_refused().await;
        secure.material.write("crl", secure.material.authority.revoke(&[]));
        peer.is_served().await;
    }
}
