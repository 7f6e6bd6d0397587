//! Contexts of the `nats` command line: a file with the servers and the credentials of a NATS.

use super::endpoint::{self, DEFAULT_SERVER, EndpointError};
use crate::log::{Auth, Endpoint};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A context that cannot be used.
#[derive(Debug, Error)]
pub(super) enum ContextError {
    #[error(
        "{name}: there is no folder of contexts, since neither XDG_CONFIG_HOME nor HOME is set; give the file's path"
    )]
    NoHome { name: String },
    #[error("{}: {source}; give the name of a context that `nats context ls` shows, or the path of its file", .file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{}: it is no context of nats: {source}", .file.display())]
    Parse { file: PathBuf, source: serde_json::Error },
    #[error("{}: url: {source}", .file.display())]
    Url { file: PathBuf, source: EndpointError },
    #[error("{}: it sets {setting}, which jetway does not have; {remedy}", .file.display())]
    Unknown { file: PathBuf, setting: &'static str, remedy: &'static str },
}

/// The settings of a context that mean something to jetway, and those that it must refuse. The others are
/// those of the tools.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    url: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    user_jwt: String,
    user_seed: String,
    cert: String,
    key: String,
    ca: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    inbox_prefix: String,
    tls_first: bool,
    socks_proxy: String,
    nsc: String,
    windows_cert_store: String,
}

/// The folders in which contexts are found by their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Folders {
    home: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Folders {
    /// Those of the process' user.
    pub(super) fn of_user() -> Folders {
        let folder = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        Folders { home: folder("HOME"), config: folder("XDG_CONFIG_HOME") }
    }

    /// The file of a context. A name has neither a slash nor the end of a file's name.
    fn file(&self, context: &str) -> Result<PathBuf, ContextError> {
        if context.contains('/') || Path::new(context).extension().is_some_and(|end| end == "json") {
            return Ok(self.expand(context));
        }
        let config = self.config.clone().or_else(|| self.home.as_ref().map(|home| home.join(".config")));
        let config = config.ok_or_else(|| ContextError::NoHome { name: context.to_owned() })?;
        Ok(config.join("nats/context").join(format!("{context}.json")))
    }

    /// A path in a context, which may begin with `~`.
    fn expand(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        }
    }
}

/// Reads the context of a name, or of a file: an endpoint with the settings of the context alone.
pub(super) fn read(context: &str, folders: &Folders) -> Result<Endpoint, ContextError> {
    let file = folders.file(context)?;
    let text =
        std::fs::read_to_string(&file).map_err(|source| ContextError::Read { file: file.clone(), source })?;
    let context =
        serde_json::from_str(&text).map_err(|source| ContextError::Parse { file: file.clone(), source })?;
    endpoint_of(context, &file, folders)
}

fn endpoint_of(context: Context, file: &Path, folders: &Folders) -> Result<Endpoint, ContextError> {
    let unknown = |setting, remedy| Err(ContextError::Unknown { file: file.to_owned(), setting, remedy });
    if !context.socks_proxy.is_empty() {
        return unknown("socks_proxy", "give a context whose servers can be reached directly");
    }
    if !context.nsc.is_empty() {
        return unknown("nsc", "write the credentials to a file (nsc generate creds) and name it as creds");
    }
    if !context.windows_cert_store.is_empty() {
        return unknown("windows_cert_store", "name PEM files as cert and key");
    }
    if context.creds.starts_with("op://") {
        return unknown("creds from 1Password", "write the credentials to a file and name it as creds");
    }
    let url = if context.url.is_empty() { DEFAULT_SERVER } else { &context.url };
    let parsed =
        endpoint::parse(url).map_err(|source| ContextError::Url { file: file.to_owned(), source })?;
    let path = |text: &str| (!text.is_empty()).then(|| folders.expand(text));
    // The order is that of `nats`.
    let auth = if !context.user.is_empty() {
        Auth::Password(context.user, context.password)
    } else if let Some(file) = path(&context.creds) {
        Auth::CredentialsFile(file)
    } else if let Some(file) = path(&context.nkey) {
        Auth::NkeyFile(file)
    } else if !context.user_jwt.is_empty() {
        Auth::Jwt(context.user_jwt, context.user_seed)
    } else if !context.token.is_empty() {
        Auth::Token(context.token)
    } else {
        parsed.auth
    };
    let api_prefix = if context.jetstream_domain.is_empty() {
        Some(context.jetstream_api_prefix).filter(|prefix| !prefix.is_empty())
    } else {
        Some(Endpoint::domain_prefix(&context.jetstream_domain))
    };
    let without_dot = |prefix: String| prefix.trim_end_matches('.').to_owned();
    Ok(Endpoint {
        servers: parsed.servers,
        auth,
        ca_file: path(&context.ca),
        client_cert: path(&context.cert).zip(path(&context.key)),
        tls_first: context.tls_first,
        api_prefix: api_prefix.map(without_dot),
        inbox_prefix: Some(context.inbox_prefix).filter(|prefix| !prefix.is_empty()).map(without_dot),
        ..Endpoint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(text: &str) -> Result<Endpoint, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("nats/context");
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("prod.json"), text).expect("written");
        let config = Some(dir.path().to_owned());
        let folders = Folders { home: Some("/home/me".into()), config };
        let by_name = read("prod", &folders).map_err(|error| error.to_string());
        let file = folder.join("prod.json");
        let by_file = read(file.to_str().expect("text"), &folders).map_err(|error| error.to_string());
        assert_eq!(format!("{by_name:?}"), format!("{by_file:?}"));
        by_name
    }

    #[test]
    fn all_settings_of_a_context_count() {
        let endpoint = context(
            r#"{ "description": "d", "url": "tls://a:1,tls://b", "creds": "~/u.creds", "token": "t", "cert": "/c", "key": "/k",
                 "ca": "/ca", "jetstream_domain": "hub", "inbox_prefix": "_INBOX.me.", "tls_first": true, "color_scheme": "" }"#,
        )
        .expect("a context");
        assert_eq!(endpoint.servers, ["tls://a:1", "tls://b:4222"]);
        assert_eq!(endpoint.auth, Auth::CredentialsFile("/home/me/u.creds".into()));
        assert_eq!(endpoint.client_cert, Some(("/c".into(), "/k".into())));
        assert_eq!(endpoint.ca_file, Some("/ca".into()));
        assert_eq!(endpoint.api_prefix.as_deref(), Some("$JS.hub.API"));
        assert_eq!(endpoint.inbox_prefix.as_deref(), Some("_INBOX.me"));
        assert!(endpoint.tls_first);
        for (text, auth) in [
            (r#"{ "user": "u", "password": "p", "creds": "/c" }"#, Auth::Password("u".into(), "p".into())),
            (r#"{ "nkey": "/seed" }"#, Auth::NkeyFile("/seed".into())),
            (r#"{ "user_jwt": "j", "user_seed": "s" }"#, Auth::Jwt("j".into(), "s".into())),
            (r#"{ "token": "t" }"#, Auth::Token("t".into())),
            (r#"{ "url": "nats://u:p@h" }"#, Auth::Password("u".into(), "p".into())),
        ] {
            assert_eq!(context(text).expect(text).auth, auth, "{text}");
        }
        assert_eq!(context("{}").expect("defaults").servers, [DEFAULT_SERVER]);
    }

    #[test]
    fn contexts_that_cannot_work_are_refused_with_the_file_and_the_setting() {
        for (text, words) in [
            ("[", "no context of nats"),
            (r#"{ "socks_proxy": "socks5://h" }"#, "socks_proxy"),
            (r#"{ "nsc": "nsc://o/a/u" }"#, "nsc generate creds"),
            (r#"{ "url": "wss://h" }"#, "wss is not served"),
        ] {
            let error = context(text).expect_err(text);
            assert!(error.contains("prod.json") && error.contains(words), "{text}: {error}");
        }
        let error = read("no-such", &Folders { home: None, config: Some("/no".into()) });
        assert!(error.expect_err("none").to_string().contains("nats context ls"));
    }
}
