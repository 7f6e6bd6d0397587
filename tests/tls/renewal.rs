//! Files that change while the server runs.

use crate::BOTH;
use support::certificates::{Material, Template};
use support::eventually;
use support::server::Target;
use support::tls::{CERT, MUTUAL, TlsServer};

/// A renewed certificate counts for the next connection; those that are open go on.
#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections() {
    for target in BOTH {
        let material = Material::create();
        material.serve(Template { name: "server", serial: 11, ..Template::default() });
        let secure = TlsServer::start(target, material, &CERT).await;
        let held = secure.client().grpc().await;
        assert_eq!(secure.client().serial().await.unwrap(), 11);
        for serial in 12..15 {
            secure.material.serve(Template { name: "server", serial, ..Template::default() });
            assert_eq!(secure.client().serial().await.unwrap(), serial, "{target:?}");
            held.put("tls/renewed", serial.to_string()).await;
        }
    }
}

/// While certificate and key do not go together, or are not there, etcd refuses handshakes; jetway goes on
/// with the pair that it has, and logs it.
#[tokio::test]
async fn a_broken_renewal_leaves_the_certificate_that_works() {
    for target in BOTH {
        let material = Material::create();
        material.serve(Template { name: "server", serial: 11, ..Template::default() });
        let secure = TlsServer::start(target, material, &CERT).await;
        let next =
            secure.material.authority.issue(Template { name: "server", serial: 12, ..Template::default() });
        let breaks: [(&str, &str); 3] = [
            ("server.pem", &next.cert),
            ("server.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            ("server.pem", ""),
        ];
        for (file, contents) in breaks {
            secure.material.write(file, contents);
            match target {
                Target::Jetway => assert_eq!(secure.client().serial().await.unwrap(), 11),
                Target::Etcd => drop(secure.client().connect().await.expect_err("the files are broken")),
            }
        }
        std::fs::remove_file(secure.material.path("server.key")).unwrap();
        match target {
            Target::Jetway => {
                assert_eq!(secure.client().serial().await.unwrap(), 11);
                let logged = async || {
                    let log = secure.server.log();
                    (log.contains("does not match") && log.contains("stays in use")).then_some(())
                };
                eventually("a word in the log", logged).await;
            }
            Target::Etcd => drop(secure.client().connect().await.expect_err("the key is gone")),
        }
        secure.material.write("server.pem", &next.cert);
        secure.material.write("server.key", &next.key);
        assert_eq!(secure.client().serial().await.unwrap(), 12, "{target:?}");
    }
}

/// The authorities of clients are read at the start only.
#[tokio::test]
async fn another_authority_counts_after_a_restart_only() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &MUTUAL).await;
        let pair = secure.material.authority.issue(Template::default());
        let peer = secure.client().with_certificate(pair);
        secure.material.write("ca.pem", support::certificates::Authority::new("another").cert);
        peer.is_served().await;
    }
}
