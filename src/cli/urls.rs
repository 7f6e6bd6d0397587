//! URLs that etcd takes: `http://host:port`, `https://host:port`, `unix://path` and `unixs://path`.

use super::settings::{ListenAddress, ListenUrl};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// A URL taken apart as Go does it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EtcdUrl {
    /// As given, without blanks around it.
    pub(super) text: String,
    scheme: String,
    authority: String,
    path: String,
}

/// Reads URLs with commas between them: each once and in order, as etcd keeps them.
pub(super) fn parse_list(text: &str) -> Result<Vec<EtcdUrl>, String> {
    let mut urls = text.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

fn parse(text: &str) -> Result<EtcdUrl, String> {
    let text = text.trim();
    let (scheme, rest) = match text.split_once(':') {
        Some(("", _)) => return Err(format!("parse {text:?}: missing protocol scheme")),
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        Some((first, _)) if !first.contains('/') => {
            return Err(format!("parse {text:?}: first path segment in URL cannot contain colon"));
        }
        _ => (String::new(), text),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        // Without slashes it names neither a host nor a path.
        None if !rest.starts_with('/') => ("", ""),
        None => ("", rest),
    };
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    check_authority(authority).map_err(|reason| format!("parse {text:?}: {reason}"))?;
    match scheme.as_str() {
        "http" | "https" => {
            if split_host_port(authority).is_none() {
                return Err(format!("URL address does not have the form \"host:port\": {text}"));
            }
            if !path.is_empty() {
                return Err(format!("URL must not contain a path: {text}"));
            }
        }
        "unix" | "unixs" => {}
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
    }
    Ok(EtcdUrl { text: text.to_owned(), scheme, authority: authority.to_owned(), path: path.to_owned() })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// As Go: what follows the last colon of a host is a port, and has digits only.
fn check_authority(authority: &str) -> Result<(), String> {
    if let Some(blank) = authority.chars().find(|c| c.is_whitespace() || matches!(c, '<' | '>' | '"')) {
        return Err(format!("invalid character {:?} in host name", blank.to_string()));
    }
    let tail = match authority.rsplit_once(']') {
        Some((_, tail)) => tail,
        None if authority.starts_with('[') => return Err("missing ']' in host".to_owned()),
        None => authority.rfind(':').map_or("", |at| &authority[at..]),
    };
    let is_port = tail.is_empty()
        || tail.strip_prefix(':').is_some_and(|port| port.chars().all(|c| c.is_ascii_digit()));
    if is_port { Ok(()) } else { Err(format!("invalid port {tail:?} after host")) }
}

/// Host, without the brackets of an IPv6 address, and port.
fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(host) => Some((host.strip_suffix(']')?, port)),
        None if host.contains([':', '[', ']']) => None,
        None => Some((host, port)),
    }
}

impl EtcdUrl {
    fn is_unix(&self) -> bool {
        self.scheme.starts_with("unix")
    }

    /// Whether it asks for TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.scheme.ends_with('s')
    }

    /// What to listen on.
    pub(super) fn listen(&self) -> Result<ListenUrl, String> {
        let listen = |address| ListenUrl { url: self.text.clone(), address, tls: self.is_secure() };
        if self.is_unix() {
            // As in etcd, the path is all that follows, relative or not, and whatever looks like a port is part of it.
            let path = format!("{}{}", self.authority, self.path);
            if path.is_empty() {
                return Err(format!("{} names no socket; expected unix:///path/to/socket", self.text));
            }
            return Ok(listen(ListenAddress::Unix(path.into())));
        }
        let (host, _) = split_host_port(&self.authority).unwrap_or_default();
        if host != "localhost" && host.parse::<IpAddr>().is_err() {
            return Err(format!(
                "expected IP in URL for binding ({}); 0.0.0.0 stands for all addresses",
                self.text
            ));
        }
        let addresses = self.authority.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let addresses =
            addresses.map_err(|error| format!("{}: {error}; expected http://address:port", self.text))?;
        // As Go, which takes the IPv4 address of a name that has both.
        match addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()) {
            Some(address) => Ok(listen(ListenAddress::Tcp(*address))),
            None => Err(format!("{} names no address", self.text)),
        }
    }

    /// Whether others can be told to connect to it.
    pub(super) fn check_advertised(&self) -> Result<(), String> {
        let no_host = split_host_port(&self.authority).is_some_and(|(host, _)| host.is_empty());
        if no_host && !self.is_unix() {
            return Err(format!("unexpected empty host ({})", self.text));
        }
        Ok(())
    }
}

/// For what is listened on, whether two are the same.
pub(super) fn same_address(one: &ListenUrl, other: &ListenUrl) -> bool {
    // Each bind of port 0 is to a port of its own.
    let any_port = |address: &SocketAddr| address.port() == 0;
    match (&one.address, &other.address) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => one == other && !any_port(one),
        (ListenAddress::Unix(one), ListenAddress::Unix(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_takes_is_taken() {
        let urls = parse_list("https://[::1]:2,http://127.0.0.1:1 ,http://127.0.0.1:1").expect("good URLs");
        let listen: Vec<_> = urls.iter().map(|url| url.listen().expect("an address")).collect();
        assert_eq!(
            listen.iter().map(|listen| (listen.url.as_str(), listen.tls)).collect::<Vec<_>>(),
            [("http://127.0.0.1:1", false), ("https://[::1]:2", true)]
        );
        for (url, path) in [
            ("unix:///run/jetway.sock:2379", "/run/jetway.sock:2379"),
            ("unixs://jetway.sock", "jetway.sock"),
            ("unix:/run/jetway.sock", "/run/jetway.sock"),
        ] {
            let listen = parse_list(url).expect(url)[0].listen().expect("a path");
            assert_eq!(listen.address, ListenAddress::Unix(path.into()));
        }
    }

    #[test]
    fn what_etcd_refuses_is_refused_in_its_words() {
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
            let error = parse_list(url).expect_err(url);
            assert!(error.contains(words), "{url}: {error}");
        }
        for (url, words) in [
            ("http://example.test:1", "expected IP in URL for binding (http://example.test:1)"),
            ("http://:1", "expected IP in URL for binding (http://:1)"),
            ("http://127.0.0.1:70000", "http://127.0.0.1:70000"),
            ("unix://", "names no socket"),
        ] {
            let error = parse_list(url).expect(url)[0].listen().expect_err(url);
            assert!(error.contains(words), "{url}: {error}");
        }
    }
}
