//! A cluster of embedded servers: its settings, its part of the configuration, and its record in the data
//! directory.
//!
//! Each member runs one nats-server, and their routes make them one NATS cluster. The servers with empty
//! stores elect a leader only once as many have met as there are routes. So the routes name each founding
//! member once, and later members are learned from each other.

use super::data_dir::{self, DataDir, MODE_FILE, Mode};
use super::{Error, ObserverPort, anchor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The account of jetway's streams. `$G` cannot be used: it has JetStream only where it is alone with the
/// system account, and its users cannot be named beside those of the system account.
pub(crate) const ACCOUNT: &str = "JW";
/// The user of jetway's own connection.
pub(crate) const USER: &str = "jetway";
/// The user of the system account.
pub(crate) const SYSTEM_USER: &str = "system";

/// The members of a cluster by name, each with its peer URLs.
pub type Members = BTreeMap<String, Vec<String>>;

/// TLS between the members. nats-server checks the certificates of both sides of a route, whatever is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// Certificate that the server shows in both directions (PEM).
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// Authorities of the other members' certificates (PEM); the system's without it.
    pub trusted_ca: Option<PathBuf>,
    /// Whether TLS 1.2 is refused.
    pub only_version_13: bool,
}

/// Settings of a member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// This member's name.
    pub name: String,
    /// This member's peer URLs.
    pub peer_urls: Vec<String>,
    /// The token that all members share.
    pub token: String,
    /// Address on which the other members are expected, as `host:port`.
    pub listen: String,
    /// Address that the other members are given, as `host:port`.
    pub advertise: String,
    /// The peer URLs of all members by name, this one included. Empty where the flags name none: then those
    /// of the last start are used.
    pub members: Members,
    /// TLS between the members.
    pub tls: Option<PeerTls>,
}

/// A member as its data directory remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    name: String,
    /// The id from the first start. Other peer URLs do not change it.
    id: u64,
    /// Digest of the token.
    token: String,
    members: Members,
    /// Whether the members are those of the cluster's log. Those of the flags may still be corrected.
    #[serde(default)]
    joined: bool,
    #[serde(default)]
    removed: bool,
    /// The restore that has made the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restored: Option<Restored>,
}

/// A restore into a cluster that is yet to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The name of its snapshot, which is the same at each member. A migration has none.
    pub snapshot: Option<String>,
    /// The member whose directory holds the data.
    pub holder: String,
    /// The id of the stream in the directory of that member. A later restore makes another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<u64>,
    /// The token of the cluster. As in etcd, a start behind a restore needs no flag for it.
    token: String,
}

impl Remembered {
    /// The record of a member that starts for the first time.
    fn first(settings: &ClusterSettings) -> Remembered {
        // The others make it of the list, which may name the same addresses in another way.
        let urls = settings.members.get(&settings.name).unwrap_or(&settings.peer_urls);
        Remembered {
            name: settings.name.clone(),
            id: member_id(urls, &settings.token),
            token: digest(&settings.token),
            members: settings.members.clone(),
            joined: false,
            removed: false,
            restored: None,
        }
    }

    /// The record of a data directory; `None` if there is none.
    fn read(path: &Path) -> std::io::Result<Option<Remembered>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        data_dir::replace_private(path, &serde_json::to_string(self)?)
    }
}

pub(super) fn record_path(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

/// The id of a member of a cluster, made of its peer URLs and the token as in etcd: each member knows the ids
/// of all.
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    let text = urls.concat() + token;
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    u64::from_be_bytes(*digest.as_ref().first_chunk().expect("a digest has twenty bytes"))
}

/// Whether a data directory belongs to a member of a cluster whose server is run as part of it.
pub fn is_member(dir: &Path) -> bool {
    record_path(dir).exists() && !is_standalone(dir)
}

/// The id that a data directory remembers for a member whose server runs alone: it is the only member that
/// has started, or was the last one that stayed.
pub fn sole_member_id(dir: &Path) -> Option<u64> {
    let remembered = Remembered::read(&record_path(dir)).ok()??;
    is_standalone(dir).then_some(remembered.id)
}

/// The id of a member that has always been alone, the same at each start on a data directory: that of the
/// file `member-id`, which the first start makes with `first`. As in etcd, another name and other URLs do not
/// change it.
///
/// # Errors
/// The file cannot be read, holds something else, or cannot be written.
pub fn keep_member_id(dir: &Path, first: u64) -> std::io::Result<u64> {
    let path = dir.join("member-id");
    match std::fs::read_to_string(&path) {
        Ok(text) => u64::from_str_radix(text.trim(), 16)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            data_dir::replace_private(&path, &format!("{first:x}\n"))?;
            Ok(first)
        }
        Err(error) => Err(error),
    }
}

fn is_standalone(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join(MODE_FILE)).is_ok_and(|mode| mode.trim() == Mode::Standalone.name())
}

/// Remembers a member whose server has run alone so far, with its id there.
///
/// # Errors
/// The record cannot be written.
pub fn remember_member(dir: &Path, settings: &ClusterSettings, id: u64) -> std::io::Result<()> {
    let remembered = Remembered {
        name: settings.name.clone(),
        id,
        token: digest(&settings.token),
        members: settings.members.clone(),
        joined: true,
        removed: false,
        restored: None,
    };
    remembered.write(&record_path(dir))
}

/// Remembers the name and the token of a member that has been alone since others were there, and may have
/// others now.
///
/// # Errors
/// The record cannot be read or written.
pub fn remember_name(dir: &Path, settings: &ClusterSettings) -> std::io::Result<()> {
    change_record(dir, |remembered| {
        (remembered.name, remembered.token) = (settings.name.clone(), digest(&settings.token));
    })
}

/// Remembers a member that a restore has prepared for its first start.
///
/// # Errors
/// The record cannot be written.
pub(super) fn remember_restored(
    dir: &DataDir,
    settings: &ClusterSettings,
    snapshot: Option<String>,
    (holder, stream): (String, Option<u64>),
) -> Result<(), Error> {
    let path = record_path(dir.path());
    let restored = Restored { snapshot, holder, stream, token: settings.token.clone() };
    let remembered = Remembered { restored: Some(restored), ..Remembered::first(settings) };
    remembered.write(&path).map_err(|error| dir.error("write", &path, error))
}

/// The restore that has made a data directory.
pub fn restored(dir: &Path) -> Option<Restored> {
    Remembered::read(&record_path(dir)).ok()??.restored
}

/// The token that a restore has left in a data directory.
pub fn restored_token(dir: &Path) -> Option<String> {
    restored(dir).map(|restored| restored.token)
}

/// The members that the record of a data directory has.
pub fn remembered_members(dir: &Path) -> Option<Members> {
    Some(Remembered::read(&record_path(dir)).ok()??.members)
}

/// The peer URLs of the member of a data directory, as its record has them.
pub fn own_peer_urls(dir: &Path) -> Option<Vec<String>> {
    let mut remembered = Remembered::read(&record_path(dir)).ok()??;
    remembered.members.remove(&remembered.name)
}

/// Whether the member of a data directory has been in its cluster. From then on it knows the other members by
/// itself, and the flags that found a cluster count no more, as with etcd.
pub fn has_joined(dir: &Path) -> bool {
    Remembered::read(&record_path(dir)).is_ok_and(|known| known.is_some_and(|known| known.joined))
}

/// Remembers the members of a data directory's cluster, as its log has them.
///
/// # Errors
/// The record cannot be read or written.
pub fn remember_members(dir: &Path, members: Members) -> std::io::Result<()> {
    change_record(dir, |remembered| (remembered.members, remembered.joined) = (members, true))
}

/// Remembers that the member of a data directory was removed from its cluster, so that it does not start
/// again.
///
/// # Errors
/// The record cannot be read or written.
pub fn remember_removal(dir: &Path) -> std::io::Result<()> {
    change_record(dir, |remembered| remembered.removed = true)
}

fn change_record(dir: &Path, change: impl FnOnce(&mut Remembered)) -> std::io::Result<()> {
    /// A removal must not be overwritten by a change that was read before it.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = record_path(dir);
    let before = Remembered::read(&path)?.ok_or(std::io::ErrorKind::NotFound)?;
    let mut after = before.clone();
    change(&mut after);
    if after == before { Ok(()) } else { after.write(&path) }
}

/// Compares the settings with those of earlier starts, and remembers them. Returns this member's id
/// and the members to connect to.
///
/// # Errors
/// The data is of another member or another cluster, or was removed from its cluster.
pub(super) fn claim(dir: &DataDir, settings: &ClusterSettings) -> Result<(u64, Members), Error> {
    let path = record_path(dir.path());
    let remembered = compared(dir, settings)?;
    dir.with_reserve(|| remembered.write(&path)).map_err(|error| dir.error("write", &path, error))?;
    Ok((remembered.id, remembered.members))
}

/// As [`claim`], and remembers nothing.
pub(super) fn observe(dir: &DataDir, settings: &ClusterSettings) -> Result<Members, Error> {
    compared(dir, settings).map(|remembered| remembered.members)
}

fn compared(dir: &DataDir, settings: &ClusterSettings) -> Result<Remembered, Error> {
    let path = record_path(dir.path());
    let refused = |reason: String| Error::OtherCluster { path: dir.path().to_owned(), reason };
    let token = digest(&settings.token);
    let remembered = Remembered::read(&path).map_err(|error| dir.error("read", &path, error))?;
    let mut remembered = remembered.unwrap_or_else(|| Remembered::first(settings));
    if remembered.removed {
        return Err(Error::Removed { path: dir.path().to_owned() });
    }
    if remembered.name != settings.name {
        let (is, now) = (remembered.name, &settings.name);
        return Err(refused(format!("of the member {is:?}, and --name is {now:?}")));
    }
    if remembered.token != token {
        // The token itself is a secret, and this text goes to the log.
        return Err(refused(
            "of a cluster with another token than that of --initial-cluster-token, or its default".to_owned(),
        ));
    }
    if !remembered.joined && !settings.members.is_empty() {
        remembered.members.clone_from(&settings.members);
    }
    Ok(remembered)
}

/// A text that shows whether two tokens are the same, and from which none can be had.
fn digest(token: &str) -> String {
    sha256(&format!("jetway cluster {token}"))
}

/// The password of the routes. All members derive it from the token, so that another cluster's members are
/// kept out.
fn route_password(token: &str) -> String {
    sha256(&format!("jetway route {token}"))
}

fn sha256(text: &str) -> String {
    super::hex(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}

/// The beginning of the tag that the server of a member has. NATS has tags in lower case.
pub(crate) const MEMBER_TAG: &str = "member:";
/// The same for an observer.
pub(crate) const OBSERVER_TAG: &str = "observer:";

/// The tag by which a stream is placed on the server of a member.
pub(crate) fn server_tag(name: &str) -> String {
    format!("{MEMBER_TAG}{name}")
}

/// The login of the local connections, and the cluster. `anchor` is the port of the leaf node listener, where
/// there is one. An observer has a name and a port: see
/// [`NatsServerSettings::observes_at`](super::NatsServerSettings::observes_at).
pub(super) fn render(
    settings: &ClusterSettings,
    members: &Members,
    token: &str,
    anchor: Option<u16>,
    observer: Option<(&str, ObserverPort)>,
    quote: impl Fn(&str) -> String,
) -> String {
    let mut text = String::new();
    let (anchor_account, anchor) =
        anchor.map(|port| (anchor::ACCOUNT, anchor::render(port, token, &quote))).unwrap_or_default();
    let jetstream = if observer.is_some() { "" } else { "jetstream: enabled, " };
    let (listen, advertise) = if observer.is_some_and(|(_, port)| port == ObserverPort::Any) {
        // A running process of this member may hold the port.
        let host = settings.listen.rsplit_once(':').map_or("", |(host, _)| host);
        (format!("{host}:-1"), String::new())
    } else {
        (settings.listen.clone(), format!("  advertise: {}\n", quote(&settings.advertise)))
    };
    let tag = match observer {
        Some(_) => format!("{OBSERVER_TAG}{}", settings.name),
        None => server_tag(&settings.name),
    };
    let scheme = if settings.tls.is_some() { "tls" } else { "nats" };
    let password = route_password(&settings.token);
    // One for each member: see the module's header.
    let addresses = members.values().filter_map(|urls| urls.first()?.split_once("://"));
    let routes: Vec<String> =
        addresses.map(|(_, address)| quote(&format!("{scheme}://{USER}:{password}@{address}"))).collect();
    // Clients of one member do not learn the addresses of the other members' servers, which are those of
    // other machines' loopback interfaces.
    write!(
        text,
        "server_name: {name}\n\
         server_tags: [ {tag} ]\n\
         accounts {{\n\
         \x20 {ACCOUNT} {{ {jetstream}users: [ {{ user: {USER}, password: {token} }} ] }}\n\
         \x20 $SYS {{ users: [ {{ user: {SYSTEM_USER}, password: {token} }} ] }}\n\
         {anchor_account}\
         }}\n\
         {anchor}\
         cluster {{\n\
         \x20 name: \"jetway\"\n\
         \x20 listen: {listen}\n\
         {advertise}\
         \x20 no_advertise: true\n\
         \x20 routes: [ {routes} ]\n\
         \x20 authorization {{ user: {USER}, password: {password}, timeout: 5 }}\n\
         {tls}\
         }}\n",
        name = quote(observer.map_or(&settings.name, |(name, _)| name)),
        tag = quote(&tag),
        token = quote(token),
        listen = quote(&listen),
        routes = routes.join(", "),
        password = quote(&password),
        tls = settings.tls.as_ref().map(|tls| render_tls(tls, &quote)).unwrap_or_default(),
    )
    .expect("writing to a string cannot fail");
    text
}

fn render_tls(tls: &PeerTls, quote: &impl Fn(&str) -> String) -> String {
    let path = |path: &Path| quote(&path.display().to_string());
    let mut text =
        format!("  tls {{\n    cert_file: {}\n    key_file: {}\n", path(&tls.cert), path(&tls.key));
    if let Some(ca) = &tls.trusted_ca {
        writeln!(text, "    ca_file: {}", path(ca)).expect("writing to a string cannot fail");
    }
    if tls.only_version_13 {
        text.push_str("    min_version: \"1.3\"\n");
    }
    text.push_str("    timeout: 5\n  }\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, token: &str) -> ClusterSettings {
        let members = ["a", "b", "c"].map(|name| (name.to_owned(), vec![format!("http://{name}.test:2380")]));
        ClusterSettings {
            name: name.into(),
            peer_urls: vec!["http://a.test:2380".into()],
            token: token.into(),
            listen: "0.0.0.0:2380".into(),
            advertise: "a.test:2380".into(),
            members: members.into(),
            tls: None,
        }
    }

    #[test]
    fn a_data_directory_stays_that_of_one_member_of_one_cluster() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("opened");
        assert_eq!(claim(&data, &settings("a", "t")).expect("claimed").1.len(), 3);
        let without_flags = ClusterSettings { members: BTreeMap::new(), ..settings("a", "t") };
        assert_eq!(claim(&data, &without_flags).expect("claimed").1.len(), 3);
        for (other, word) in [(settings("b", "t"), "member \"a\""), (settings("a", "u"), "token")] {
            let refused = claim(&data, &other).expect_err("another one").to_string();
            assert!(refused.contains(word), "{refused}");
        }
        let (a, d) = (
            ("a".to_owned(), vec!["http://a:1".to_owned()]),
            ("d".to_owned(), vec!["http://d:1".to_owned()]),
        );
        assert!(!has_joined(dir.path()));
        remember_members(dir.path(), [a, d].into()).expect("remembered");
        assert!(has_joined(dir.path()));
        let names: Vec<_> = claim(&data, &settings("a", "t")).expect("claimed").1.into_keys().collect();
        assert_eq!(names, ["a", "d"], "the flags count no more");
        remember_removal(dir.path()).expect("remembered");
        assert!(matches!(claim(&data, &settings("a", "t")), Err(Error::Removed { .. })));
    }
}
