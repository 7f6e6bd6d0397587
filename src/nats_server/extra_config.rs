//! The user's own nats-server configuration, included into jetway's.
//!
//! Only its top-level keys are read, and those of the files that it includes. They show whether the file sets
//! a key that jetway must set itself, or one that cannot work. Of the block `jetstream` the domain may be
//! set. A file whose keys cannot be made out passes here: nats-server's own parser refuses it. Case does not
//! matter in keys, as in nats-server.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use super::Error;
use super::config_scanner::{Entry, top_level};

/// Keys that jetway sets, by all of nats-server's names for them. The supervisor relies on the listener, the
/// login, the store and the log that they set. The keys of accounts would leave the account of jetway's
/// streams without JetStream.
const OWNED: &[&str] = &[
    "listen",
    "port",
    "host",
    "net",
    "tls",
    "authorization",
    "server_name",
    "store_dir",
    "storedir",
    "ports_file_dir",
    "log_file",
    "logfile",
    "logtime",
    "logtime_utc",
    "syslog",
    "remote_syslog",
    "max_payload",
    "max_control_line",
    "accounts",
    "operator",
    "operators",
    "resolver",
    "trusted",
    "trusted_keys",
    "no_auth_user",
];

/// Keys of kine's own server that the lines of jetway behind the file replace. Another spelling of them would
/// not be replaced.
const REPLACED: &[&str] = &["listen", "server_name"];

/// Keys that make JetStream wait for other servers, and delete the streams of a server of its own.
const CLUSTERED: &[&str] = &["cluster", "gateway"];
/// The block with the store, of which only the domain may be set.
const JETSTREAM: &str = "jetstream";
const DOMAIN: &str = "domain";
const STORE_DIR: &str = "store_dir";

/// Most levels of included files.
const DEEPEST: u32 = 16;

/// The reason for which a configuration cannot be used.
#[derive(Debug, ThisError)]
pub enum ExtraConfigError {
    #[error("{0}")]
    Path(io::Error),
    #[error("{file}: {source}", file = .file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("its includes nest more than {DEEPEST} deep")]
    Nesting,
    #[error("it sets `{0}`, which is jetway's to set; remove it there")]
    OwnedKey(String),
    #[error(
        "it sets `{0}`, which cannot work: the nats-servers of several jetways become a cluster by --initial-cluster alone; \
         remove it there, or name the servers of a NATS cluster of your own in --endpoint. Leaf nodes (`leafnodes`) work"
    )]
    Clustered(String),
    #[error(
        "it sets `{JETSTREAM}` to more than {{ domain: NAME }}; the rest is jetway's to set: the store is below --data-dir"
    )]
    JetStream,
    #[error("it sets the domain {0:?}, and --nats-js-domain is {1:?}; give one of them")]
    Domains(String, String),
    #[error("its path must be valid UTF-8 without quotes, backslashes and line breaks")]
    PathCharacters,
}

#[derive(Debug)]
pub(super) struct ExtraConfig {
    path: PathBuf,
    domain: Option<String>,
}

impl ExtraConfig {
    /// Reads a file, which is `serverConfig` of kine's or that of a flag. `domain` is that of the flags.
    pub(super) fn read(path: &Path, is_of_kine: bool, domain: Option<&str>) -> Result<Self, Error> {
        let refused = |reason| Error::ExtraConfig { path: path.to_owned(), reason };
        let path = path.canonicalize().map_err(|error| refused(ExtraConfigError::Path(error)))?;
        let mut entries = Vec::new();
        collect_entries(&path, 0, &mut entries).map_err(refused)?;
        let is_replaced = |entry: &Entry| is_of_kine && REPLACED.contains(&entry.spelling.as_str());
        let find = |keys: &[&str]| {
            entries.iter().find(|entry| keys.contains(&entry.key.as_str()) && !is_replaced(entry))
        };
        if let Some(entry) = find(OWNED) {
            return Err(refused(ExtraConfigError::OwnedKey(entry.key.clone())));
        }
        if let Some(entry) = find(CLUSTERED) {
            return Err(refused(ExtraConfigError::Clustered(entry.key.clone())));
        }
        let own_domain = domain_of(&entries, is_of_kine).map_err(refused)?;
        if let (Some(own), Some(domain)) = (&own_domain, domain)
            && own != domain
        {
            return Err(refused(ExtraConfigError::Domains(own.clone(), domain.to_owned())));
        }
        if path.to_str().is_none_or(|path| path.contains(['"', '\'', '\\', '\n'])) {
            return Err(refused(ExtraConfigError::PathCharacters));
        }
        let replaced: Vec<_> = entries.iter().filter(|entry| is_replaced(entry)).collect();
        if !replaced.is_empty() {
            let keys = replaced.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                file = %path.display(),
                keys,
                "--endpoint: these keys of serverConfig have no effect: the embedded nats-server has a name of its own, and \
                 listens on a port of 127.0.0.1 that takes jetway's own token alone"
            );
        }
        Ok(Self { path, domain: own_domain })
    }

    /// The JetStream domain that it sets.
    pub(super) fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The line that includes it into a file in `dir`. nats-server joins even an absolute name to the
    /// directory of the including file, so the name goes up to the root and down again.
    pub(super) fn include_line(&self, dir: &Path) -> String {
        let up = "../".repeat(dir.components().count());
        let path = self.path.to_str().expect("checked when read").trim_start_matches('/');
        format!("include '{up}{path}'\n")
    }
}

/// The store of a server that kine would start with a file; `None` if the file names none or cannot be read.
pub fn store_of_kine(path: &Path) -> Option<PathBuf> {
    let mut entries = Vec::new();
    collect_entries(path, 0, &mut entries).ok()?;
    let blocks = entries.iter().rev().filter(|entry| entry.key == JETSTREAM);
    let mut settings = blocks.flat_map(|block| top_level(&block.nested));
    settings.find(|setting| setting.key == STORE_DIR).map(|setting| PathBuf::from(setting.value))
}

/// The JetStream domain, where the block sets nothing else but the store of kine's server. jetway's own block
/// follows the file and replaces this one, so the key must have the same spelling.
fn domain_of(entries: &[Entry], is_of_kine: bool) -> Result<Option<String>, ExtraConfigError> {
    let mut domain = None;
    for entry in entries.iter().filter(|entry| entry.key == JETSTREAM) {
        let settings = top_level(&entry.nested);
        let is_enabled = matches!(entry.value.as_str(), "enabled" | "true" | "on" | "yes");
        let is_known = |key: &str| key == DOMAIN || is_of_kine && key == STORE_DIR;
        let is_harmless =
            settings.iter().all(|setting| is_known(&setting.key) && !setting.value.starts_with('$'));
        if entry.spelling != JETSTREAM || !is_harmless || (settings.is_empty() && !is_enabled) {
            return Err(ExtraConfigError::JetStream);
        }
        let own = settings.into_iter().rev().find(|setting| setting.key == DOMAIN);
        domain = own.map(|setting| setting.value).or(domain);
    }
    Ok(domain)
}

/// Appends the top-level entries of a file and of the files that it includes at its top level.
fn collect_entries(path: &Path, depth: u32, entries: &mut Vec<Entry>) -> Result<(), ExtraConfigError> {
    if depth > DEEPEST {
        return Err(ExtraConfigError::Nesting);
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| ExtraConfigError::Read { file: path.to_owned(), source })?;
    for entry in top_level(&text) {
        if entry.key == "include" {
            let dir = path.parent().unwrap_or(Path::new("/"));
            // In nats-server a leading slash does not make the name absolute.
            collect_entries(&dir.join(entry.value.trim_start_matches('/')), depth + 1, entries)?;
        } else {
            entries.push(entry);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("top.conf"), "include sub/a.conf\nhttp: 1").unwrap();
        std::fs::write(dir.path().join("sub/a.conf"), "include \"b.conf\"").unwrap();
        std::fs::write(dir.path().join("sub/b.conf"), "jetstream { domain: x }").unwrap();
        let extra = ExtraConfig::read(&dir.path().join("top.conf"), false, None).unwrap();
        assert_eq!(extra.domain(), Some("x"));

        std::fs::write(dir.path().join("sub/b.conf"), "include ../top.conf").unwrap();
        let refused = ExtraConfig::read(&dir.path().join("top.conf"), false, None).unwrap_err().to_string();
        assert!(refused.contains("nest more than"), "{refused}");
    }

    #[test]
    fn keys_that_jetway_sets_or_that_cannot_work_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("top.conf");
        for (text, words) in [
            ("Listen: 0.0.0.0:4222", "it sets `listen`"),
            ("{ debug: false }\nlisten: 0.0.0.0:4222", "it sets `listen`"),
            ("cluster { name: c }", "it sets `cluster`, which cannot work"),
            ("Gateway { name: g }", "it sets `gateway`, which cannot work"),
            ("jetstream { domain: d, store_dir: \"/d\" }", "more than { domain: NAME }"),
            ("jetstream: false", "more than { domain: NAME }"),
            ("JetStream { domain: d }", "more than { domain: NAME }"),
            ("jetstream { domain: $D }", "more than { domain: NAME }"),
            ("jetstream { domain: a }", "the domain \"a\", and --nats-js-domain is \"b\""),
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = ExtraConfig::read(&path, false, Some("b")).unwrap_err().to_string();
            assert!(refused.contains(words), "{text}: {refused}");
        }
        for (text, domain) in [
            ("jetstream { domain: b }", Some("b")),
            ("jetstream: {\n domain = \"b\" # mine\n}", Some("b")),
            ("jetstream: enabled", None),
            ("leafnodes { remotes: [ { url: \"nats-leaf://h\" } ] }", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(ExtraConfig::read(&path, false, Some("b")).unwrap().domain(), domain, "{text}");
        }
        std::fs::write(dir.path().join("part.conf"), "debug: false\nlisten: 1").unwrap();
        for text in [
            "Listen: 0.0.0.0:4222",
            "{ debug: false }\nlisten: 0.0.0.0:4333",
            "{ debug: false } listen: 1",
            "{ debug: false }, { listen: 1 }",
            "{{ debug: false }\n listen: 1 }",
            "} listen: 1",
            "debug: false\rlisten: 1",
            "# a comment\rlisten: 1",
            "debug: false # , a: \"\nlisten: 1\nb: \"",
            "x: 'a\\'\nlisten: 1\ny: 'b'",
            "\"x\\\": 1\nlisten: 1\ny: \"\"",
            "x { y: '\\' }\nlisten: 1\nz: ''",
            "x [ a'b' ] \nlisten: 1",
            "x { y: it's }\nlisten: 1",
            "{\"debug\": false, \"LISTEN\": \"0.0.0.0:1\"}",
            "'listen' 1",
            "port=$PORT\nPORT=4333",
            "x: 1; net = 0.0.0.0",
            "Include part.conf",
            "{ include 'part.conf' }",
            "http: 8222\n\nAccounts: {A: {}}",
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = ExtraConfig::read(&path, false, None).map(drop).expect_err(text).to_string();
            assert!(refused.contains("which is jetway's to set"), "{text}: {refused}");
        }
        // A key of the same name further down is another one.
        let nested = "leafnodes { listen: 1, authorization { token: \"}\" }, tls {} }\nx (\nlisten: 1\n)\n";
        std::fs::write(&path, nested).unwrap();
        ExtraConfig::read(&path, false, None).unwrap();
    }

    /// The file that k0smotron writes for kine.
    #[test]
    fn the_keys_of_kines_own_server_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nats.conf");
        let text = "server_name: kmc-a-0\nlisten: 127.0.0.1:4222\njetstream {\n  store_dir: /nats-data\n}\n";
        std::fs::write(&path, text).unwrap();
        ExtraConfig::read(&path, true, None).unwrap();
        assert_eq!(store_of_kine(&path), Some("/nats-data".into()));
        ExtraConfig::read(&path, false, None).unwrap_err();
        for other in ["LISTEN: 1", "port: 1", "host: h", "jetstream { max_file: 1 }", "cluster { name: c }"] {
            std::fs::write(&path, format!("{text}{other}\n")).unwrap();
            ExtraConfig::read(&path, true, None).map(drop).expect_err(other);
        }
        std::fs::write(&path, "http: 1").unwrap();
        assert_eq!(store_of_kine(&path), None);
    }
}
