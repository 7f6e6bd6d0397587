//! `jetway snapshot`: beside etcdctl and etcdutl, on jetway and on etcd.

use std::process::Command;

use crate::program::{Ended, WorkingFolder};
use jetway::proto::etcdserverpb::{HashKvRequest, HashKvResponse};
use support::certificates::{Material, Template};
use support::client::*;
use support::eventually;
use support::proxy::Proxy;
use support::server::{Server, Target, peer};
use support::snapshot::{QUICK, Saved, etcdutl, text};
use support::tls::{MUTUAL, TlsServer};

fn jetway(folder: &WorkingFolder, args: &[&str]) -> Command {
    let mut command = folder.command_of(env!("CARGO_BIN_EXE_jetway").into());
    command.args(args);
    command
}

/// All names in the folder but those of the links.
fn files(folder: &WorkingFolder) -> Vec<String> {
    let names = std::fs::read_dir(folder.path(".")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "etcd" && name != "kine").collect();
    names.sort_unstable();
    names
}

async fn hash_kv(client: &Client) -> u32 {
    let request = HashKvRequest { revision: 0 };
    let answer: HashKvResponse = client.unary("/etcdserverpb.Maintenance/HashKV", request).await.unwrap();
    answer.hash
}

#[tokio::test]
async fn a_snapshot_is_saved_through_tls_by_root_alone() {
    for target in [Target::Jetway, Target::Etcd] {
        let material = Material::create();
        let pair = material.authority.issue(Template { name: "", ..Template::default() });
        material.write("client.pem", pair.cert);
        material.write("client.key", pair.key);
        let secure = TlsServer::start(target, material, &[&MUTUAL[..], &QUICK].concat()).await;
        let client = secure.server.client().await;
        for number in 0..50 {
            client.put(format!("key/{number}"), vec![b'v'; 10_000]).await;
        }
        client.user_add("bob", "secret").await.unwrap();
        let root = support::auth::enable(&client).await;

        let folder = WorkingFolder::new();
        let address = secure.address();
        let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| secure.material.arg(name));
        let with_tls = [
            "snapshot",
            "save",
            "a.db",
            "--endpoints",
            &address,
            "--cacert",
            &ca,
            "--cert",
            &cert,
            "--key",
            &key,
        ];
        let save = |args: &[&str]| jetway(&folder, &[&with_tls[..], args].concat());
        for (args, words) in [
            (&["--user", "bob:secret"][..], "code = PermissionDenied desc = etcdserver: permission denied"),
            (&["--user", "bob:wrong"], "code = InvalidArgument desc = etcdserver: authentication failed"),
            (&[], "code = InvalidArgument desc = etcdserver: user name is empty"),
        ] {
            let Ended { status, output } = folder.run(save(args)).await;
            assert!(status == 1 && output.contains(words), "{target:?} {args:?}: {status} {output}");
            assert_eq!(files(&folder), Vec::<String>::new());
        }
        let Ended { status, output } = folder.run(save(&["--user", "root:root"])).await;
        assert_eq!((status, &*output), (0, "Snapshot saved at a.db\nServer version 3.7.0\n"), "{target:?}");
        assert_eq!(files(&folder), ["a.db"]);
        let status = etcdutl(&["snapshot", "status", text(&folder.path("a.db")), "-w", "json"]).await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["revision"], root.revision().await);
        let hashed = etcdutl(&["hashkv", text(&folder.path("a.db"))]).await;
        assert!(hashed.starts_with(&format!("{}, ", hash_kv(&root).await)), "{hashed}");

        // The variables of etcdctl say the same.
        let mut command = jetway(&folder, &["snapshot", "save", "b.db"]);
        let variables = [
            ("ENDPOINTS", &*address),
            ("CACERT", &ca),
            ("CERT", &cert),
            ("KEY", &key),
            ("USER", "root"),
            ("PASSWORD", "root"),
        ];
        command.envs(variables.map(|(name, value)| (format!("ETCDCTL_{name}"), value)));
        let Ended { status, output } = folder.run(command).await;
        assert!(status == 0 && output.starts_with("Snapshot saved at b.db\n"), "{target:?}: {output}");
    }
}

#[tokio::test]
async fn a_user_is_no_mistake_where_auth_is_disabled() {
    let server = Server::start().await;
    let folder = WorkingFolder::new();
    let save = ["snapshot", "save", "a.db", "--endpoints", &server.endpoint(), "--user", "root:root"];
    let Ended { status, output } = folder.run(jetway(&folder, &save)).await;
    assert_eq!(status, 0, "{output}");
}

/// An older file of the name stays as it is.
#[tokio::test]
async fn a_snapshot_that_is_cut_off_is_no_file() {
    for target in [Target::Jetway, Target::Etcd] {
        let server = Server::launch(target, &[]).await;
        let client = server.client().await;
        for number in 0..40 {
            client.put(format!("key/{number}"), vec![b'v'; 100_000]).await;
        }
        let proxy = Proxy::to(server.address(), 2_000_000).await;
        let folder = WorkingFolder::new();
        std::fs::write(folder.path("a.db"), "older").unwrap();
        let save = jetway(&folder, &["snapshot", "save", "a.db", "--endpoints", &proxy.address]);
        let cut = async {
            eventually("a part of the snapshot", async || {
                let part = std::fs::metadata(folder.path("a.db.part")).ok()?;
                (part.len() > 1_000_000).then_some(())
            })
            .await;
            proxy.break_off();
        };
        let (Ended { status, output }, ()) = tokio::join!(folder.run(save), cut);
        assert_eq!(status, 1, "{target:?}: {output}");
        assert!(output.contains("has ended the snapshot after") && output.contains("code = "), "{output}");
        assert_eq!(files(&folder), ["a.db"]);
        assert_eq!(std::fs::read_to_string(folder.path("a.db")).unwrap(), "older");
    }
}

/// Nothing closes the connection to a machine that is gone.
#[tokio::test]
async fn a_server_that_does_not_answer_any_more_is_given_up() {
    let server = Server::launch(Target::Jetway, &QUICK).await;
    let client = server.client().await;
    for number in 0..5 {
        client.put(format!("key/{number}"), vec![b'v'; 1_000_000]).await;
    }
    let proxy = Proxy::to(server.address(), 2_000_000).await;
    let folder = WorkingFolder::new();
    let save = jetway(&folder, &["snapshot", "save", "a.db", "--endpoints", &proxy.address]);
    let hold = async {
        eventually("a part of the snapshot", async || {
            let part = std::fs::metadata(folder.path("a.db.part")).ok()?;
            (part.len() > 1_000_000).then_some(())
        })
        .await;
        proxy.hold();
    };
    let (Ended { status, output }, ()) = tokio::join!(folder.run(save), hold);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("has ended the snapshot after") && output.contains("code = "), "{output}");
    assert_eq!(files(&folder), Vec::<String>::new());
}

#[tokio::test]
async fn mistakes_name_the_flag_and_the_remedy() {
    let folder = WorkingFolder::new();
    for (args, words) in [
        (&["--endpoints", "a:1,b:1"][..], &["--endpoints a:1,b:1", "of one server"][..]),
        (&["--user", "root"], &["--user root", "--user root:PASSWORD"]),
        (&["--password", "x"], &["--user NAME"]),
        (&["--cert", "a.pem"], &["--key is missing"]),
        (&["--dial-timeout", "soon"], &["--dial-timeout soon", "such as 10s"]),
        (&["--endpoints", "ftp://a:1"], &["ftp://a:1 is no endpoint", "http://host:port"]),
        (&["--endpoints", "127.0.0.1:1"], &["127.0.0.1:1 cannot be reached", "refused"]),
        (&["--cacert", "none.pem"], &["none.pem", "No such file"]),
    ] {
        let args = [&["snapshot", "save", "a.db"], args].concat();
        let Ended { status, output } = folder.run(jetway(&folder, &args)).await;
        assert_eq!(status, 1, "{args:?}: {output}");
        assert!(words.iter().all(|word| output.contains(word)), "{args:?}: {output}");
    }
    let Ended { status, output } = folder.run(jetway(&folder, &["snapshot"])).await;
    assert!(status == 2 && output.contains("save"), "{output}");
    assert_eq!(files(&folder), Vec::<String>::new());
}

/// Deletes and keys that live again, so that keys are not pairs; and more pages than one level has.
#[tokio::test]
async fn the_status_of_a_file_is_that_of_etcdutl_in_all_its_forms() {
    let folder = WorkingFolder::new();
    for target in [Target::Jetway, Target::Etcd] {
        let mut server = Server::launch(target, &QUICK).await;
        let client = server.client().await;
        let empty = Saved::of(&client).await;
        for number in 0..300 {
            client.put(format!("key/{number}"), vec![b'v'; number * 10]).await;
        }
        client.put("key/7", "again").await;
        client.delete_range(delete_all("key/1")).await.unwrap();
        client.put("key/1", "back").await;
        client.lease_grant(7, 600).await.unwrap();
        support::auth::enable(&client).await;
        let full = Saved::of(&client.login("root", "root").await).await;
        let mut paths = vec![empty.path(), full.path()];
        server.stop().await;
        // A database of a stopped etcd has no checksum and may be longer than its pages.
        let stopped = server.dir().join("data/member/snap/db");
        if target == Target::Etcd {
            assert!(stopped.exists());
            paths.push(stopped);
        }
        for path in &paths {
            for form in
                [&[][..], &["-w", "table"], &["-w=json"], &["--write-out", "fields"], &["-w", "simple"]]
            {
                let args = [&["snapshot", "status", text(path)], form].concat();
                let expected = etcdutl(&args).await;
                let Ended { status, output } = folder.run(jetway(&folder, &args)).await;
                // The helper takes the backslashes from quotes, of which there are none here.
                assert_eq!((status, output), (0, expected), "{target:?} {path:?} {form:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_whole_snapshot_is_refused() {
    let server = Server::start().await;
    let client = server.client().await;
    for number in 0..100 {
        client.put(format!("key/{number}"), vec![b'v'; 1000]).await;
    }
    let whole = std::fs::read(Saved::of(&client).await.path()).unwrap();
    let database = whole.len() - 32;
    let with = |at: usize, byte: u8| {
        let mut file = whole.clone();
        file[at] ^= byte;
        file
    };
    let folder = WorkingFolder::new();
    for (file, words) in [
        (with(9000, 1), "a.db: the SHA-256 at its end does not fit its content"),
        (with(database + 5, 1), "a.db: the SHA-256 at its end does not fit its content"),
        (whole[..database / 2].to_vec(), "a.db is cut off: it has "),
        // The number of a page, where no checksum is behind it.
        (with(3 * 4096, 1)[..database].to_vec(), "a.db is damaged in page 3 (at byte 12288)"),
        (b"no database".to_vec(), "a.db is no database of etcd"),
        (Vec::new(), "a.db is no database of etcd"),
    ] {
        std::fs::write(folder.path("a.db"), file).unwrap();
        let Ended { status, output } = folder.run(jetway(&folder, &["snapshot", "status", "a.db"])).await;
        assert!(status == 1 && output.contains(words), "{words}: {status} {output}");
    }
    let Ended { status, output } = folder.run(jetway(&folder, &["snapshot", "status", "b.db"])).await;
    assert!(status == 1 && output.contains("b.db: No such file"), "{output}");
}

/// The script for cron, by etcdctl and etcdutl.
#[tokio::test]
async fn the_script_for_cron_saves_and_keeps_as_many_as_asked_for() {
    let mut server = Server::start().await;
    server.client().await.put("a", "b").await;
    let folder = WorkingFolder::new();
    let bin = folder.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["etcdctl", "etcdutl"] {
        let variable = format!("JETWAY_TEST_{}", name.to_uppercase());
        std::os::unix::fs::symlink(peer(&variable, name), bin.join(name)).unwrap();
    }
    let path = format!("{}:{}", text(&bin), std::env::var("PATH").unwrap());
    let endpoint = server.endpoint();
    let run = async |keep: &str| {
        let mut command =
            folder.command_of(concat!(env!("CARGO_MANIFEST_DIR"), "/docker/snapshot.sh").into());
        command.args(["backups", keep]).env("PATH", &path).env("ETCDCTL_ENDPOINTS", &endpoint);
        folder.run(command).await
    };
    let backups = || {
        let names = std::fs::read_dir(folder.path("backups")).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    let mut seen = std::collections::BTreeSet::new();
    // A name has seconds in it, so a run may replace the file of the one before.
    while seen.len() < 4 {
        let Ended { status, output } = run("2").await;
        assert!(status == 0 && output.contains("TOTAL KEYS"), "{output}");
        seen.extend(backups());
        std::fs::write(folder.path("backups/etcd-notes.db"), "x").unwrap();
    }
    let saved: Vec<_> = seen.iter().filter(|name| name.ends_with("Z.db")).cloned().collect();
    let newest = &saved[saved.len() - 2..];
    let expected = [newest, &["etcd-notes.db".to_owned()]].concat();
    assert_eq!(backups(), expected);
    for name in newest {
        etcdutl(&["snapshot", "status", text(&folder.path("backups").join(name))]).await;
    }
    server.stop().await;
    assert_ne!(run("1").await.status, 0);
    assert_eq!(backups(), expected);
    assert_eq!(run("0").await.status, 2);
}
