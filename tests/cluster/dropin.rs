//! Ways in which three etcds are started in the world, taken as they stand but for paths and addresses, with
//! jetway in etcd's place.

use std::fs;

use serde_json::Value;
use support::eventually;
use support::server::Target;

use super::deployment::Deployment;

const INFRA: [&str; 3] = ["infra0", "infra1", "infra2"];
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const PODS: [&str; 3] = ["etcd-0", "etcd-1", "etcd-2"];

/// The static start of etcd's clustering guide, and its start without the flags that count only once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clustering_guide() {
    let mut deployment = Deployment::new("http", INFRA);
    let cluster = "infra0=http://{host0}:{peer},infra1=http://{host1}:{peer},infra2=http://{host2}:{peer}";
    let args = "
        --name
        {name}
        --initial-advertise-peer-urls
        http://{host}:{peer}
        --listen-peer-urls
        http://{host}:{peer}
        --listen-client-urls
        http://{host}:{client},http://{local}:{client}
        --advertise-client-urls
        http://{host}:{client}
        --initial-cluster-token
        etcd-cluster-1
        --initial-cluster
        {cluster}
        --initial-cluster-state
        new"
    .replace("{cluster}", cluster);
    deployment.start(&args, &[]).await;
    deployment.warn_of_nothing();
    deployment.is_one_etcd("http://{host}:{peer}").await;
    for member in 0..3 {
        deployment.stop(member).await;
    }
    // The guide's advice: the flags that begin with --initial are ignored afterwards.
    let later = args.replace("\n        new", "\n        existing");
    deployment.start(&later, &[]).await;
    assert_eq!(deployment.etcdctl(&["get", "/from/2", "--print-value-only"]), "infra2\n");
}

/// The guide's start with TLS for clients and members, from one authority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clustering_guide_with_tls() {
    let mut deployment = Deployment::new("https", INFRA);
    let args = "
        --name={name}
        --initial-advertise-peer-urls=https://{host}:{peer}
        --listen-peer-urls=https://{host}:{peer}
        --listen-client-urls=https://{host}:{client},https://{local}:{client}
        --advertise-client-urls=https://{host}:{client}
        --initial-cluster-token=etcd-cluster-1
        --initial-cluster=infra0=https://{host0}:{peer},infra1=https://{host1}:{peer},infra2=https://{host2}:{peer}
        --initial-cluster-state=new
        --client-cert-auth
        --trusted-ca-file={ca.pem}
        --cert-file={server.pem}
        --key-file={server.key}
        --peer-client-cert-auth
        --peer-trusted-ca-file={ca.pem}
        --peer-cert-file={peer.pem}
        --peer-key-file={peer.key}";
    deployment.start(args, &[]).await;
    deployment.warn_of_nothing();
    deployment.is_one_etcd("https://{host}:{peer}").await;
}

/// The arguments of kubeadm's static pod.
const KUBEADM: &str = "
    --advertise-client-urls=https://{host}:{client}
    --cert-file={server.pem}
    --client-cert-auth=true
    --data-dir={data}
    --feature-gates=InitialCorruptCheck=true
    --initial-advertise-peer-urls=https://{host}:{peer}
    --initial-cluster={cluster}
    --key-file={server.key}
    --listen-client-urls=https://{local}:{client},https://{host}:{client}
    --listen-metrics-urls=http://{local}:{metrics}
    --listen-peer-urls=https://{host}:{peer}
    --name={name}
    --peer-cert-file={peer.pem}
    --peer-client-cert-auth=true
    --peer-key-file={peer.key}
    --peer-trusted-ca-file={ca.pem}
    --snapshot-count=10000
    --trusted-ca-file={ca.pem}
    --watch-progress-notify-interval=5s";

/// The static pods of kubeadm on three control-plane nodes, with the list of all three in each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubeadm_with_all_members_named() {
    let mut deployment = Deployment::new("https", NODES);
    for node in NODES {
        // kubelet has made the directory that the pod mounts.
        fs::create_dir(deployment.folder.path(&format!("{node}.etcd"))).unwrap();
    }
    let cluster = "node-1=https://{host0}:{peer},node-2=https://{host1}:{peer},node-3=https://{host2}:{peer}";
    let args = &KUBEADM.replace("{cluster}", cluster);
    deployment.start(args, &[]).await;
    deployment.warn_of_nothing();
    deployment.is_one_etcd("https://{host}:{peer}").await;
    for member in 0..3 {
        let metrics = deployment.fill(member, "{local}:{metrics}");
        for probe in ["/livez", "/readyz", "/health?serializable=false"] {
            let answer = support::http::http(&metrics, "GET", probe).await;
            assert_eq!(answer.status, 200, "{probe}: {answer:?}");
        }
    }
    // kubelet starts one of them again on the same directory.
    deployment.stop(1).await;
    let command = deployment.command(1, args, &[]);
    deployment.begin(1, command);
    deployment.serves(1).await;
    deployment.is_one_etcd("https://{host}:{peer}").await;
}

/// kubeadm's own order: `kubeadm init` starts one member, and each `kubeadm join` adds one as a learner,
/// starts it with the members of the answer, and promotes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubeadm_with_members_added_one_by_one() {
    let mut deployment = Deployment::new("https", NODES);
    for node in NODES {
        fs::create_dir(deployment.folder.path(&format!("{node}.etcd"))).unwrap();
    }
    let command = deployment.command(0, &KUBEADM.replace("{cluster}", "{name}=https://{host}:{peer}"), &[]);
    deployment.begin(0, command);
    deployment.serves(0).await;
    for member in 1..3 {
        deployment.join(member, KUBEADM, "https://{host}:{peer}").await;
    }
    deployment.warn_of_nothing();
    deployment.is_one_etcd("https://{host}:{peer}").await;
}

/// `kubeadm join` on the third node: the member is added as a learner, its static pod has the list that this
/// returns and the state `existing`, and it is promoted once it is in sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubeadm_joins_a_third_node() {
    let mut deployment = Deployment::new("https", NODES);
    let args = KUBEADM.replace("{cluster}", "node-1=https://{host0}:{peer},node-2=https://{host1}:{peer}");
    for member in 0..2 {
        let command = deployment.command(member, &args, &[]);
        deployment.begin(member, command);
    }
    for member in 0..2 {
        deployment.serves(member).await;
    }
    let args = deployment.join(2, KUBEADM, "https://{host}:{peer}").await;
    assert!(args.ends_with("--initial-cluster-state=existing"), "{args}");
    deployment.is_one_etcd("https://{host}:{peer}").await;
    // kubelet starts the pod again on the same directory, with the same arguments.
    deployment.stop(2).await;
    let command = deployment.command(2, &args, &[]);
    deployment.begin(2, command);
    deployment.serves(2).await;
    deployment.is_one_etcd("https://{host}:{peer}").await;
}

/// A chart's pods, which have variables alone, some of which are meant for the scripts of the image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_of_a_chart() {
    let mut deployment = Deployment::new("http", PODS);
    let variables = [
        ("ETCD_NAME", "{name}"),
        ("ETCD_DATA_DIR", "{data}"),
        ("ETCD_LISTEN_PEER_URLS", "http://{host}:{peer}"),
        ("ETCD_LISTEN_CLIENT_URLS", "http://{host}:{client}"),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", "http://{host}:{peer}"),
        ("ETCD_ADVERTISE_CLIENT_URLS", "http://{host}:{client}"),
        ("ETCD_INITIAL_CLUSTER_TOKEN", "etcd-cluster-k8s"),
        ("ETCD_INITIAL_CLUSTER_STATE", "new"),
        (
            "ETCD_INITIAL_CLUSTER",
            "etcd-0=http://{host0}:{peer},etcd-1=http://{host1}:{peer},etcd-2=http://{host2}:{peer}",
        ),
        ("ETCD_LISTEN_METRICS_URLS", ""),
        ("ETCD_LOG_LEVEL", "info"),
        ("ETCD_ON_K8S", "yes"),
        ("ETCD_START_FROM_SNAPSHOT", "no"),
        ("ETCD_DISASTER_RECOVERY", "no"),
    ];
    deployment.start("", &variables).await;
    deployment.is_one_etcd("http://{host}:{peer}").await;
    // The chart sets another state once there is a cluster.
    deployment.stop(0).await;
    let mut command = deployment.command(0, "", &variables);
    command.env("ETCD_INITIAL_CLUSTER_STATE", "existing");
    deployment.begin(0, command);
    deployment.serves(0).await;
    deployment.is_one_etcd("http://{host}:{peer}").await;
}

/// A config file on each machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_files() {
    let mut deployment = Deployment::new("https", INFRA);
    let text = "
name: '{name}'
data-dir: {data}
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: https://{host}:{peer}
listen-client-urls: https://{host}:{client},https://{local}:{client}
initial-advertise-peer-urls: https://{host}:{peer}
advertise-client-urls: https://{host}:{client}
initial-cluster: infra0=https://{host0}:{peer},infra1=https://{host1}:{peer},infra2=https://{host2}:{peer}
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: true
client-transport-security:
  cert-file: {server.pem}
  key-file: {server.key}
  client-cert-auth: true
  trusted-ca-file: {ca.pem}
  auto-tls: false
peer-transport-security:
  cert-file: {peer.pem}
  key-file: {peer.key}
  client-cert-auth: true
  trusted-ca-file: {ca.pem}
  auto-tls: false
log-level: info
log-outputs: [stderr]
";
    for (member, name) in INFRA.iter().enumerate() {
        let file = deployment.folder.path(&format!("{name}.yml"));
        fs::write(file, deployment.fill(member, text)).unwrap();
    }
    deployment.start("--config-file={name}.yml", &[]).await;
    deployment.is_one_etcd("https://{host}:{peer}").await;
}

/// Pods of a headless Service: their names resolve only once the pods are there, and they listen on all
/// addresses of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_resolve_later() {
    // etcd asks for the names for thirty seconds at most, and logs nothing that a test could wait for.
    let mut deployment = Deployment::of(Target::Jetway, "http", PODS);
    let hosts = deployment.folder.path("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let args = "
        --name={name}
        --listen-peer-urls=http://{host}:{peer}
        --listen-client-urls=http://{host}:{client}
        --initial-advertise-peer-urls=http://{name}.etcd-headless.default.svc.test:{peer}
        --advertise-client-urls=http://{host}:{client}
        --initial-cluster-token=etcd-cluster-k8s
        --initial-cluster-state=new
        --initial-cluster=etcd-0=http://etcd-0.etcd-headless.default.svc.test:{peer},etcd-1=http://etcd-1.etcd-headless.default.svc.test:{peer},etcd-2=http://etcd-2.etcd-headless.default.svc.test:{peer}";
    deployment.begin_with_file(&hosts, "/etc/hosts", args);
    for member in 0..3 {
        eventually("a member that waits for the others", async || {
            deployment.log(member).contains("waiting for the other members").then_some(())
        })
        .await;
        assert!(!deployment.log(member).contains("ready to serve"));
    }
    let entry = |member: usize| {
        deployment.fill(member, "{host} {name}.etcd-headless.default.svc.test {name}.etcd-headless\n")
    };
    fs::write(&hosts, (0..3).map(entry).collect::<String>()).unwrap();
    deployment.all_serve().await;
    deployment.is_one_etcd("http://{name}.etcd-headless.default.svc.test:{peer}").await;
}

/// The list has names, and the members advertise addresses. Ids and peer URLs are those of the list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_the_list_and_advertised_addresses() {
    let mut deployment = Deployment::new("http", PODS);
    let hosts = deployment.folder.path("hosts");
    let entry = |member: usize| deployment.fill(member, "{host} {name}.test\n");
    fs::write(&hosts, (0..3).map(entry).collect::<String>()).unwrap();
    let args = "
        --name={name}
        --listen-peer-urls=http://{host}:{peer}
        --listen-client-urls=http://{host}:{client}
        --initial-advertise-peer-urls=http://{host}:{peer}
        --advertise-client-urls=http://{host}:{client}
        --initial-cluster=etcd-0=http://etcd-0.test:{peer},etcd-1=http://etcd-1.test:{peer},etcd-2=http://etcd-2.test:{peer}";
    deployment.start_with_file(&hosts, "/etc/hosts", args).await;
    deployment.is_one_etcd("http://{name}.test:{peer}").await;
}

/// The services of the compose file, whose names are hosts there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_compose_file() {
    let mut deployment = Deployment::of(Target::Jetway, "http", ["m1", "m2", "m3"]);
    let hosts = deployment.folder.path("hosts");
    let entries: String = (0..3).map(|member| deployment.fill(member, "{host} {name}\n")).collect();
    fs::write(&hosts, entries).unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/compose-cluster.yaml");
    let file: Value = serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let services = file["services"].as_object().unwrap();
    assert_eq!(services.keys().collect::<Vec<_>>(), ["m1", "m2", "m3"]);
    for (member, service) in services.values().enumerate() {
        // The image starts jetway by its own name.
        let mut command = deployment.folder.command_of(env!("CARGO_BIN_EXE_jetway").into());
        for (name, value) in service["environment"].as_object().unwrap() {
            let value = value.as_str().unwrap();
            let value = match name.as_str() {
                "ETCD_INITIAL_CLUSTER_TOKEN" => {
                    assert!(value.starts_with("${JETWAY_TOKEN:?"), "no start without a token: {value}");
                    "a-secret".to_owned()
                }
                "ETCD_ADVERTISE_CLIENT_URLS" => {
                    assert_eq!(value, deployment.fill(member, "http://{name}:2379"));
                    deployment.client_url(member)
                }
                _ => deployment.fill(
                    member,
                    &value
                        .replace("0.0.0.0", "{host}")
                        .replace(":2379", ":{client}")
                        .replace(":2380", ":{peer}")
                        .replace("/var/lib/jetway", "{data}"),
                ),
            };
            command.env(name, value);
        }
        let command = deployment.with_file(&hosts, "/etc/hosts", &command);
        deployment.begin(member, command);
    }
    deployment.all_serve().await;
    deployment.is_one_etcd("http://{name}:{peer}").await;
    // The health check of each service, of the address that stands for its loopback interface.
    for (member, service) in services.values().enumerate() {
        let check: Vec<_> = service["healthcheck"]["test"].as_array().unwrap().iter().collect();
        assert_eq!(check, ["CMD", "/usr/local/bin/jetway", "health"]);
        let mut command = deployment.folder.command_of(env!("CARGO_BIN_EXE_jetway").into());
        command.arg("health").arg(deployment.client_url(member));
        let ended = deployment.folder.run(command).await;
        assert_eq!(ended.status, 0, "{}", ended.output);
    }
}
