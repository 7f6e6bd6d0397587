//! Ways in which etcd is started in the world, taken as they stand but for paths, addresses and ports, with
//! jetway in etcd's place; over mutual TLS, and driven with etcdctl.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rcgen::KeyPair;

use crate::program::{Program, Running, WorkingFolder, assignments, etcdctl};
use support::certificates::{Material, Template};
use support::http::http;
use support::server::{Port, peer, spawn};

/// Certificates, ports and a folder.
struct Setup {
    folder: WorkingFolder,
    material: Material,
    client: Port,
    peer: Port,
    metrics: Port,
}

impl Setup {
    fn new() -> Self {
        let material = Material::create();
        let hosts = &["127.0.0.1", "127.0.0.2", "localhost"];
        material.serve(Template { name: "server", hosts, ..Template::default() });
        let pair = material.authority.issue(Template { name: "client", ..Template::default() });
        material.write("client.pem", pair.cert);
        material.write("client.key", pair.key);
        let [client, peer, metrics] = [Port::claim(), Port::claim(), Port::claim()];
        Self { folder: WorkingFolder::new(), material, client, peer, metrics }
    }

    /// Puts what is here in the place of `{names}`.
    fn fill(&self, text: &str) -> String {
        let mut text = text
            .replace("{client}", &self.client.number.to_string())
            .replace("{peer}", &self.peer.number.to_string())
            .replace("{metrics}", &self.metrics.number.to_string())
            .replace("{data}", &self.folder.arg("data"));
        for file in ["ca.pem", "server.pem", "server.key", "jwt.key", "jwt.pub"] {
            text = text.replace(&format!("{{{file}}}"), &self.material.arg(file));
        }
        text
    }

    /// A command line, one argument a line.
    fn command(&self, args: &str) -> Command {
        let mut command = self.folder.command(Program::Link);
        command.args(self.fill(args).lines().map(str::trim).filter(|arg| !arg.is_empty()));
        command
    }

    fn etcdctl(&self, args: &[&str]) -> String {
        etcdctl(&self.etcdctl_flags(), args)
    }

    fn etcdctl_flags(&self) -> [String; 4] {
        let endpoint = format!("https://127.0.0.1:{}", self.client.number);
        let flag = |name: &str, file: &str| format!("--{name}={}", self.material.arg(file));
        [
            format!("--endpoints={endpoint}"),
            flag("cacert", "ca.pem"),
            flag("cert", "client.pem"),
            flag("key", "client.key"),
        ]
    }

    /// The first lines of a watch from the first revision on.
    fn watched(&self, lines: usize) -> Vec<String> {
        let mut command = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
        command.args(self.etcdctl_flags()).args(["watch", "/a", "--rev=1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn(command).unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = output.lines().take(lines).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        lines
    }

    /// Checks with etcdctl that a server of this name serves, and that its members advertise `url`.
    fn is_an_etcd(&self, name: &str, url: &str) {
        assert_eq!(self.etcdctl(&["put", "/a", "1"]), "OK\n");
        assert_eq!(self.etcdctl(&["get", "/a"]), "/a\n1\n");
        assert_eq!(self.etcdctl(&["put", "/a", "2"]), "OK\n");
        assert_eq!(self.watched(6), ["PUT", "/a", "1", "PUT", "/a", "2"]);
        let health = self.etcdctl(&["endpoint", "health"]);
        assert!(health.contains("is healthy"), "{health}");
        let status = self.etcdctl(&["endpoint", "status", "--write-out=json"]);
        assert!(status.contains("\"version\":\"3.7.3\""), "{status}");
        let members = self.etcdctl(&["member", "list"]);
        assert!(members.contains(&format!(", {name}, ")) && members.contains(&self.fill(url)), "{members}");
    }
}

/// A server that was started as an etcd does not warn of anything that etcd's own command line asks for.
fn warns_of_nothing(server: &Running) {
    let log = server.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("\"level\":\"warn\"")).collect();
    // The machine's own, such as an old nats-server or few descriptors.
    let warnings: Vec<_> =
        warnings.iter().filter(|line| line.contains("--") || line.contains("ETCD_")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

/// The static pod of kubeadm 1.34, with its probes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubeadm() {
    let setup = Setup::new();
    // kubelet has made the directory that the pod mounts.
    fs::create_dir(setup.folder.path("data")).unwrap();
    let args = "
        --advertise-client-urls=https://127.0.0.2:{client}
        --cert-file={server.pem}
        --client-cert-auth=true
        --data-dir={data}
        --feature-gates=InitialCorruptCheck=true
        --initial-advertise-peer-urls=https://127.0.0.2:{peer}
        --initial-cluster=node-1=https://127.0.0.2:{peer}
        --key-file={server.key}
        --listen-client-urls=https://127.0.0.1:{client},https://127.0.0.2:{client}
        --listen-metrics-urls=http://127.0.0.1:{metrics}
        --listen-peer-urls=https://127.0.0.2:{peer}
        --name=node-1
        --peer-cert-file={server.pem}
        --peer-client-cert-auth=true
        --peer-key-file={server.key}
        --peer-trusted-ca-file={ca.pem}
        --snapshot-count=10000
        --trusted-ca-file={ca.pem}
        --watch-progress-notify-interval=5s";
    let server = setup.folder.start(setup.command(args)).await;
    warns_of_nothing(&server);
    setup.is_an_etcd("node-1", "https://127.0.0.2:{client}");
    let metrics = format!("127.0.0.1:{}", setup.metrics.number);
    for probe in
        ["/livez", "/readyz", "/health?exclude=NOSPACE&serializable=true", "/health?serializable=false"]
    {
        let answer = http(&metrics, "GET", probe).await;
        assert_eq!(answer.status, 200, "{probe}: {answer:?}");
    }
    assert_eq!(server.stop().await, Some(0));

    // kubelet starts it again on the same directory.
    let server = setup.folder.start(setup.command(args)).await;
    assert_eq!(setup.etcdctl(&["get", "/a", "--print-value-only"]), "2\n");
    assert_eq!(server.stop().await, Some(0));
}

/// The first controller of k0s, with the tokens that it asks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k0s() {
    let setup = Setup::new();
    let key = KeyPair::generate().unwrap();
    setup.material.write("jwt.key", key.serialize_pem());
    setup.material.write("jwt.pub", key.public_key_pem());
    // k0s makes an RSA key; an elliptic one is quicker made.
    let args = "
        --data-dir={data}
        --listen-client-urls=https://127.0.0.1:{client}
        --advertise-client-urls=https://127.0.0.1:{client}
        --client-cert-auth=true
        --listen-peer-urls=https://127.0.0.2:{peer}
        --initial-advertise-peer-urls=https://127.0.0.2:{peer}
        --name=controller-0
        --trusted-ca-file={ca.pem}
        --cert-file={server.pem}
        --key-file={server.key}
        --peer-trusted-ca-file={ca.pem}
        --peer-key-file={server.key}
        --peer-cert-file={server.pem}
        --log-level=info
        --peer-client-cert-auth=true
        --enable-pprof=false
        --auth-token=jwt,pub-key={jwt.pub},priv-key={jwt.key},sign-method=ES256,ttl=10m";
    let server = setup.folder.start(setup.command(args)).await;
    warns_of_nothing(&server);
    setup.is_an_etcd("controller-0", "https://127.0.0.1:{client}");
    assert_eq!(server.stop().await, Some(0));
}

/// A pod of an operator or of a chart: flags with the pod's name in them, the rest in variables, some of
/// which are meant for the scripts of the image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator() {
    let setup = Setup::new();
    let args = "
        --name=etcd-0
        --listen-peer-urls=https://0.0.0.0:{peer}
        --listen-client-urls=https://0.0.0.0:{client}
        --initial-advertise-peer-urls=https://etcd-0.etcd-headless.default.svc:{peer}
        --advertise-client-urls=https://etcd-0.etcd-headless.default.svc:{client}";
    let variables = [
        ("ETCD_DATA_DIR", "{data}"),
        ("ETCD_INITIAL_CLUSTER", "etcd-0=https://etcd-0.etcd-headless.default.svc:{peer}"),
        ("ETCD_INITIAL_CLUSTER_STATE", "new"),
        ("ETCD_INITIAL_CLUSTER_TOKEN", "etcd-cluster-k8s"),
        ("ETCD_TRUSTED_CA_FILE", "{ca.pem}"),
        ("ETCD_CERT_FILE", "{server.pem}"),
        ("ETCD_KEY_FILE", "{server.key}"),
        ("ETCD_CLIENT_CERT_AUTH", "true"),
        ("ETCD_AUTO_TLS", "false"),
        ("ETCD_PEER_AUTO_TLS", "true"),
        ("ETCD_AUTO_COMPACTION_MODE", "periodic"),
        ("ETCD_AUTO_COMPACTION_RETENTION", "10m"),
        ("ETCD_QUOTA_BACKEND_BYTES", "8589934592"),
        ("ETCD_LOG_LEVEL", "warn"),
        ("ETCD_LISTEN_METRICS_URLS", ""),
        ("ETCD_ON_K8S", "yes"),
        ("ETCD_START_FROM_SNAPSHOT", "no"),
        ("ETCD_DISASTER_RECOVERY", "no"),
    ];
    let start = |state: &'static str| {
        let mut command = setup.command(args);
        command.envs(variables.iter().map(|(name, value)| (*name, setup.fill(value))));
        // So that the start can be seen; and the operator names a cluster once there is one.
        command.env("ETCD_LOG_LEVEL", "info").env("ETCD_INITIAL_CLUSTER_STATE", state);
        command
    };
    let server = setup.folder.start(start("new")).await;
    let log = server.log();
    assert!(log.contains("unrecognized environment variable ETCD_ON_K8S"), "{log}");
    assert!(!log.contains("unrecognized environment variable ETCD_LISTEN"), "{log}");
    setup.is_an_etcd("etcd-0", "https://etcd-0.etcd-headless.default.svc:{client}");
    assert_eq!(server.stop().await, Some(0));
    let server = setup.folder.start(start("existing")).await;
    assert_eq!(setup.etcdctl(&["get", "/a", "--print-value-only"]), "2\n");
    drop(server);
}

/// A unit with `Type=notify` and an environment file, as distributions install it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_of_systemd() {
    let setup = Setup::new();
    let file = setup.folder.path("etcd.conf");
    let text = "
# [member]
ETCD_NAME=\"host-1\"
ETCD_DATA_DIR=\"{data}\"
ETCD_LISTEN_PEER_URLS=\"https://127.0.0.1:{peer}\"
ETCD_LISTEN_CLIENT_URLS=\"https://127.0.0.1:{client}\"
#ETCD_MAX_SNAPSHOTS=\"5\"
# [cluster]
ETCD_INITIAL_ADVERTISE_PEER_URLS=\"https://127.0.0.1:{peer}\"
ETCD_INITIAL_CLUSTER=\"host-1=https://127.0.0.1:{peer}\"
ETCD_INITIAL_CLUSTER_STATE=\"new\"
ETCD_INITIAL_CLUSTER_TOKEN=\"etcd-cluster\"
ETCD_ADVERTISE_CLIENT_URLS=\"https://127.0.0.1:{client}\"
# [security]
ETCD_CERT_FILE=\"{server.pem}\"
ETCD_KEY_FILE=\"{server.key}\"
ETCD_CLIENT_CERT_AUTH=\"true\"
ETCD_TRUSTED_CA_FILE=\"{ca.pem}\"
ETCD_PEER_CERT_FILE=\"{server.pem}\"
ETCD_PEER_KEY_FILE=\"{server.key}\"
ETCD_PEER_CLIENT_CERT_AUTH=\"true\"
ETCD_PEER_TRUSTED_CA_FILE=\"{ca.pem}\"
# [logging]
ETCD_LOG_OUTPUTS=\"stderr\"
";
    fs::write(&file, setup.fill(text)).unwrap();
    let socket = setup.folder.path("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(support::TIMEOUT)).unwrap();
    let mut command = setup.command("");
    command.envs(assignments(&file)).env("NOTIFY_SOCKET", &socket);
    let server = setup.folder.start(command).await;
    let mut buffer = [0; 64];
    let length = systemd.recv(&mut buffer).expect("a message to systemd");
    assert_eq!(&buffer[..length], b"READY=1");
    warns_of_nothing(&server);
    setup.is_an_etcd("host-1", "https://127.0.0.1:{client}");
    assert_eq!(server.stop().await, Some(0));
}

/// A config file, which makes flags and variables count for nothing, those of jetway excepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_file() {
    let setup = Setup::new();
    let text = "
name: 'host-1'
data-dir: {data}
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: https://127.0.0.1:{peer}
listen-client-urls: https://127.0.0.1:{client},http://127.0.0.1:{metrics}
max-snapshots: 5
cors:
initial-advertise-peer-urls: https://127.0.0.1:{peer}
advertise-client-urls: https://127.0.0.1:{client}
discovery-fallback: 'exit'
discovery-srv:
initial-cluster: host-1=https://127.0.0.1:{peer}
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: true
client-transport-security:
  cert-file: {server.pem}
  key-file: {server.key}
  client-cert-auth: true
  trusted-ca-file: {ca.pem}
  auto-tls: false
peer-transport-security:
  cert-file: {server.pem}
  key-file: {server.key}
  client-cert-auth: true
  trusted-ca-file: {ca.pem}
  auto-tls: false
log-level: info
logger: zap
log-outputs: [stderr]
watch-progress-notify-interval: 5000000000
auto-compaction-mode: periodic
auto-compaction-retention: \"1\"
";
    fs::write(setup.folder.path("etcd.yaml"), setup.fill(text)).unwrap();
    let mut command = setup.command("--config-file=etcd.yaml\n--name=ignored\n--sync=lazy");
    command.env("ETCD_NAME", "ignored too").env("ETCD_MAX_TXN_OPS", "no number");
    let server = setup.folder.start(command).await;
    let log = server.log();
    assert!(
        log.contains("other configuration command line flags and environment variables will be"),
        "{log}"
    );
    assert!(log.contains("keys of etcd.yaml that mean nothing: discovery-fallback"), "{log}");
    setup.is_an_etcd("host-1", "https://127.0.0.1:{client}");
    // The other URL is served without TLS.
    let answer = http(&format!("127.0.0.1:{}", setup.metrics.number), "GET", "/version").await;
    assert_eq!(answer.status, 200);
    assert_eq!(server.stop().await, Some(0));
}
