//! The parameters of an endpoint.

use super::{EndpointError, ParsedEndpoint, check_bucket, check_subject};
use crate::cli::notice::Notice;
use crate::duration;
use crate::log::Endpoint;
use std::path::PathBuf;

/// Parameters that only an embedded server has.
const EMBEDDED_ONLY: [&str; 4] = ["serverConfig", "dataDir", "dontListen", "stdoutLogging"];

/// Parameters of jetway's own, which kine does not have.
const OWN: [&str; 2] = ["mirror", "standby"];

/// All parameters.
pub(super) const PARAMETERS: [&str; 13] = [
    "bucket",
    "replicas",
    "revHistory",
    "slowMethod",
    "contextFile",
    "credsFile",
    "noEmbed",
    "serverConfig",
    "dontListen",
    "stdoutLogging",
    "dataDir",
    OWN[0],
    OWN[1],
];

/// The parameters that have a value or stand alone. As in kine, the first one of a name counts, and one that
/// is empty is not there.
pub(super) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    pub(super) fn read(query: &str) -> Result<Parameters, EndpointError> {
        let mut parameters: Vec<(&'static str, String)> = Vec::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let known = PARAMETERS.into_iter().find(|known| *known == key);
            let known = known.ok_or_else(|| EndpointError::Parameter(key.to_string()))?;
            if parameters.iter().all(|(name, _)| *name != known) {
                parameters.push((known, value.into_owned()));
            }
        }
        Ok(Parameters(parameters))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(known, _)| *known == name);
        value.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// The beginning of the API of another region: a domain, or the beginning itself.
    fn other_region(&self, name: &'static str) -> Result<Option<String>, EndpointError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        if check_bucket(value).is_ok() {
            return Ok(Some(Endpoint::domain_prefix(value)));
        }
        // A domain has no dot.
        match check_subject(value) {
            Some(prefix) if prefix.contains('.') => Ok(Some(prefix.to_owned())),
            _ => Err(EndpointError::Region { name, value: value.to_owned() }),
        }
    }

    pub(super) fn apply(&self, parsed: &mut ParsedEndpoint, legacy: bool) -> Result<(), EndpointError> {
        if let Some(name) = self.get("bucket") {
            check_bucket(name).map_err(|reason| EndpointError::Bucket { name: name.to_owned(), reason })?;
            parsed.bucket = Some(name.to_owned());
        }
        if let Some(text) = self.get("replicas") {
            let replicas = text.parse().ok().filter(|replicas| (1..=5).contains(replicas));
            parsed.replicas = Some(replicas.ok_or_else(|| EndpointError::Replicas(text.to_owned()))?);
        }
        if let Some(text) = self.get("slowMethod") {
            let slow = duration::parse(text).map_err(|_| EndpointError::SlowMethod(text.to_owned()))?;
            parsed.slow_method = Some(slow);
        }
        parsed.context_file = self.path("contextFile");
        parsed.creds_file = self.path("credsFile");
        let has_host = !parsed.servers.is_empty();
        if let Some(file) = self.get("contextFile").filter(|_| has_host) {
            return Err(EndpointError::ContextAndHost(file.to_owned()));
        }
        let is_external = legacy || self.has("noEmbed");
        if has_host && !is_external {
            for name in ["serverConfig", "dataDir"] {
                if let Some(value) = self.get(name) {
                    return Err(EndpointError::EmbeddedAndHost { name, value: value.to_owned() });
                }
            }
        }
        (parsed.mirror, parsed.standby) = (self.other_region("mirror")?, self.other_region("standby")?);
        if parsed.mirror.is_some() && parsed.standby.is_some() {
            return Err(EndpointError::MirrorAndStandby);
        }
        parsed.is_embedded = !has_host && !is_external && parsed.context_file.is_none();
        if parsed.is_embedded {
            if let Some(replicas) = parsed.replicas.filter(|replicas| *replicas > 1) {
                return Err(EndpointError::EmbeddedReplicas(replicas));
            }
            if let Some(name) = OWN.into_iter().find(|name| self.get(name).is_some()) {
                return Err(EndpointError::EmbeddedMirror(name));
            }
            parsed.server_config = self.path("serverConfig");
            parsed.data_dir = self.path("dataDir");
        }
        self.notice(parsed)
    }

    /// Makes a notice of each parameter that has no effect.
    fn notice(&self, parsed: &mut ParsedEndpoint) -> Result<(), EndpointError> {
        let mut tell = |name: &str, why: &str| {
            let text = format!("--endpoint: {name} has no effect: {why}");
            parsed.notices.push(Notice::warning(text));
        };
        if let Some(text) = self.get("revHistory") {
            if !text.parse().is_ok_and(|history: u32| (2..=64).contains(&history)) {
                return Err(EndpointError::History(text.to_owned()));
            }
            tell("revHistory", "jetway keeps every revision until a compaction, as etcd does");
        }
        if parsed.is_embedded {
            if self.has("dontListen") {
                let why = "the embedded nats-server listens on a port of 127.0.0.1 that takes jetway's own token alone";
                tell("dontListen", why);
            }
            if self.has("stdoutLogging") {
                tell("stdoutLogging", "the lines of the embedded nats-server are in jetway's own log");
            }
            if parsed.creds_file.is_some() {
                tell("credsFile", "the embedded nats-server takes jetway's own token alone");
            }
        } else {
            for name in EMBEDDED_ONLY.into_iter().filter(|name| self.has(name)) {
                tell(name, "there is no embedded nats-server beside an existing NATS");
            }
        }
        if let Some(value) = self.get("noEmbed").filter(|value| *value != "true" && *value != "1") {
            let text =
                format!("--endpoint: noEmbed={value} means noEmbed: as in kine, its value does not count");
            parsed.notices.push(Notice::warning(text));
        }
        Ok(())
    }
}
