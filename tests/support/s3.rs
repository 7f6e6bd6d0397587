//! A real S3 server of our own, which keeps its objects as files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::eventually;
use crate::server::{Port, peer, spawn};

const ID: &str = "test-id";
const SECRET: &str = "test-secret";
/// A bucket that is there.
pub const BUCKET: &str = "backups";

/// A running server. Dropping it kills the process and removes its objects.
pub struct S3Server {
    scheme: &'static str,
    /// More arguments.
    args: Vec<String>,
    port: Port,
    child: Option<Child>,
    // Last, so that the directory goes after the process.
    dir: TempDir,
}

impl S3Server {
    pub async fn start() -> Self {
        Self::start_with("http", &[]).await
    }

    /// The same over TLS, with the files of its certificate and of its key.
    pub async fn start_tls(cert: &Path, key: &Path) -> Self {
        let [cert, key] = [cert, key].map(|path| path.to_str().unwrap());
        Self::start_with("https", &["--cert", cert, "--key", key]).await
    }

    async fn start_with(scheme: &'static str, args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("jetway-test-s3-").tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root").join(BUCKET)).unwrap();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = Self { scheme, args, port: Port::claim(), child: None, dir };
        server.restart().await;
        server
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub async fn restart(&mut self) {
        self.stop();
        let mut command = Command::new(peer("JETWAY_TEST_S3", "versitygw"));
        command.args(["--port", &self.address(), "--access", ID, "--secret", SECRET, "--quiet"]);
        command.args(&self.args).arg("posix").arg(self.dir.path().join("root"));
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let other = log.try_clone().unwrap();
        self.child = Some(
            spawn({
                command.stdin(Stdio::null()).stdout(log).stderr(other);
                command
            })
            .unwrap(),
        );
        let address = self.address();
        eventually("the S3 server to listen", async || TcpStream::connect(&address).await.ok()).await;
    }

    /// The variables by which programs find and use it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("{}://{}", self.scheme, self.address())),
            ("AWS_ACCESS_KEY_ID", ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// The file of an object in the bucket, or the directory of many.
    pub fn object(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(BUCKET).join(name)
    }

    /// The names of the objects whose names begin with a directory.
    pub fn objects(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.object(dir)).into_iter().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    /// The number of uploads that were begun and neither completed nor aborted.
    pub fn uploads(&self) -> usize {
        let objects = fs::read_dir(self.object(".sgwtmp/multipart")).into_iter().flatten();
        objects.map(|object| fs::read_dir(object.unwrap().path()).into_iter().flatten().count()).sum()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}
