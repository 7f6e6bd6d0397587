//! Readings of endpoints, beside those of kine.

use super::*;
use serde::Deserialize;

#[test]
fn hosts_credentials_and_query_are_taken_apart() {
    let parsed = parse("nats://me:p%40ss+1@a:4222,b?bucket=k8s&replicas=3").expect("a good endpoint");
    assert_eq!(parsed.servers, ["nats://a:4222", "nats://b:4222"]);
    assert_eq!(parsed.auth, Auth::Password("me".into(), "p@ss+1".into()));
    assert_eq!((parsed.bucket.as_deref(), parsed.replicas), (Some("k8s"), Some(3)));
    assert_eq!(parse("jetstream://s3cret@h:1").expect("token").auth, Auth::Token("s3cret".into()));
    assert_eq!(parse("tls://a,nats://b").expect("two").servers, ["tls://a:4222", "nats://b:4222"]);
}

#[test]
fn the_other_region_is_a_domain_or_the_beginning_of_an_api() {
    let parsed = parse("nats://a?mirror=east").expect("a domain");
    assert_eq!((parsed.mirror.as_deref(), parsed.standby), (Some("$JS.east.API"), None));
    let parsed = parse("nats://a?standby=JS.west.API").expect("the beginning of an API");
    assert_eq!((parsed.mirror, parsed.standby.as_deref()), (None, Some("JS.west.API")));
}

#[test]
fn mistakes_are_named() {
    for (endpoint, word) in [
        ("localhost:4222", "scheme"),
        ("ws://h", "is not served"),
        ("nats://h,wss://h/path", "is not served"),
        ("http://a", "http"),
        ("nats://,nats://h", "host"),
        ("nats://h/path", "/path"),
        ("nats://a?replicas=9", "replicas=9"),
        ("nats://a?replicas=many", "1 to 5"),
        ("nats://?replicas=3", "NATS cluster"),
        ("nats://a?bucket=a.b", "a.b"),
        ("nats://a?colour=red", "colour is unknown; there are bucket, replicas,"),
        ("nats://a?contextFile=f", "contextFile=f"),
        ("nats://a?dataDir=/d", "noEmbed"),
        ("nats://u:secret@a,nats://v:secret@b", "one user part"),
        ("nats://a?mirror=*", "mirror=*: expected a JetStream domain"),
        ("nats://a?standby=a.*", "standby=a.*: expected a JetStream domain"),
        ("nats://a?standby=b&mirror=b", "exclude each other"),
        ("nats://?mirror=b", "mirror= needs an existing NATS"),
    ] {
        let error = parse(endpoint).expect_err(endpoint).to_string();
        assert!(error.contains(word) && !error.contains("secret"), "{endpoint}: {error}");
    }
}

#[test]
fn parameters_without_effect_are_reported() {
    let told = |endpoint: &str| {
        let parsed = parse(endpoint).expect(endpoint);
        parsed.notices.iter().map(|notice| notice.text.clone()).collect::<Vec<_>>().join("\n")
    };
    for (endpoint, words) in [
        ("nats://h?revHistory=10", "until a compaction"),
        ("nats://?dontListen", "jetway's own token"),
        ("nats://?stdoutLogging", "jetway's own log"),
        ("nats://?credsFile=/f", "jetway's own token"),
        ("nats://?noEmbed&dataDir=/d", "beside an existing NATS"),
        ("nats://?noEmbed=false", "its value does not count"),
    ] {
        let told = told(endpoint);
        assert!(told.contains(words) && told.lines().count() == 1, "{endpoint}: {told}");
    }
    assert_eq!(told("nats://h?noEmbed&bucket=b&slowMethod=1s&credsFile=/f"), "");
}

/// kine's reading of an endpoint: see `tests/peers/kine/dsn`.
#[derive(Deserialize)]
struct Reading {
    endpoint: String,
    error: Option<String>,
    #[serde(default)]
    embedded: bool,
    #[serde(default)]
    url: String,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    bucket: Option<String>,
    replicas: Option<usize>,
    slow_method_ms: Option<u64>,
    server_config: Option<PathBuf>,
    data_dir: Option<PathBuf>,
}

/// Endpoints that jetway reads otherwise than kine, and the reason.
const OTHERWISE: &[(&str, &str)] = &[
    ("nats://127.0.0.1", "a host names an existing NATS"),
    ("nats://user:pass@h1:1,nats://h2:2,nats://h3?noEmbed", "parameters may stand behind any server"),
    ("nats://user:p%40ss%2Bw@h:4222?noEmbed", "credentials are decoded"),
    ("nats://t%2Fk@h?noEmbed", "credentials are decoded"),
    ("nats://h1?noEmbed,nats://user:pass@h2", "the user part may stand at any server"),
    ("nats://u:p@h1?noEmbed,nats://other:p@h2", "a second login is refused, and not ignored"),
    ("nats://h1,h2?noEmbed", "the scheme need not be repeated"),
    ("nats://h1?noEmbed&bucket=a,nats://h2?bucket=b", "ignored parameters are refused"),
    ("nats://h?noEmbed&replicas=many", "no number is refused, and not ignored"),
    ("nats://h?noEmbed&revHistory=some", "no number is refused, and not ignored"),
    ("nats://h?noEmbed&colour=red", "an unknown parameter is refused, and not ignored"),
    ("nats://h?noEmbed&credsFile=/etc/nats/user.creds", "the file is read later"),
    ("nats://?noEmbed&contextFile=/no/such/context.json", "the file is read later"),
    ("tls://h", "tls:// is served"),
    ("jetstream://", "kine takes only a whole URL behind jetstream://"),
    ("jetstream://h:4222", "kine takes only a whole URL behind jetstream://"),
    ("jetstream://user:pass@h", "kine takes only a whole URL behind jetstream://"),
];

/// Whether both read an endpoint alike.
fn is_alike(kine: &Reading) -> bool {
    let own = parse(&kine.endpoint);
    let (Ok(own), None) = (&own, &kine.error) else { return own.is_err() && kine.error.is_some() };
    let auth = match (&kine.user, &kine.password, &kine.token) {
        (Some(user), Some(password), _) => Auth::Password(user.clone(), password.clone()),
        (_, _, Some(token)) => Auth::Token(token.clone()),
        _ => Auth::Anonymous,
    };
    let host = |url: &str| match url.trim_start_matches("nats://") {
        host if host.contains("]:") || host.matches(':').count() == 1 => format!("nats://{host}"),
        host => format!("nats://{host}:{DEFAULT_PORT}"),
    };
    let servers: Vec<_> =
        if kine.url == "nats://" { Vec::new() } else { kine.url.split(',').map(host).collect() };
    let slow = own.slow_method.map_or(500, |slow| slow.as_millis() as u64);
    // kine has the parameters of an embedded server beside an existing one too, and does not read them.
    let embedded = |path: &Option<PathBuf>| path.clone().filter(|_| kine.embedded);
    own.is_embedded == kine.embedded
        && own.servers == servers
        && own.auth == auth
        && own.bucket.as_deref().unwrap_or("kine") == kine.bucket.as_deref().unwrap_or_default()
        && own.replicas.unwrap_or(1) == kine.replicas.unwrap_or_default()
        && Some(slow) == kine.slow_method_ms
        && own.server_config == embedded(&kine.server_config)
        && own.data_dir == embedded(&kine.data_dir)
}

#[test]
fn endpoints_are_read_as_kine_reads_them() {
    let readings = include_str!("../../../tests/peers/kine/dsn/endpoints.json");
    let readings: Vec<Reading> = serde_json::from_str(readings).expect("readings");
    assert!(readings.len() > 40);
    for reading in &readings {
        let otherwise = OTHERWISE.iter().any(|(endpoint, _)| *endpoint == reading.endpoint);
        assert_eq!(is_alike(reading), !otherwise, "{}: {:?}", reading.endpoint, parse(&reading.endpoint));
    }
    for (endpoint, _) in OTHERWISE {
        assert!(
            readings.iter().any(|reading| reading.endpoint == *endpoint),
            "{endpoint} is not in the table"
        );
    }
}
