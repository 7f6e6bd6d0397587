//! A server that asks its clients for certificates on a port of its own, and certificates of several clients.

use std::path::PathBuf;

use support::certificates::{Authority, Material, Template};
use support::server::{Launch, Port, Server, Target};

/// Clients by their common name that the server's authority vouches for, in `NAME.pem` and `NAME.key`.
pub const CLIENTS: [&str; 3] = ["root", "reader", "unknown"];
/// One whose authority the server does not know.
pub const STRANGER: &str = "stranger";

pub struct Certificates {
    port: Port,
    material: Material,
}

impl Certificates {
    /// A server on plain HTTP and, for those who show a certificate, on HTTPS.
    pub async fn launch(target: Target, flags: &[&str]) -> (Server, Self) {
        let certificates = Self { port: Port::claim(), material: Material::create() };
        let material = &certificates.material;
        let vouched =
            CLIENTS.map(|name| (name, material.authority.issue(Template { name, ..Template::default() })));
        let stranger = Authority::new("another").issue(Template { name: STRANGER, ..Template::default() });
        for (name, pair) in vouched.into_iter().chain([(STRANGER, stranger)]) {
            material.write(&format!("{name}.pem"), pair.cert);
            material.write(&format!("{name}.key"), pair.key);
        }
        let files = ["server.pem", "server.key", "ca.pem"].map(|name| material.arg(name));
        let own = ["--cert-file", &files[0], "--key-file", &files[1], "--trusted-ca-file", &files[2]];
        let args = [&own[..], &["--client-cert-auth"], flags].concat();
        let url = certificates.endpoint();
        let launch = Launch { args: &args, also_on: &[&url], ..Launch::default() };
        (Server::launch_as(target, launch).await, certificates)
    }

    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port.number)
    }

    /// The folder of the files.
    pub fn folder(&self) -> PathBuf {
        self.material.path("")
    }

    /// etcdctl's flags for the client of this name.
    pub fn flags(&self, name: &str) -> String {
        let file = |name: String| self.material.arg(&name);
        format!(
            "--endpoints {} --cacert {} --cert {} --key {}",
            self.endpoint(),
            file("ca.pem".into()),
            file(format!("{name}.pem")),
            file(format!("{name}.key"))
        )
    }
}
