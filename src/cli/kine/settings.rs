//! The meaning of kine's flags, in those of jetway.

use super::super::compaction::AutoCompaction;
use super::super::endpoint;
use super::super::flag_values::FlagValues;
use super::super::flags::Effect;
use super::super::listen::ListenUrl;
use super::super::notice::Notice;
use super::super::program::Program;
use super::super::settings::ServerSettings;
use super::super::storage::Storage;
use super::super::{urls, values};
use super::flags::{FLAGS, variable};
use super::{KineError, KineValues};
use crate::duration;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// kine's socket where `--listen-address` is empty.
const DEFAULT_SOCKET: &str = "unix://kine.sock";
/// kine's address where `--metrics-bind-address` is empty.
const DEFAULT_METRICS: &str = ":8080";
/// kine's database where `--endpoint` is empty.
const SQLITE_FILE: &str = "db/state.db";
/// Schemes of kine's other drivers, and their databases.
const OTHER_DATABASES: [(&str, &str); 11] = [
    ("sqlite", "SQLite"),
    ("litestream", "SQLite"),
    ("mysql", "MySQL"),
    ("postgres", "PostgreSQL"),
    ("postgresql", "PostgreSQL"),
    ("http", "an etcd"),
    ("https", "an etcd"),
    ("unix", "an etcd"),
    ("unixs", "an etcd"),
    ("memory", "kine's memory"),
    ("t4", "T4"),
];
/// Flags with files, and the flags of jetway that take them.
const FILES: [(&str, &str); 6] = [
    ("--ca-file", "nats-ca-file"),
    ("--cert-file", "nats-cert-file"),
    ("--key-file", "nats-key-file"),
    ("--server-cert-file", "cert-file"),
    ("--server-key-file", "key-file"),
    ("--trusted-ca-file", "trusted-ca-file"),
];

/// The settings of a server that is called kine.
pub(super) fn settings(
    kine: &KineValues,
    environment: &BTreeMap<String, String>,
) -> Result<ServerSettings, KineError> {
    let mut notices = without_effect(kine);
    let mut own: BTreeMap<&'static str, String> = BTreeMap::new();
    let has_tls = pair(kine, "--server-cert-file", "--server-key-file")?;
    pair(kine, "--cert-file", "--key-file")?;
    own.insert("listen-client-urls", client_url(kine.text("listen-address"), has_tls)?);
    let metrics_tls = has_tls && !kine.is_true("metrics-ignore-tls-config");
    own.extend(
        metrics_url(kine.text("metrics-bind-address"), metrics_tls)?.map(|url| ("listen-metrics-urls", url)),
    );
    if let Some(endpoint) = kine.non_empty("endpoint") {
        check_endpoint(endpoint)?;
        own.insert("endpoint", endpoint.to_owned());
    }
    let of_environment = || environment.get("JETWAY_ENDPOINT").filter(|endpoint| !endpoint.is_empty());
    let endpoint = own.get("endpoint").or_else(of_environment).cloned();
    // An endpoint that cannot be read is refused later.
    let is_external = endpoint
        .as_ref()
        .is_some_and(|endpoint| endpoint::parse(endpoint).is_ok_and(|parsed| !parsed.is_embedded));
    for (flag, taker) in FILES {
        let Some(path) = kine.non_empty(&flag[2..]) else { continue };
        let is_for_nats = taker.starts_with("nats-");
        if is_for_nats && !is_external {
            let text = format!("{flag} has no effect: the embedded nats-server is on this machine");
            notices.push(Notice::warning(text));
        } else if !is_for_nats && !has_tls {
            notices.push(Notice::warning(format!("{flag} has no effect without --server-cert-file")));
        } else {
            File::open(path).map_err(|reason| KineError::File { flag, path: path.into(), reason })?;
            own.insert(taker, path.to_owned());
        }
    }
    let format = match kine.text("log-format") {
        "plain" => "console",
        "json" => "json",
        other => return Err(KineError::LogFormat(other.to_owned())),
    };
    own.insert("log-format", format.to_owned());
    if kine.is_true("debug") {
        own.insert("log-level", "debug".to_owned());
    }
    let interval = "watch-progress-notify-interval";
    own.insert(interval, kine.text(interval).to_owned());

    let is_known = |name: &str| FLAGS.iter().any(|flag| variable(flag).is_some_and(|known| known == name));
    let flags = FlagValues::translated(Program::Kine, own, notices, environment, "KINE_", is_known)?;
    let mut settings = ServerSettings::new(&flags)?;
    settings.auto_compaction = auto_compaction(kine);
    settings.listen.iter_mut().for_each(|listen| listen.flag = "--listen-address");
    settings.listen_metrics.iter_mut().for_each(|listen| listen.flag = "--metrics-bind-address");
    if let (Storage::Embedded { data_dir, .. }, None) = (&settings.storage, endpoint) {
        if Path::new(SQLITE_FILE).exists() {
            return Err(KineError::HiddenData(SQLITE_FILE.into()));
        }
        settings.notices.push(Notice::warning(format!(
            "kine keeps its data in SQLite if it has no --endpoint; jetway keeps them in a nats-server of its own, in {}",
            data_dir.display()
        )));
    }
    Ok(settings)
}

/// One warning for each reason for which given flags mean nothing here.
fn without_effect(kine: &KineValues) -> Vec<Notice> {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for flag in kine.given() {
        let Effect::None(why) = flag.effect else { continue };
        let name = format!("--{}", flag.name);
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, flags)) => flags.push(name),
            None => reasons.push((why, vec![name])),
        }
    }
    let sentence = |(why, flags): (&str, Vec<String>)| {
        let verb = if flags.len() == 1 { "has" } else { "have" };
        Notice::warning(format!("{} {verb} no effect: {why}", flags.join(" ")))
    };
    reasons.into_iter().map(sentence).collect()
}

/// Whether both of a certificate and its key are given. One alone would leave kine without TLS.
fn pair(kine: &KineValues, cert: &'static str, key: &'static str) -> Result<bool, KineError> {
    match (kine.non_empty(&cert[2..]), kine.non_empty(&key[2..])) {
        (Some(_), Some(_)) => Ok(true),
        (None, None) => Ok(false),
        (Some(_), None) => Err(KineError::HalfCertificate { given: cert, missing: key }),
        (None, Some(_)) => Err(KineError::HalfCertificate { given: key, missing: cert }),
    }
}

fn client_url(address: &str, has_tls: bool) -> Result<String, KineError> {
    let address = if address.is_empty() { DEFAULT_SOCKET } else { address };
    let secure = if has_tls { "s" } else { "" };
    // kine looks for the path of a socket alone, and takes any other scheme for a port.
    let url = match address.split_once("://") {
        Some(("unix", path)) => format!("unix{secure}://{path}"),
        Some((_, port)) => format!("http{secure}://{}", with_host(port)),
        None => format!("http{secure}://{}", with_host(address)),
    };
    check_url("--listen-address", address, &url)?;
    Ok(url)
}

fn metrics_url(address: &str, has_tls: bool) -> Result<Option<String>, KineError> {
    let address = match address {
        "0" => return Ok(None),
        "" => DEFAULT_METRICS,
        address => address,
    };
    let url = format!("http{}://{}", if has_tls { "s" } else { "" }, with_host(address));
    check_url("--metrics-bind-address", address, &url)?;
    Ok(Some(url))
}

/// As in Go, an address without a host stands for all addresses.
fn with_host(address: &str) -> String {
    if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() }
}

fn check_url(flag: &'static str, address: &str, url: &str) -> Result<(), KineError> {
    let address = || address.to_owned();
    let urls = urls::parse_list(url).map_err(|reason| KineError::Url { flag, address: address(), reason })?;
    for url in &urls {
        ListenUrl::new(flag, url).map_err(|reason| KineError::Listen { flag, address: address(), reason })?;
    }
    Ok(())
}

/// Refuses the databases of kine's other drivers. The rest of an endpoint may hold a password.
fn check_endpoint(endpoint: &str) -> Result<(), KineError> {
    let (scheme, _) = endpoint.split_once("://").ok_or(KineError::NoScheme)?;
    match OTHER_DATABASES.iter().find(|(other, _)| *other == scheme) {
        Some((_, database)) => Err(KineError::OtherDatabase { scheme: scheme.to_owned(), database }),
        None => Ok(()),
    }
}

fn auto_compaction(kine: &KineValues) -> Option<AutoCompaction> {
    let interval = duration::parse(kine.text("compact-interval")).expect("a checked duration");
    let kept = values::integer(kine.text("compact-min-retain")).expect("a checked number");
    (!interval.is_zero()).then_some(AutoCompaction::Revision { kept: kept.max(0), interval })
}
