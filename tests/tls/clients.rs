//! Which client certificates are taken.

use crate::BOTH;
use crate::material::{Authority, Material, Says, Usage};
use crate::secure::{CERT, MUTUAL, Secure};
use crate::support::eventually;
use crate::support::server::Target;

/// With `--client-cert-auth` every client needs a certificate that the authority has signed, that is valid now and meant
/// for clients.
#[tokio::test]
async fn a_client_needs_a_good_certificate() {
    for target in BOTH {
        let secure = Secure::start(target, Material::new(), &MUTUAL).await;
        let issue = |says| secure.client().with_certificate(secure.material.authority.issue(says));
        issue(Says::default()).is_served().await;
        issue(Says::default()).grpc().await.put("tls/client", "").await;
        let stranger = Authority::new("the authority").issue(Says::default());
        for (what, refused) in [
            ("no certificate", secure.client()),
            ("of another authority", secure.client().with_certificate(stranger)),
            ("expired", issue(Says { days: (-10, -1), ..Says::default() })),
            ("not yet valid", issue(Says { days: (1, 10), ..Says::default() })),
            ("for servers", issue(Says { usage: Usage::Server, ..Says::default() })),
        ] {
            assert!(refused.version().await.is_err(), "{target:?} serves a client: {what}");
        }
        // Who is refused disturbs nobody.
        issue(Says::default()).is_served().await;
    }
}

/// As in etcd `--trusted-ca-file` is enough for that.
#[tokio::test]
async fn an_authority_alone_asks_for_certificates_too() {
    for target in BOTH {
        let flags = [&CERT[..], &["--trusted-ca-file", "@ca.pem"]].concat();
        let secure = Secure::start(target, Material::new(), &flags).await;
        secure.client().is_refused().await;
        let pair = secure.material.authority.issue(Says::default());
        secure.client().with_certificate(pair).is_served().await;
    }
}

/// With `--client-cert-auth` alone the authorities of the system vouch for clients, and none of them vouches for these.
#[tokio::test]
async fn without_an_authority_the_system_s_are_asked() {
    for target in BOTH {
        let flags = [&CERT[..], &["--client-cert-auth"]].concat();
        let secure = Secure::start(target, Material::new(), &flags).await;
        secure.client().is_refused().await;
        let pair = secure.material.authority.issue(Says::default());
        secure.client().with_certificate(pair).is_refused().await;
    }
}

/// The flag `--client-cert-allowed-hostname`: a certificate must be good for one of the names.
#[tokio::test]
async fn a_client_needs_an_allowed_host_name() {
    for target in BOTH {
        let allowed = ["--client-cert-allowed-hostname", "a.test,b.test"];
        let secure = Secure::start(target, Material::new(), &[&MUTUAL[..], &allowed].concat()).await;
        let with = |name, hosts| {
            let says = Says { name, hosts, ..Says::default() };
            secure.client().with_certificate(secure.material.authority.issue(says))
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

/// The flag `--client-crl-file` counts for each new connection, by serial number alone; a list that cannot be read refuses
/// everybody. etcd takes DER only, jetway takes PEM too.
#[tokio::test]
async fn a_revoked_certificate_is_refused_from_then_on() {
    for target in BOTH {
        let material = Material::new();
        material.write("crl", material.authority.revoke(&[1000]));
        let secure =
            Secure::start(target, material, &[&MUTUAL[..], &["--client-crl-file", "@crl"]].concat()).await;
        let authority = &secure.material.authority;
        let issue =
            |serial| secure.client().with_certificate(authority.issue(Says { serial, ..Says::default() }));
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
            let told =
                async || secure.server.log().contains("--client-crl-file cannot be used").then_some(());
            eventually("a word in the log", told).await;
        }
        secure.material.write("crl", authority.revoke(&[]));
        bad.is_served().await;
    }
}
