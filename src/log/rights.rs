//! The rights of a NATS user: those that jetway needs, and those that the server denies.

use super::connect::Endpoint;
use super::wire::{ServerOp, Wire, WireError};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// The beginning of the subjects of JetStream's API.
pub(super) const API_PREFIX: &str = "$JS.API";
/// The beginning of the subjects for answers.
const INBOX_PREFIX: &str = "_INBOX";
/// Denials that a slow receiver may be behind.
const BEHIND: usize = 64;
/// A message with this header reaches no stream, because no stream has this name.
const NO_STREAM: &str = "NATS/1.0\r\nNats-Expected-Stream: -\r\n\r\n";
/// A token of the subjects that are tried.
const TRIAL: &str = "rights-check";

/// One way to use a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Send to it.
    Publish,
    /// Receive from it.
    Subscribe,
}

/// The reason for which a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing works without it.
    Always,
    /// Only in some cases, which then name it: a bucket that does not exist, or that has other settings.
    Sometimes,
}

#[derive(Clone, Debug)]
struct Right {
    usage: Use,
    /// May end in a wildcard.
    subject: String,
    need: Need,
}

impl Right {
    fn covers(&self, denied: &Denied) -> bool {
        self.usage == denied.usage
            && match self.subject.strip_suffix('>') {
                Some(beginning) => denied.subject.starts_with(beginning),
                None => self.subject == denied.subject,
            }
    }
}

/// The least rights that a NATS user needs.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    bucket: String,
    rights: Vec<Right>,
}

/// A use of a subject that the server denies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denied {
    /// The use.
    pub usage: Use,
    /// The subject.
    pub subject: String,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usage = if self.usage == Use::Publish { "publish" } else { "subscribe" };
        write!(f, "{usage} to {:?}", self.subject)
    }
}

impl Denied {
    /// Reads a server's text, such as `Permissions Violation for Publish to "a.b"`.
    pub(super) fn parse(text: &str) -> Option<Denied> {
        let (_, what) = text.split_once("ermissions Violation for ")?;
        let usage = if what.starts_with("Publish") { Use::Publish } else { Use::Subscribe };
        let subject = what.split('"').nth(1)?.to_owned();
        Some(Denied { usage, subject })
    }
}

impl Rights {
    /// The rights for an endpoint. Its servers and credentials do not matter.
    pub fn of(endpoint: &Endpoint) -> Rights {
        use Need::{Always, Sometimes};
        use Use::{Publish, Subscribe};
        let bucket = &endpoint.bucket;
        let api = endpoint.api_prefix.as_deref().unwrap_or(API_PREFIX);
        let inbox = endpoint.inbox_prefix.as_deref().unwrap_or(INBOX_PREFIX);
        let stream = super::Bucket::new(bucket, api);
        let (messages, stream) = (stream.publish_prefix, stream.stream);
        let rights = [
            (Publish, format!("{messages}>"), Always),
            (Publish, format!("jetway.{bucket}.>"), Always),
            (Publish, format!("{inbox}.>"), Always),
            (Publish, format!("{api}.INFO"), Sometimes),
            (Publish, format!("$JS.FC.{stream}.>"), Always),
            (Publish, format!("{api}.STREAM.INFO.{stream}"), Always),
            (Publish, format!("{api}.STREAM.CREATE.{stream}"), Sometimes),
            (Publish, format!("{api}.STREAM.UPDATE.{stream}"), Sometimes),
            (Publish, format!("{api}.STREAM.MSG.GET.{stream}"), Always),
            (Publish, format!("{api}.STREAM.MSG.DELETE.{stream}"), Always),
            (Publish, format!("{api}.CONSUMER.CREATE.{stream}.>"), Always),
            (Publish, format!("{api}.CONSUMER.DELETE.{stream}.>"), Always),
            (Subscribe, format!("jetway.{bucket}.>"), Always),
            (Subscribe, format!("{inbox}.>"), Always),
        ];
        let region = |api: &Option<String>, need, requests: &[&str]| {
            let right =
                |request: &&str| (Publish, format!("{}.{request}", api.as_deref().unwrap_or_default()), need);
            if api.is_some() { requests.iter().map(right).collect() } else { Vec::new() }
        };
        let (info, update) = (format!("STREAM.INFO.{stream}"), format!("STREAM.UPDATE.{stream}"));
        let fence = format!("$KV.{bucket}.{}", super::fence::FENCE);
        let of_origin = region(&endpoint.mirror, Sometimes, &[&info, &update, &fence]);
        let of_standby = region(&endpoint.standby, Always, &[&info]);
        let rights = rights.into_iter().chain(of_origin).chain(of_standby);
        let rights = rights.map(|(usage, subject, need)| Right { usage, subject, need }).collect();
        Rights { bucket: bucket.clone(), rights }
    }

    fn subjects(&self, usage: Use) -> impl Iterator<Item = &str> {
        self.rights.iter().filter(move |right| right.usage == usage).map(|right| right.subject.as_str())
    }

    /// The rights as a block `permissions` in the configuration of nats-server, with comments.
    pub fn page(&self) -> String {
        let list = |usage| {
            let subjects: Vec<_> =
                self.subjects(usage).map(|subject| format!("\n    \"{subject}\"")).collect();
            subjects.join(",")
        };
        let flag = |usage| self.subjects(usage).collect::<Vec<_>>().join(",");
        format!(
            "# The rights that jetway's NATS user needs on the bucket {bucket}, and no others.\n\
             #\n\
             # With nsc, for a user in the account that has JetStream:\n\
             #\n\
             # nsc edit user --account ACCOUNT --name USER \\\n\
             #   --allow-pub '{publish_flag}' \\\n\
             #   --allow-sub '{subscribe_flag}'\n\
             # nsc generate creds --account ACCOUNT --name USER > user.creds\n\
             #\n\
             # In the configuration of nats-server, beside the name and the password of the user:\n\
             \n\
             permissions: {{\n  publish: [{publish}\n  ]\n  subscribe: [{subscribe}\n  ]\n}}\n",
            bucket = self.bucket,
            publish_flag = flag(Use::Publish),
            subscribe_flag = flag(Use::Subscribe),
            publish = list(Use::Publish),
            subscribe = list(Use::Subscribe),
        )
    }

    /// Tries every right, and returns those without which nothing works and that the server denies. The
    /// trials change nothing: requests to JetStream's API are empty, and a message to the stream has a header
    /// that makes every stream refuse it.
    ///
    /// # Errors
    /// [`WireError`].
    pub(super) async fn find_missing(
        &self,
        endpoint: &Endpoint,
        first: usize,
    ) -> Result<Vec<Denied>, WireError> {
        let mut wire = Wire::open(endpoint, first, None, 4096).await?;
        let trials = self.rights.iter().enumerate().map(|(at, right)| {
            let (subject, bytes) = (right.subject.replace('>', TRIAL), NO_STREAM.len());
            match right.usage {
                Use::Publish => format!("HPUB {subject} {bytes} {bytes}\r\n{NO_STREAM}\r\n"),
                Use::Subscribe => format!("SUB {subject} {}\r\n", at + 1),
            }
        });
        let trials: String = trials.chain(["PING\r\n".to_owned()]).collect();
        wire.send(trials.as_bytes()).await?;
        let mut denied = HashSet::new();
        loop {
            match wire.next_op()? {
                Some((ServerOp::Pong, _)) => break,
                Some((ServerOp::Error(text), length)) => {
                    let text = String::from_utf8_lossy(text);
                    match Denied::parse(&text) {
                        Some(found) => drop(denied.insert(found)),
                        None => return Err(wire.error(text.as_bytes())),
                    }
                    wire.consume(length);
                }
                Some((_, length)) => wire.consume(length),
                None => wire.read_more().await?,
            }
        }
        let missing = self
            .rights
            .iter()
            .filter(|right| right.need == Need::Always && denied.iter().any(|denied| right.covers(denied)));
        Ok(missing.map(|right| Denied { usage: right.usage, subject: right.subject.clone() }).collect())
    }
}

/// The denials of all connections to an endpoint. Each right is reported once in the log.
#[derive(Clone, Debug)]
pub struct Denials {
    rights: Rights,
    reported: Arc<Mutex<HashSet<Denied>>>,
    new: broadcast::Sender<Denied>,
}

impl Default for Denials {
    fn default() -> Denials {
        Denials::new(Rights::default())
    }
}

impl Denials {
    pub(super) fn new(rights: Rights) -> Denials {
        Denials { rights, reported: Arc::default(), new: broadcast::channel(BEHIND).0 }
    }

    /// Everything that is denied from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Denied> {
        self.new.subscribe()
    }

    pub(super) fn note(&self, denied: &Denied) {
        // Nobody may be waiting for it.
        self.new.send(denied.clone()).ok();
        let Some(right) = self.rights.rights.iter().find(|right| right.covers(denied)) else {
            tracing::debug!(target: "jetway::log", %denied, "NATS denies a use that is not needed");
            return;
        };
        let lacking = Denied { usage: right.usage, subject: right.subject.clone() };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.insert(lacking.clone()) {
            tracing::warn!(
                target: "jetway::log",
                "Permissions Violation: the NATS user may not {denied}: it needs the right to {lacking}; \
                 `jetway nats-permissions --bucket {}` prints all rights that it needs",
                self.rights.bucket
            );
        }
    }

    /// Forgets the reports: the rights of a new connection may be others.
    pub(super) fn forget(&self) {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_read_and_belong_to_a_right() {
        let denied = Denied::parse("Permissions Violation for Publish to \"$KV.b.k.=_\"").expect("a denial");
        assert_eq!((denied.usage, denied.subject.as_str()), (Use::Publish, "$KV.b.k.=_"));
        let subscription =
            Denied::parse("'Permissions Violation for Subscription to \"_INBOX.x\" using queue \"q\"'");
        assert_eq!(subscription.map(|denied| denied.usage), Some(Use::Subscribe));
        assert_eq!(Denied::parse("Authorization Violation"), None);
        let rights = Rights::of(&Endpoint { bucket: "b".into(), ..Endpoint::default() });
        let of: Vec<_> = rights.rights.iter().filter(|right| right.covers(&denied)).collect();
        assert_eq!(of.iter().map(|right| right.subject.as_str()).collect::<Vec<_>>(), ["$KV.b.>"]);
    }

    #[test]
    fn another_domain_has_all_subjects_below_its_api() {
        let api_prefix = Some(Endpoint::domain_prefix("hub"));
        let endpoint = Endpoint { bucket: "b".into(), api_prefix, ..Endpoint::default() };
        let rights = Rights::of(&endpoint);
        for subject in ["$JS.hub.API.$KV.b.>", "$JS.hub.API.STREAM.INFO.KV_b", "$JS.FC.KV_b.>"] {
            assert!(rights.subjects(Use::Publish).any(|right| right == subject), "{subject}");
        }
    }
}
