//! A server with a TLS port, and clients that say exactly what they want.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use tonic::transport::Endpoint;

use crate::material::{Authority, Material, Pair};
use crate::support::client::Client;
use crate::support::server::{Launch, Port, Server, Target};
use crate::support::{eventually, within};

/// A server that speaks TLS on a port of its own, beside the plain one.
pub struct Secure {
    pub server: Server,
    pub material: Material,
    port: Port,
}

impl Secure {
    /// `args` are flags; `@name` in them stands for a file of the material.
    pub async fn start(target: Target, material: Material, args: &[&str]) -> Self {
        let port = Port::claim();
        let url = format!("https://127.0.0.1:{}", port.number);
        let args = with_paths(&material, args);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let launch = Launch { args: &args, also_on: &[&url], ..Launch::default() };
        let secure = Self { server: Server::launch_as(target, launch).await, material, port };
        // etcd reads the files once more for this port some time after it serves the other.
        let anybody = secure.client().trusting_anybody();
        eventually("a TLS handshake", async || anybody.connect().await.ok()).await;
        secure
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// A client that trusts the server's authority.
    pub fn client(&self) -> Peer {
        Peer::new(&self.address(), &self.material.authority)
    }
}

/// The flags of a server with a certificate.
pub const CERT: [&str; 4] = ["--cert-file", "@server.pem", "--key-file", "@server.key"];
/// The flags of one that asks clients for theirs too.
pub const MUTUAL: [&str; 7] = [
    "--cert-file",
    "@server.pem",
    "--key-file",
    "@server.key",
    "--trusted-ca-file",
    "@ca.pem",
    "--client-cert-auth",
];

pub fn with_paths(material: &Material, args: &[&str]) -> Vec<String> {
    let place = |arg: &&str| arg.strip_prefix('@').map_or_else(|| arg.to_string(), |name| material.arg(name));
    args.iter().map(place).collect()
}

/// A client's side of TLS.
#[derive(Clone)]
pub struct Peer {
    address: String,
    roots: Arc<RootCertStore>,
    identity: Option<Arc<Pair>>,
    alpn: &'static [&'static str],
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: Vec<SupportedCipherSuite>,
    trusts_anybody: bool,
}

impl Peer {
    pub fn new(address: &str, trusts: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusts.cert.as_bytes()).unwrap()).unwrap();
        Self {
            address: address.to_owned(),
            roots: Arc::new(roots),
            identity: None,
            alpn: &[],
            versions: tokio_rustls::rustls::ALL_VERSIONS.to_vec(),
            suites: ring::ALL_CIPHER_SUITES.to_vec(),
            trusts_anybody: false,
        }
    }

    pub fn with_certificate(mut self, pair: Pair) -> Self {
        self.identity = Some(Arc::new(pair));
        self
    }

    pub fn with_alpn(mut self, alpn: &'static [&'static str]) -> Self {
        self.alpn = alpn;
        self
    }

    pub fn with_versions(mut self, versions: Vec<&'static SupportedProtocolVersion>) -> Self {
        self.versions = versions;
        self
    }

    pub fn with_suites(mut self, suites: &[SupportedCipherSuite]) -> Self {
        self.suites = suites.to_vec();
        self
    }

    pub fn trusting_anybody(mut self) -> Self {
        self.trusts_anybody = true;
        self
    }

    fn config(&self) -> ClientConfig {
        let provider = CryptoProvider { cipher_suites: self.suites.clone(), ..ring::default_provider() };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        if self.trusts_anybody {
            config.dangerous().set_certificate_verifier(Arc::new(TrustsAnybody));
        }
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A connection. With TLS 1.3 the server may yet refuse the client's certificate.
    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::new(self.config()));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        within("a TLS handshake", async {
            let stream = TcpStream::connect(&self.address).await?;
            connector.connect(name, stream).await
        })
        .await
    }

    /// The body of `GET /version` over HTTP/1.1, on a connection of its own.
    pub async fn version(&self) -> io::Result<String> {
        let stream = self.connect().await?;
        version_over(stream).await
    }

    /// Panics unless the server takes this client.
    pub async fn is_served(&self) {
        let body = self.version().await.unwrap();
        assert!(body.contains("etcdserver"), "{body}");
    }

    /// Panics if the server takes this client; returns why it did not.
    pub async fn is_refused(&self) -> io::Error {
        self.version().await.expect_err("the server must not serve this client")
    }

    /// The serial number of the server's certificate.
    pub async fn serial(&self) -> io::Result<u64> {
        let stream = self.connect().await?;
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        Ok(parsed.serial.iter_u64_digits().next().unwrap_or_default())
    }

    /// A gRPC client on one connection.
    pub async fn grpc(&self) -> Client {
        let peer = self.clone().with_alpn(&["h2"]);
        let connector = tower::service_fn(move |_| {
            let peer = peer.clone();
            async move { peer.connect().await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::new(format!("http://{}", self.address)).unwrap();
        Client::over(within("a connection", endpoint.connect_with_connector(connector)).await.unwrap())
    }
}

/// Takes any certificate for the server's.
#[derive(Debug)]
struct TrustsAnybody;

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        // etcd's own is P-521.
        [vec![SignatureScheme::ECDSA_NISTP521_SHA512], {
            ring::default_provider().signature_verification_algorithms.supported_schemes()
        }]
        .concat()
    }
}

/// The body of `GET /version` on a connection.
pub async fn version_over(mut stream: TlsStream<TcpStream>) -> io::Result<String> {
    within("an answer", async {
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes).await {
            // Go says goodbye, hyper just closes; what came before counts.
            Err(error) if bytes.is_empty() => return Err(error),
            _ if bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        Ok(String::from_utf8(bytes).unwrap())
    })
    .await
}
