//! The founding members as DNS names them (`--discovery-srv`).
//!
//! As for etcd, a domain has records `_etcd-server-ssl._tcp` for members with TLS, and `_etcd-server._tcp`
//! for those without. A record gives a host and a port. The own one is found by its address.

use super::urls::{self, EtcdUrl, UrlError};
use crate::nats_server::Members;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use std::net::ToSocketAddrs as _;
use thiserror::Error;

/// The members cannot be found. The texts are etcd's where etcd refuses the same.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum DiscoveryError {
    #[error(
        "--discovery-srv {domain}: the system's resolver cannot be used: {reason}; name the members with --initial-cluster"
    )]
    Resolver { domain: String, reason: String },
    #[error("--discovery-srv {domain}: error setting up initial cluster: {source}")]
    Url { domain: String, source: UrlError },
    #[error(
        "--discovery-srv {domain}: error setting up initial cluster: cannot find local etcd member {name:?} in SRV records: \
         {found}. One of them must have the host and the port of --initial-advertise-peer-urls {advertised}, and {secure} \
         is for https"
    )]
    NotFound { domain: String, name: String, found: String, advertised: String, secure: String },
}

/// Asks the system's name servers for the members. The others get numbers for names, as in etcd.
pub(super) fn members(
    domain: &str,
    service: Option<&str>,
    name: &str,
    advertised: &[EtcdUrl],
) -> Result<Members, DiscoveryError> {
    let unusable = |reason: String| DiscoveryError::Resolver { domain: domain.to_owned(), reason };
    let suffix = service.map(|service| format!("-{service}")).unwrap_or_default();
    let services = [("https", "etcd-server-ssl"), ("http", "etcd-server")].map(|(scheme, service)| {
        (scheme, format!("_{service}{suffix}._tcp.{}.", domain.trim_end_matches('.')))
    });
    // The flags are read before the server's own runtime starts.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unusable(error.to_string()))?;
    let resolver = runtime.block_on(async { TokioResolver::builder_tokio()?.build() });
    let resolver = resolver.map_err(|error| unusable(error.to_string()))?;
    let own: Vec<_> = advertised
        .iter()
        .flat_map(|url| url.authority.to_socket_addrs().into_iter().flatten().map(|at| (url.is_secure(), at)))
        .collect();
    let (mut members, mut found) = (Members::new(), Vec::new());
    for (scheme, service) in &services {
        let answers = match runtime.block_on(resolver.srv_lookup(service.as_str())) {
            Ok(lookup) => lookup.answers().to_vec(),
            Err(error) => {
                found.push(format!("{service}: {error}"));
                continue;
            }
        };
        for answer in answers {
            let RData::SRV(record) = &answer.data else { continue };
            let authority = format!("{}:{}", record.target.to_ascii().trim_end_matches('.'), record.port);
            let url = format!("{scheme}://{authority}");
            found.push(format!("{service}: {authority}"));
            let mut addresses = authority.to_socket_addrs().into_iter().flatten();
            let is_own = addresses.any(|at| own.contains(&(*scheme == "https", at)));
            let checked = urls::parse_list(&url)
                .map_err(|source| DiscoveryError::Url { domain: domain.to_owned(), source })?;
            let member = if is_own { name.to_owned() } else { members.len().to_string() };
            members.entry(member).or_default().extend(checked.into_iter().map(|url| url.text));
        }
    }
    if members.contains_key(name) {
        return Ok(members);
    }
    Err(DiscoveryError::NotFound {
        domain: domain.to_owned(),
        name: name.to_owned(),
        found: found.join(", "),
        advertised: advertised.iter().map(|url| url.text.as_str()).collect::<Vec<_>>().join(","),
        secure: services[0].1.clone(),
    })
}
