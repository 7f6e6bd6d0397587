//! The URLs to listen on, and the URLs that the member list shows.

use super::flag_values::FlagValues;
use super::program::Program;
use super::urls::{self, EmptyHost, EtcdUrl};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use thiserror::Error;

/// Listeners, or advertised URLs, that make no sense. The texts are etcd's where etcd refuses the same.
#[derive(Debug, Error)]
pub(super) enum ListenError {
    #[error("{flag}: {reason}")]
    Url { flag: &'static str, reason: ListenUrlError },
    #[error("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {0}")]
    SameUrl(String),
    #[error(
        "--listen-client-urls: {0} and {1} are one port, which serves with TLS or without: leave one out"
    )]
    SamePort(String, String),
    #[error(
        "--advertise-client-urls {urls:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
         \"unixs:/path/to/socket\" ({reason})"
    )]
    Advertised { urls: String, reason: EmptyHost },
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    NotAdvertised,
}

/// A URL that names nothing to listen on.
#[derive(Debug, Error)]
pub(super) enum ListenUrlError {
    #[error("{0} names no socket; expected unix:///path/to/socket")]
    NoSocket(String),
    #[error("expected IP in URL for binding ({0}); 0.0.0.0 stands for all addresses")]
    NoIp(String),
    #[error("{url}: {reason}; expected http://address:port")]
    Address { url: String, reason: std::io::Error },
    #[error("{0} names no address")]
    NoAddress(String),
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A port.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

/// A URL to serve on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenUrl {
    /// The flag that asks for it.
    pub flag: &'static str,
    /// The URL as the user wrote it.
    pub url: String,
    /// Its address.
    pub address: ListenAddress,
    /// Whether its scheme asks for TLS.
    pub tls: bool,
}

impl ListenUrl {
    pub(super) fn new(flag: &'static str, url: &EtcdUrl) -> Result<ListenUrl, ListenUrlError> {
        let listen = |address| ListenUrl { flag, url: url.text.clone(), address, tls: url.is_secure() };
        if url.is_unix() {
            // As in etcd, the path is everything after the scheme, even a part that looks like a port.
            let path = format!("{}{}", url.authority, url.path);
            if path.is_empty() {
                return Err(ListenUrlError::NoSocket(url.text.clone()));
            }
            return Ok(listen(ListenAddress::Unix(path.into())));
        }
        let (host, _) = urls::split_host_port(&url.authority).unwrap_or_default();
        if host != "localhost" && host.parse::<IpAddr>().is_err() {
            return Err(ListenUrlError::NoIp(url.text.clone()));
        }
        let addresses: Vec<_> = match url.authority.to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(reason) => return Err(ListenUrlError::Address { url: url.text.clone(), reason }),
        };
        // Go prefers the IPv4 address of a name that has both.
        match addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()) {
            Some(address) => Ok(listen(ListenAddress::Tcp(*address))),
            None => Err(ListenUrlError::NoAddress(url.text.clone())),
        }
    }
}

/// Whether two listeners would need the same address.
fn is_same_address(one: &ListenUrl, other: &ListenUrl) -> bool {
    match (&one.address, &other.address) {
        // Each bind of port 0 gets a port of its own.
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => one == other && one.port() != 0,
        (ListenAddress::Unix(one), ListenAddress::Unix(other)) => one == other,
        _ => false,
    }
}

/// The listeners that URLs ask for.
pub(super) fn listen_urls(flag: &'static str, urls: &[EtcdUrl]) -> Result<Vec<ListenUrl>, ListenError> {
    let listen = urls.iter().map(|url| ListenUrl::new(flag, url)).collect::<Result<_, _>>();
    listen.map_err(|reason| ListenError::Url { flag, reason })
}

/// Checks that no two listeners of clients need the same address.
pub(super) fn check_addresses(listen: &[ListenUrl], http: &[ListenUrl]) -> Result<(), ListenError> {
    for (at, one) in listen.iter().enumerate() {
        if http.iter().any(|other| is_same_address(one, other)) {
            return Err(ListenError::SameUrl(one.url.clone()));
        }
        if let Some(other) = listen[at + 1..].iter().find(|other| is_same_address(one, other)) {
            return Err(ListenError::SamePort(one.url.clone(), other.url.clone()));
        }
    }
    Ok(())
}

/// The URLs that the member list shows to clients.
pub(super) fn advertised(flags: &FlagValues, listen: &[EtcdUrl]) -> Result<Vec<String>, ListenError> {
    let advertised = flags.urls("advertise-client-urls");
    if let Some(reason) = advertised.iter().find_map(|url| url.check_advertised().err()) {
        let urls = flags.text_or_default("advertise-client-urls").to_owned();
        return Err(ListenError::Advertised { urls, reason });
    }
    let texts = |urls: &[EtcdUrl]| urls.iter().map(|url| url.text.clone()).collect();
    if !advertised.is_empty() {
        return Ok(texts(&advertised));
    }
    if flags.program == Program::Etcd {
        // etcd does not check this for a config file.
        let lacks_advertised = flags.is_set("listen-client-urls") && !flags.is_set("advertise-client-urls");
        if lacks_advertised && !flags.from_file {
            return Err(ListenError::NotAdvertised);
        }
        return Ok(vec!["http://localhost:2379".to_owned()]);
    }
    Ok(texts(listen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(url: &str) -> Result<ListenUrl, ListenUrlError> {
        ListenUrl::new("--flag", &urls::parse_list(url).expect(url)[0])
    }

    #[test]
    fn etcd_s_forms_name_addresses() {
        for (url, tls) in [("http://127.0.0.1:1", false), ("https://[::1]:2", true)] {
            let listen = listen(url).expect("an address");
            assert_eq!((listen.url.as_str(), listen.tls), (url, tls));
        }
        for (url, path) in [
            ("unix:///run/jetway.sock:2379", "/run/jetway.sock:2379"),
            ("unixs://jetway.sock", "jetway.sock"),
            ("unix:/run/jetway.sock", "/run/jetway.sock"),
        ] {
            assert_eq!(listen(url).expect("a path").address, ListenAddress::Unix(path.into()));
        }
    }

    #[test]
    fn refusals_name_the_url() {
        for (url, words) in [
            ("http://example.test:1", "expected IP in URL for binding (http://example.test:1)"),
            ("http://:1", "expected IP in URL for binding (http://:1)"),
            ("http://127.0.0.1:70000", "http://127.0.0.1:70000"),
            ("unix://", "names no socket"),
        ] {
            let error = listen(url).expect_err(url).to_string();
            assert!(error.contains(words), "{url}: {error}");
        }
    }
}
