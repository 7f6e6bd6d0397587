//! Ports for servers that are started more than once.

use std::fs::{self, File};
use std::net::TcpListener;

/// A TCP port that no other test process takes while this value lives.
///
/// It lies below the range from which the kernel gives ports to outgoing connections, since one of those
/// could take it between two starts of the server. A locked file per port keeps test processes apart.
pub struct Port {
    pub number: u16,
    _lock: File,
}

impl Port {
    pub fn claim() -> Self {
        let dir = std::env::temp_dir().join("jetway-test-ports");
        fs::create_dir_all(&dir).unwrap();
        loop {
            let number = rand::random_range(10_000..32_000);
            let lock = File::create(dir.join(number.to_string())).unwrap();
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
    }
}
