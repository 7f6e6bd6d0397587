//! `jetway snapshot save`: a snapshot of a running jetway or etcd, with etcdctl's flags.

use super::super::command::help;
use super::super::commands::Environment;
use super::super::flag_values::{aws, texts};
use super::super::runtime::{RuntimeError, block_on};
use crate::client::{Client, ClientError, ClientSettings};
use crate::duration;
use crate::proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use crate::snapshot::{FileError, PartFile, S3, S3Error, S3UrlError, SNAPSHOT_REVISION, Upload, is_url};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;
use tonic::metadata::MetadataMap;

pub(super) const NAME: &str = "save";
const CALL: &str = "/etcdserverpb.Maintenance/Snapshot";
/// The time between two lines of progress, on a terminal and elsewhere.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// A snapshot that was not saved. Then there is no file of its name that was not there before.
#[derive(Debug, Error)]
pub(in crate::cli) enum SaveError {
    #[error(
        "--endpoints {0}: a snapshot is of one server; name the one that sends it, as in --endpoints http://host:2379"
    )]
    Endpoints(String),
    #[error("--user {0} has no password: give --user {0}:PASSWORD, --password or ETCDCTL_PASSWORD")]
    NoPassword(String),
    #[error("--password goes with --user NAME, without a password there")]
    NoUser,
    #[error("--cert and --key go together: {0} is missing")]
    Pair(&'static str),
    #[error("--{flag} {value}: {reason}; give a duration such as 10s")]
    Duration { flag: &'static str, value: String, reason: String },
    #[error("{endpoint} sends no snapshot: {source}")]
    Call { endpoint: String, source: ClientError },
    #[error(
        "{endpoint} has ended the snapshot after {received} bytes: {source}; nothing was saved, try again"
    )]
    Interrupted { endpoint: String, received: u64, source: ClientError },
    #[error("{endpoint} has not sent the snapshot within --command-timeout {timeout:?}; nothing was saved")]
    Timeout { endpoint: String, timeout: Duration },
    #[error(
        "--revision {revision}: {endpoint} does not know it, as no etcd does; save without it, and restore the file with jetway restore \
         --to-revision {revision}"
    )]
    Revision { revision: i64, endpoint: String },
    #[error("{file}: {reason}")]
    Url { file: String, reason: S3UrlError },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    S3(#[from] S3Error),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

fn flag(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).overrides_with(name)
}

/// The flags of etcdctl for a connection, its endpoint aside.
pub(in crate::cli) fn login_args() -> [Arg; 6] {
    [
        flag("user", "NAME[:PASSWORD]", "The user, which needs the role root if auth is enabled"),
        flag("password", "PASSWORD", "The password of --user"),
        flag("cacert", "FILE", "Authorities of the server's certificate (PEM) [default: the system's]"),
        flag("cert", "FILE", "Certificate of the client (PEM)"),
        flag("key", "FILE", "Key of --cert (PEM)"),
        flag("dial-timeout", "DURATION", "How long a connection may take").default_value("2s"),
    ]
}

/// The command, with the flags of etcdctl.
pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Save a snapshot of a running jetway or etcd")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .help("The file that gets the snapshot, or s3://BUCKET/NAME"),
        )
        .arg(flag("endpoints", "URL", "The server").default_value("127.0.0.1:2379"))
        .args(login_args())
        .arg(flag("command-timeout", "DURATION", "How long it may take in all [default: without a limit]"))
        .arg(
            Arg::new("revision")
                .long("revision")
                .value_name("REVISION")
                .value_parser(clap::value_parser!(i64).range(1..))
                .help("Save the keys as a jetway had them at a revision since its compaction [default: the last one]"),
        )
        .arg(help(ArgAction::HelpShort))
        .after_help(
            "A flag that is not given is read from its variable of etcdctl, such as ETCDCTL_ENDPOINTS.",
        )
}

/// Saves a snapshot. Returns the text for standard output, which is etcdctl's.
pub(super) fn run(matches: &ArgMatches, environment: &Environment) -> Result<String, SaveError> {
    let flags = Flags { matches, environment };
    let settings = flags.client()?;
    let timeout = flags.duration("command-timeout")?;
    let file = matches.get_one::<String>("file").expect("clap requires it");
    let place = if is_url(file) {
        let object = S3::object(file, &aws(&texts(environment.iter().cloned())));
        Place::S3(object.map_err(|reason| SaveError::Url { file: file.clone(), reason })?)
    } else {
        Place::File(file.into())
    };
    let revision = matches.get_one::<i64>("revision").copied();
    let version = block_on(async {
        let mut target = Target::None;
        let received = receive(&settings, revision, &place, &mut target);
        let received = match timeout {
            None => received.await,
            Some(timeout) => tokio::time::timeout(timeout, received)
                .await
                .unwrap_or_else(|_| Err(SaveError::Timeout { endpoint: settings.endpoint.clone(), timeout })),
        };
        match received {
            Ok(version) => target.finish().await.map(|()| version),
            Err(error) => {
                target.abort().await;
                Err(error)
            }
        }
    })??;
    let version = if version.is_empty() { version } else { format!("Server version {version}\n") };
    Ok(format!("Snapshot saved at {file}\n{version}"))
}

/// The place of the snapshot.
enum Place {
    File(PathBuf),
    S3(S3),
}

/// A snapshot on its way.
enum Target {
    /// Nothing was received yet.
    None,
    File(PartFile),
    S3(Box<Upload>),
}

impl Target {
    /// Begins at a place. `size` is about that of the snapshot.
    async fn create(place: &Place, size: u64) -> Result<Target, SaveError> {
        Ok(match place {
            Place::File(path) => Target::File(PartFile::create(path)?),
            Place::S3(object) => Target::S3(Box::new(object.upload(size).await?)),
        })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        match self {
            Target::None => Ok(()),
            Target::File(file) => Ok(file.write(bytes)?),
            Target::S3(upload) => Ok(upload.write(bytes).await?),
        }
    }

    async fn finish(self) -> Result<(), SaveError> {
        match self {
            Target::None => {}
            Target::File(file) => drop(file.finish()?),
            Target::S3(upload) => drop(upload.finish().await?),
        }
        Ok(())
    }

    async fn abort(self) {
        if let Target::S3(upload) = self {
            upload.abort().await;
        }
    }
}

/// Receives all of a snapshot. Returns the server's version, where it reports one.
async fn receive(
    settings: &ClientSettings,
    revision: Option<i64>,
    place: &Place,
    target: &mut Target,
) -> Result<String, SaveError> {
    let endpoint = || settings.endpoint.clone();
    let call = |source| SaveError::Call { endpoint: endpoint(), source };
    let client = Client::connect(settings).await.map_err(call)?;
    let metadata = |metadata: &mut MetadataMap| {
        if let Some(revision) = revision {
            metadata.insert(SNAPSHOT_REVISION, revision.into());
        }
    };
    let response = client.server_stream_with(CALL, SnapshotRequest {}, metadata).await.map_err(call)?;
    if let Some(revision) = revision.filter(|_| !response.metadata().contains_key(SNAPSHOT_REVISION)) {
        return Err(SaveError::Revision { revision, endpoint: endpoint() });
    }
    let mut stream: tonic::Streaming<SnapshotResponse> = response.into_inner();
    let mut progress = Progress::new();
    let (mut received, mut version) = (0, String::new());
    loop {
        let message = stream.message().await.map_err(|status| match received {
            // etcd refuses a call of this kind with its first message.
            0 => call(ClientError::Refused(status)),
            _ => SaveError::Interrupted {
                endpoint: endpoint(),
                received,
                source: ClientError::Refused(status),
            },
        })?;
        let Some(message) = message else { break };
        received += message.blob.len() as u64;
        // A call that is refused leaves no file behind, and an older one under this name as it is.
        if matches!(target, Target::None) {
            *target = Target::create(place, received + message.remaining_bytes).await?;
        }
        target.write(&message.blob).await?;
        progress.show(received, message.remaining_bytes);
        version = message.version;
    }
    progress.end();
    if matches!(target, Target::None) {
        // A server that sends nothing has sent no whole snapshot.
        *target = Target::create(place, 0).await?;
    }
    Ok(version)
}

/// The arguments, and the variables that stand in for them.
pub(in crate::cli) struct Flags<'a> {
    pub(in crate::cli) matches: &'a ArgMatches,
    pub(in crate::cli) environment: &'a Environment,
}

impl Flags<'_> {
    /// The value of a flag. As in etcdctl, an argument wins over its variable, which wins over the default.
    fn text(&self, name: &str) -> Option<String> {
        let given = self.matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
        let variable = format!("ETCDCTL_{}", name.to_uppercase().replace('-', "_"));
        let variable = || {
            let mut found = self.environment.iter().filter(|(name, _)| name.as_os_str() == variable.as_str());
            found.next_back().map(|(_, value)| value.to_string_lossy().into_owned())
        };
        let argument = || self.matches.get_one::<String>(name).cloned();
        let text = if given { argument() } else { variable().or_else(argument) };
        text.filter(|text| !text.is_empty())
    }

    fn duration(&self, flag: &'static str) -> Result<Option<Duration>, SaveError> {
        let Some(value) = self.text(flag) else { return Ok(None) };
        match duration::parse(&value) {
            Ok(duration) => Ok(Some(duration)),
            Err(error) => Err(SaveError::Duration { flag, value, reason: error.to_string() }),
        }
    }

    fn client(&self) -> Result<ClientSettings, SaveError> {
        let endpoint = self.text("endpoints").unwrap_or_default();
        if endpoint.contains(',') {
            return Err(SaveError::Endpoints(endpoint));
        }
        self.client_of(endpoint)
    }

    /// The connection to an endpoint.
    ///
    /// # Errors
    /// [`SaveError`] for flags that do not go together.
    pub(in crate::cli) fn client_of(&self, endpoint: String) -> Result<ClientSettings, SaveError> {
        let user = match (self.text("user"), self.text("password")) {
            (None, None) => None,
            (None, Some(_)) => return Err(SaveError::NoUser),
            (Some(name), Some(password)) => Some((name, password)),
            (Some(both), None) => match both.split_once(':') {
                Some((name, password)) => Some((name.to_owned(), password.to_owned())),
                None => return Err(SaveError::NoPassword(both)),
            },
        };
        let certificate = match (self.text("cert"), self.text("key")) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (Some(_), None) => return Err(SaveError::Pair("--key")),
            (None, Some(_)) => return Err(SaveError::Pair("--cert")),
        };
        Ok(ClientSettings {
            endpoint,
            user,
            ca_file: self.text("cacert").map(PathBuf::from),
            certificate,
            dial_timeout: self.duration("dial-timeout")?.unwrap_or_default(),
        })
    }
}

/// Reports its progress on standard error.
struct Progress {
    is_terminal: bool,
    told: Instant,
    has_line: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { is_terminal: std::io::stderr().is_terminal(), told: Instant::now(), has_line: false }
    }

    fn show(&mut self, received: u64, remaining: u64) {
        if self.told.elapsed() < if self.is_terminal { ON_TERMINAL } else { ELSEWHERE } {
            return;
        }
        self.told = Instant::now();
        let all = received + remaining;
        let percent = received.saturating_mul(100) / all.max(1);
        let (before, after) = if self.is_terminal { ("\r", "") } else { ("", "\n") };
        // A failure to report the progress stops nothing.
        write!(std::io::stderr(), "{before}{received} of {all} bytes ({percent} %){after}").ok();
        self.has_line |= self.is_terminal;
    }

    fn end(&self) {
        if self.has_line {
            writeln!(std::io::stderr()).ok();
        }
    }
}
