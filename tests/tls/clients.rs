//! Which client certificates are taken.

use crate::BOTH;
use support::certificates::{Authority, Material, Template, Usage};
use support::eventually;
use support::server::Target;
use support::tls::{CERT, MUTUAL, TlsServer};

/// With `--client-cert-auth` every client needs a certificate that the authority has signed, that is valid
/// now and meant for clients.
#[tokio::test]
async fn a_client_needs_a_valid_certificate() {
    for target in BOTH {
        let secure = TlsServer::start(target, Material::create(), &MUTUAL).await;
        let issue = |template| secure.client().with_certificate(secure.material.authority.issue(template));
        issue(Template::default()).is_served().await;
        issue(Template::default()).grpc().await.put("tls/client", "").await;
        let stranger = Authority::new("the authority").issue(Template::default());
        for (what, refused) in [
            ("no certificate", secure.client()),
            ("of another authority", secure.client().with_certificate(stranger)),
            ("expired", issue(Template { days: (-10, -1), ..Template::default() })),
            ("not yet valid", issue(Template { days: (1, 10), ..Template::default() })),
            ("for servers", issue(Template { usage: Usage::Server, ..Template::default() })),
        ] {
            assert!(refused.version().await.is_err(), "{target:?} serves a client: {what}");
        }
        // Refused clients disturb no other.
        issue(Template::default()).is_served().await;
    }
}

/// As in etcd `--trusted-ca-file` is enough for that.
#[tokio::test]
async fn a_trusted_ca_alone_requires_client_certificates() {
    for target in BOTH {
        let flags = [&CERT[..], &["--trusted-ca-file", "@ca.pem"]].concat();
        let secure = TlsServer::start(target, Material::create(), &flags).await;
        secure.client().is_refused().await;
        let pair = secure.material.authority.issue(Template::default());
        secure.client().with_certificate(pair).is_served().await;
    }
}

/// With `--client-cert-auth` alone the authorities of the system vouch for clients, and none of them vouches
/// for these.
#[tokio::test]
async fn without_a_trusted_ca_those_of_the_system_count() {
    for target in BOTH {
        let flags = [&CERT[..], &["--client-cert-auth"]].concat();
        let secure = TlsServer::start(target, Material::create(), &flags).await;
        secure.client().is_refused().await;
        let pair = secure.material.authority.issue(Template::default());
        secure.client().with_certificate(pair).is_refused().await;
    }
}

/// The flag `--client-cert-allowed-hostname`: a certificate must be good for one of the names.
#[tokio::test]
async fn a_client_needs_an_allowed_host_name() {
    for target in BOTH {
        let allowed = ["--client-cert-allowed-hostname", "a.test,b.test"];
        let secure = TlsServer::start(target, Material::create(), &[&MUTUAL[..], &allowed].concat()).await;
        let with = |name, hosts| {
            let template = Template { name, hosts, ..Template::default() };
            secure.client().with_certificate(secure.material.authority.issue(template))
        };
        with("client", &["x.test", "a.test"]).is_served().await;
        with("client", &["*.test"]).is_served().await;
        with("client", &["B.test"]).is_served().await;
        for hosts in [&["c.test"][..], &["127.0.0.1"], &["a.test.test"], &[]] {
            // The common name does not count.
            with("a.test", hosts).is_refused().await;
        }
    }
}

/// The flag `--client-crl-file` counts for each new connection, by serial number alone; a list that cannot be
/// read refuses everybody. etcd takes DER only, jetway takes PEM too.
#[tokio::test]
async fn a_revoked_certificate_is_refused_from_then_on() {
    for target in BOTH {
        let material = Material::create();
        material.write("crl", material.authority.revoke(&[1000]));
        let secure =
            TlsServer::start(target, material, &[&MUTUAL[..], &["--client-crl-file", "@crl"]].concat()).await;
        let authority = &secure.material.authority;
        let issue = |serial| {
            secure.client().with_certificate(authority.issue(Template { serial, ..Template::default() }))
        };
        let (good, bad) = (issue(3), issue(300));
        good.is_served().await;
        bad.is_served().await;
        let held = bad.grpc().await;
        // The server has looked at the certificate when it answers.
        held.put("tls/held", "").await;
        secure.material.write("crl", authority.revoke(&[1000, 300]));
        bad.is_refused().await;
        good.is_served().await;
        held.put("tls/held", "connections that are there stay").await;

        // Nobody has to have signed it.
        secure.material.write("crl", Authority::new("somebody else").revoke(&[3]));
        good.is_refused().await;
        bad.is_served().await;

        secure.material.write("crl", "no list at all");
        good.is_refused().await;
        bad.is_refused().await;
        std::fs::remove_file(secure.material.path("crl")).unwrap();
        bad.is_refused().await;
        if target == Target::Jetway {
            let logged =
                async || secure.server.log().contains("--client-crl-file cannot be used").then_some(());
            eventually("a word in the log", logged).await;
        }
        secure.material.write("crl", authority.revoke(&[]));
        bad.is_served().await;
    }
}
