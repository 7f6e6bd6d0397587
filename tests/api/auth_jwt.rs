//! Signed tokens: JWTs.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jetway::proto::authpb::permission::Type::Readwrite;
use jetway::proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

use support::auth::{add_user, auth_revision, enable, permission};
use support::client::{Client, get, op, refused, run};
use support::server::Server;
use support::watch::WatchStream;

const TOKEN: &str = "etcdserver: invalid auth token";
const OLD: &str = "etcdserver: revision of auth store is old";

/// A folder with keys.
struct Keys(TempDir);

impl Keys {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

async fn start(options: &str) -> Server {
    Server::start_with(&["--auth-token", &format!("jwt,{options}"), "--bcrypt-cost", "4"]).await
}

/// A server whose tokens are signed by this secret, with a client that needs one, and the revision of its
/// users.
async fn with_secret(secret: &[u8]) -> (Keys, Server, Client, u64) {
    let keys = Keys::new();
    let path = keys.write("secret", secret);
    let server = start(&format!("sign-method=HS256,priv-key={path}")).await;
    let client = server.client().await;
    enable(&client).await;
    let revision = auth_revision(&client).await;
    (keys, server, client, revision)
}

/// The middle of a token, which holds the claims.
fn claims(token: &str) -> Value {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// AUT-14, AUT-11: the claims of a signed token, its age, and the calls that do not check it.
#[tokio::test]
async fn a_jwt_is_valid_until_users_change() {
    let keys = Keys::new();
    let secret = keys.write("secret", "not to be shown");
    let server = start(&format!("sign-method=HS256,priv-key={secret},ttl=10m")).await;
    let client = server.client().await;
    let root = enable(&client).await;
    add_user(&root, "u", &[permission(Readwrite, "k", "l")]).await;
    let token = client.authenticate("u", "u").await.unwrap().token;
    let signed = claims(&token);
    let revision = auth_revision(&client).await;
    assert_eq!((&signed["username"], &signed["revision"]), (&json!("u"), &json!(revision)));
    let left = signed["exp"].as_u64().unwrap() - now();
    assert!((595..=600).contains(&left), "{signed}");
    let user = client.with_token(&token);
    user.put("k", "v").await;
    user.lease_grant(5, 60).await.unwrap();
    // Used as often as one likes: nothing slides.
    assert_eq!(claims(&client.authenticate("u", "u").await.unwrap().token)["revision"], revision);

    // root's is older than the user it has added.
    refused(root.get("k").await, Code::InvalidArgument, OLD);
    refused(root.range(RangeRequest { serializable: true, ..get("k") }).await, Code::InvalidArgument, OLD);
    let answer =
        WatchStream::open(&root).create(WatchCreateRequest { key: "k".into(), ..Default::default() }).await;
    assert_eq!(answer.cancel_reason, format!("rpc error: code = InvalidArgument desc = {OLD}"));
    // But root it is, and somebody.
    root.user_add("v", "v").await.unwrap();
    root.compact(2).await.unwrap();
    root.status().await.unwrap();
    root.leases().await.unwrap();

    refused(user.get("k").await, Code::InvalidArgument, OLD);
    refused(user.put_request(support::client::put("k", "v")).await, Code::InvalidArgument, OLD);
    user.lease_revoke(5).await.unwrap();
    user.user_get("u").await.unwrap();
    client.login("u", "u").await.get("k").await.unwrap();

    // A password that changes ends no token, but it is old then; a user that goes is nobody.
    let root = client.login("root", "root").await;
    let user = client.login("u", "u").await;
    root.user_delete("u").await.unwrap();
    refused(user.get("k").await, Code::InvalidArgument, OLD);
    refused(user.compact(3).await, Code::FailedPrecondition, "etcdserver: user name not found");
    // Whom somebody else has made up is nobody too, or not allowed.
    let sign = |claims: Value| {
        let key = EncodingKey::from_secret(b"not to be shown");
        client.with_token(&jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap())
    };
    let revision = auth_revision(&client).await;
    let denied = "etcdserver: permission denied";
    let ghost = sign(json!({"username": "ghost", "revision": revision}));
    refused(ghost.get("k").await, Code::PermissionDenied, denied);
    refused(ghost.user_list().await, Code::FailedPrecondition, "etcdserver: user name not found");
    let nameless = sign(json!({"username": "", "revision": revision}));
    refused(nameless.get("k").await, Code::PermissionDenied, denied);
    refused(nameless.user_list().await, Code::InvalidArgument, "etcdserver: user name is empty");
    // A token need not end.
    sign(json!({"username": "root", "revision": revision})).get("k").await.unwrap();
    sign(json!({"username": "root", "revision": revision, "aud": "x", "iss": 5})).get("k").await.unwrap();
    // A revision that is still to come is another one than that of the answer to a read; a write asks for no
    // more.
    let early = sign(json!({"username": "root", "revision": revision + 9}));
    refused(early.get("k").await, Code::InvalidArgument, OLD);
    refused(early.txn(run(vec![op(get("k"))])).await, Code::InvalidArgument, OLD);
    early.put("k", "early").await;
    // Revision 0 is what nobody has.
    let old = sign(json!({"username": "root", "revision": 0}));
    refused(old.get("k").await, Code::InvalidArgument, "etcdserver: user name is empty");
}

/// AUT-14: what is no good token.
#[tokio::test]
async fn a_jwt_with_an_invalid_signature_is_refused() {
    let (_keys, _server, client, revision) = with_secret(b"right").await;
    let good = json!({"username": "root", "revision": revision, "exp": now() + 60});
    let sign = |secret: &[u8], method: Algorithm, claims: &Value| {
        jsonwebtoken::encode(&Header::new(method), claims, &EncodingKey::from_secret(secret)).unwrap()
    };
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        sign(b"right", Algorithm::HS256, &claims)
    };
    let right = sign(b"right", Algorithm::HS256, &good);
    client.with_token(&right).get("k").await.unwrap();
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(good.to_string())
    );
    for wrong in [
        sign(b"wrong", Algorithm::HS256, &good),
        sign(b"right", Algorithm::HS384, &good),
        with("exp", json!(now() - 10)),
        with("nbf", json!(now() + 1000)),
        with("username", json!(7)),
        with("revision", json!("1")),
        with("revision", Value::Null),
        unsigned,
        right[..right.len() - 2].to_owned(),
        format!("{right}.x"),
        "abcdefghijklmnop.7".into(),
        String::new(),
    ] {
        refused(client.with_token(&wrong).get("k").await, Code::Unauthenticated, TOKEN);
    }
}

async fn signs_and_checks(method: &str, options: &str) -> String {
    let server = start(&format!("sign-method={method},{options}")).await;
    let client: Client = server.client().await;
    let root = enable(&client).await;
    root.get("k").await.unwrap();
    let token = client.authenticate("root", "root").await.unwrap().token;
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!((&header["alg"], &header["typ"]), (&json!(method), &json!("JWT")));
    token
}

/// AUT-14: each kind of key, whole or halved.
#[tokio::test]
async fn jwts_are_signed_and_verified_with_every_kind_of_key() {
    let keys = Keys::new();
    let pair = |name: &str, key: &KeyPair| {
        let private = keys.write(&format!("{name}.key"), key.serialize_pem());
        let public = keys.write(&format!("{name}.pub"), key.public_key_pem());
        (private, public)
    };
    let p256 = pair("p256", &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
    let p384 = pair("p384", &KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    let ed = pair("ed", &KeyPair::generate_for(&PKCS_ED25519).unwrap());
    let fixture = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/jwt").join(name);
        path.to_str().unwrap().to_owned()
    };
    let rsa = (fixture("rsa.key"), fixture("rsa.pub"));
    let rsa8 = (fixture("rsa-pkcs8.key"), fixture("rsa.pub"));
    let sec1 = (fixture("p256-sec1.key"), fixture("p256-sec1.pub"));
    for (method, (private, public)) in [
        ("ES256", &p256),
        ("ES256", &sec1),
        ("ES384", &p384),
        ("EdDSA", &ed),
        ("RS256", &rsa),
        ("RS512", &rsa8),
        ("PS384", &rsa),
    ] {
        let token = signs_and_checks(method, &format!("priv-key={private},pub-key={public}")).await;
        signs_and_checks(method, &format!("priv-key={private}")).await;
        // With the public half alone a server checks what another has signed, and signs nothing.
        if method == "ES256" {
            let server = start(&format!("sign-method={method},pub-key={public}")).await;
            let client = server.client().await;
            client.user_add("root", "root").await.unwrap();
            client.user_grant_role("root", "root").await.unwrap();
            client.auth_enable().await.unwrap();
            client.with_token(&token).get("k").await.unwrap();
            refused(
                client.authenticate("root", "root").await,
                Code::Unknown,
                "auth: token signing attempted with verify-only key",
            );
        }
    }
}

/// AUT-14: every form of every claim is read as etcd reads it.
#[tokio::test]
async fn claims_of_a_jwt_have_any_json_form() {
    let (_keys, _server, client, revision) = with_secret(b"right").await;
    let later = now() + 3600;
    let sign = |header: &str, payload: &[u8]| {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let key = EncodingKey::from_secret(b"right");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    };
    const HEADER: &str = r#"{"alg":"HS256"}"#;
    let claims = |rest: &str| sign(HEADER, format!(r#"{{"username":"root",{rest}}}"#).as_bytes());
    let with_exp = |exp: &str| claims(&format!(r#""revision":{revision},"exp":{exp}"#));
    let with_nbf = |nbf: &str| claims(&format!(r#""revision":{revision},"nbf":{nbf}"#));
    let with_revision = |revision: &str| claims(&format!(r#""revision":{revision}"#));
    let valid = with_exp(&later.to_string());
    // The last letter of a signature of 32 bytes has two bits that mean nothing.
    let spare_bits = {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (head, last) = valid.split_at(valid.len() - 1);
        let place = LETTERS.iter().position(|letter| *letter == last.as_bytes()[0]).unwrap();
        format!("{head}{}", LETTERS[place ^ 1] as char)
    };
    let plain = format!(r#"{{"username":"root","revision":{revision}}}"#);
    for token in [
        with_exp(&format!("{later}.0")),
        with_exp(&format!("{later}.9")),
        with_exp(&format!("{later}e0")),
        with_exp(&format!("{}E+3", later as f64 / 1000.0)),
        with_exp("1e18"),
        with_exp("9.2e18"),
        with_exp("0"),
        with_exp("0.0"),
        with_exp("-0"),
        with_exp("0e9"),
        with_exp("1e-999"),
        with_exp(&format!(r#"1,"exp":{later}"#)),
        with_nbf("0"),
        with_nbf("1"),
        with_nbf("-1"),
        with_nbf("1.5e3"),
        with_nbf("1e300"),
        with_nbf(&format!("{}.5", now() - 1)),
        with_revision(&format!("{revision}.0")),
        with_revision(&format!("{revision}.9")),
        with_revision(&format!("{revision}e0")),
        with_revision(&format!(r#"0,"revision":{revision}"#)),
        claims(&format!(r#""revision":{revision},"iat":"x","iss":5,"sub":[],"aud":{{}},"jti":null"#)),
        sign(r#"{"alg":"HS256","typ":5,"kid":[1],"jwk":"x","x":null}"#, plain.as_bytes()),
        sign(r#"{"alg":"none","alg":"HS256"}"#, plain.as_bytes()),
        sign(HEADER, format!(" {plain}\n").as_bytes()),
        spare_bits,
    ] {
        assert_eq!(
            client.with_token(&token).get("k").await.err().map(|s| s.message().to_owned()),
            None,
            "{}",
            payload(&token)
        );
    }
    for token in [
        with_exp("null"),
        with_exp("true"),
        with_exp(r#""""#),
        with_exp(&format!(r#""{later}""#)),
        with_exp("[]"),
        with_exp("{}"),
        with_exp(&format!("[{later}]")),
        with_exp("1"),
        with_exp("1.5"),
        with_exp("0.5"),
        with_exp("-1"),
        with_exp("-0.5"),
        with_exp("9223372036854774784"),
        with_exp("9223372036854775807"),
        with_exp("1e19"),
        with_exp("1e300"),
        with_exp("-1e300"),
        with_exp("1e400"),
        with_exp(&format!(r#"{later},"exp":1"#)),
        with_exp(&format!("0{later}")),
        with_nbf("null"),
        with_nbf(r#""1""#),
        with_nbf("false"),
        with_nbf(&format!("{later}")),
        with_nbf(&format!("{later}.5")),
        with_nbf("9.2e18"),
        with_revision("true"),
        with_revision("[]"),
        with_revision(&format!(r#""{revision}""#)),
        with_revision("1e400"),
        with_revision(&format!(r#"{revision},"revision":null"#)),
        sign(HEADER, format!(r#"{{"username":null,"revision":{revision}}}"#).as_bytes()),
        sign(HEADER, format!(r#"{{"username":["root"],"revision":{revision}}}"#).as_bytes()),
        sign(HEADER, format!(r#"{{"Username":"root","revision":{revision}}}"#).as_bytes()),
        sign(HEADER, format!(r#"{{"username":"root","username":1,"revision":{revision}}}"#).as_bytes()),
        sign(HEADER, format!(r#"[{plain}]"#).as_bytes()),
        sign(HEADER, format!("{plain}x").as_bytes()),
        sign(HEADER, b"null"),
        sign(HEADER, b""),
        sign(r#"{"alg":"hs256"}"#, plain.as_bytes()),
        sign(r#"{"alg":["HS256"]}"#, plain.as_bytes()),
        sign(r#"{"ALG":"HS256"}"#, plain.as_bytes()),
        sign("null", plain.as_bytes()),
        sign("", plain.as_bytes()),
        format!("{valid}="),
    ] {
        let error = client.with_token(&token).get("k").await.err().map(|s| s.message().to_owned());
        assert_eq!(error.as_deref(), Some(TOKEN), "{}", payload(&token));
    }
    let replaced = sign(
        HEADER,
        &[br#"{"username":"ro"#, &b"\xff"[..], format!(r#"ot","revision":{revision}}}"#).as_bytes()].concat(),
    );
    refused(
        client.with_token(&replaced).get("k").await,
        Code::PermissionDenied,
        "etcdserver: permission denied",
    );
    for (claim, code, text) in [
        ("-1", Code::InvalidArgument, OLD),
        ("-1.5", Code::InvalidArgument, OLD),
        ("-1e18", Code::InvalidArgument, OLD),
        ("1e18", Code::InvalidArgument, OLD),
        ("9223372036854775808", Code::InvalidArgument, OLD),
        ("18446744073709549568", Code::InvalidArgument, OLD),
        ("0", Code::InvalidArgument, "etcdserver: user name is empty"),
        ("-0.5", Code::InvalidArgument, "etcdserver: user name is empty"),
        ("0.9", Code::InvalidArgument, "etcdserver: user name is empty"),
        ("18446744073709551616", Code::InvalidArgument, OLD),
        ("1e300", Code::InvalidArgument, OLD),
        ("-1e300", Code::InvalidArgument, OLD),
    ] {
        let status = client.with_token(&with_revision(claim)).get("k").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, text), "revision {claim}");
    }
}

/// The text of a token's payload, for the message of a failure.
fn payload(token: &str) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    parts[..2]
        .iter()
        .map(|part| String::from_utf8_lossy(&URL_SAFE_NO_PAD.decode(part).unwrap()).into_owned())
        .collect()
}

/// AUT-14: a token is refused from the second of its `exp` on.
#[tokio::test]
async fn a_jwt_ends_at_its_exp() {
    let (_keys, _server, client, revision) = with_secret(b"right").await;
    let key = EncodingKey::from_secret(b"right");
    for _ in 0..3 {
        let exp = now() + 2;
        let claims = json!({"username": "root", "revision": revision, "exp": exp});
        let client = client.with_token(&jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap());
        let mut accepted = 0;
        let status = loop {
            let asked_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            match client.get("k").await {
                Ok(_) => {
                    accepted += 1;
                    assert!(asked_at.as_secs() < exp, "accepted {asked_at:?} after 1970, with exp {exp}");
                }
                Err(status) => break status,
            }
        };
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, TOKEN));
        assert!(accepted > 0 && now() >= exp, "it is valid before");
    }
}
