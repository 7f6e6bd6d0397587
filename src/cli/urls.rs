//! URLs in the forms that etcd accepts: `http://host:port`, `https://host:port`, `unix://path` and
//! `unixs://path`.

use thiserror::Error;

/// A text is not such a URL. The texts of the errors are etcd's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum UrlError {
    #[error("parse {url:?}: {reason}")]
    Syntax { url: String, reason: UrlSyntaxError },
    #[error("URL address does not have the form \"host:port\": {0}")]
    NoHostPort(String),
    #[error("URL must not contain a path: {0}")]
    Path(String),
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
}

/// A text is not a URL. The text of the error is that of Go's `net/url`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum UrlSyntaxError {
    #[error("missing protocol scheme")]
    NoScheme,
    #[error("first path segment in URL cannot contain colon")]
    ColonInPath,
    #[error("invalid character {0:?} in host name")]
    HostCharacter(String),
    #[error("missing ']' in host")]
    OpenBracket,
    #[error("invalid port {0:?} after host")]
    Port(String),
}

/// A URL names no host that a client could connect to.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unexpected empty host ({0})")]
pub(super) struct EmptyHost(String);

/// The parts of a URL, split by Go's rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EtcdUrl {
    /// The whole URL, without the blanks around it.
    pub(super) text: String,
    scheme: String,
    pub(super) authority: String,
    pub(super) path: String,
}

/// Reads URLs with commas between them. As in etcd, the result is sorted and has each URL once.
pub(super) fn parse_list(text: &str) -> Result<Vec<EtcdUrl>, UrlError> {
    let mut urls = text.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

fn parse(text: &str) -> Result<EtcdUrl, UrlError> {
    let text = text.trim();
    let syntax = |reason| UrlError::Syntax { url: text.to_owned(), reason };
    let (scheme, rest) = match text.split_once(':') {
        Some(("", _)) => return Err(syntax(UrlSyntaxError::NoScheme)),
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        Some((first, _)) if !first.contains('/') => {
            return Err(syntax(UrlSyntaxError::ColonInPath));
        }
        _ => (String::new(), text),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        // Without a slash the rest is neither a host nor a path.
        None if !rest.starts_with('/') => ("", ""),
        None => ("", rest),
    };
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    check_authority(authority).map_err(syntax)?;
    match scheme.as_str() {
        "http" | "https" => {
            if split_host_port(authority).is_none() {
                return Err(UrlError::NoHostPort(text.to_owned()));
            }
            if !path.is_empty() {
                return Err(UrlError::Path(text.to_owned()));
            }
        }
        "unix" | "unixs" => {}
        _ => return Err(UrlError::Scheme(text.to_owned())),
    }
    Ok(EtcdUrl { text: text.to_owned(), scheme, authority: authority.to_owned(), path: path.to_owned() })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Go's check: the text after the last colon of a host is a port, and has digits only.
fn check_authority(authority: &str) -> Result<(), UrlSyntaxError> {
    if let Some(blank) = authority.chars().find(|c| c.is_whitespace() || matches!(c, '<' | '>' | '"')) {
        return Err(UrlSyntaxError::HostCharacter(blank.to_string()));
    }
    let tail = match authority.rsplit_once(']') {
        Some((_, tail)) => tail,
        None if authority.starts_with('[') => return Err(UrlSyntaxError::OpenBracket),
        None => authority.rfind(':').map_or("", |at| &authority[at..]),
    };
    let is_port = tail.is_empty()
        || tail.strip_prefix(':').is_some_and(|port| port.chars().all(|c| c.is_ascii_digit()));
    if is_port { Ok(()) } else { Err(UrlSyntaxError::Port(tail.to_owned())) }
}

/// Host, without the brackets of an IPv6 address, and port.
pub(super) fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(host) => Some((host.strip_suffix(']')?, port)),
        None if host.contains([':', '[', ']']) => None,
        None => Some((host, port)),
    }
}

impl EtcdUrl {
    pub(super) fn is_unix(&self) -> bool {
        self.scheme.starts_with("unix")
    }

    /// Whether it asks for TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.scheme.ends_with('s')
    }

    /// Checks that clients could connect to it.
    pub(super) fn check_advertised(&self) -> Result<(), EmptyHost> {
        let no_host = split_host_port(&self.authority).is_some_and(|(host, _)| host.is_empty());
        if no_host && !self.is_unix() {
            return Err(EmptyHost(self.text.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_sorted_and_has_no_duplicates() {
        let urls = parse_list("https://[::1]:2,http://127.0.0.1:1 ,http://127.0.0.1:1").expect("good URLs");
        assert_eq!(
            urls.iter().map(|url| (url.text.as_str(), url.is_secure())).collect::<Vec<_>>(),
            [("http://127.0.0.1:1", false), ("https://[::1]:2", true)]
        );
    }

    #[test]
    fn refusals_have_etcd_s_texts() {
        for (url, words) in [
            ("localhost:1", "URL scheme must be http, https, unix, or unixs: localhost:1"),
            ("127.0.0.1:1", "first path segment in URL cannot contain colon"),
            ("", "URL scheme must be"),
            (":1", "missing protocol scheme"),
            ("ftp://a:1", "URL scheme must be"),
            ("http://a", "does not have the form \"host:port\": http://a"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://::1:1", "does not have the form"),
            ("http://a:b", "invalid port \":b\" after host"),
        ] {
            let error = parse_list(url).expect_err(url).to_string();
            assert!(error.contains(words), "{url}: {error}");
        }
    }
}
