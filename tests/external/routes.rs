//! A NATS cluster of three whose servers can be cut off from each other.

use std::ops::{Deref, DerefMut};

use support::nats::Nats;
use support::proxy::Proxy;

/// Three servers, and the proxies between them.
pub struct Routes {
    nodes: [Nats; 3],
    /// The proxies from each server to each other one.
    proxies: Vec<Vec<Proxy>>,
}

impl Routes {
    pub async fn start() -> Self {
        let mut nodes = Nats::three();
        let mut proxies = Vec::new();
        for _ in 0..3 {
            let mut from = Vec::new();
            for node in &nodes {
                from.push(Proxy::to(node.route_address(), usize::MAX).await);
            }
            proxies.push(from);
        }
        // The addresses that they advertise to each other lead nowhere.
        let config = "advertise: \"127.0.0.1:1\"";
        Nats::join(&mut nodes, config, |from, to| proxies[from][to].address.clone()).await;
        Self { nodes, proxies }
    }

    /// Cuts a server off from the two others. Its clients reach it still.
    pub fn cut(&self, at: usize) {
        for proxy in self.proxies_of(at) {
            proxy.hold();
            proxy.break_off();
        }
    }

    pub fn mend(&self, at: usize) {
        self.proxies_of(at).for_each(Proxy::release);
    }

    fn proxies_of(&self, at: usize) -> impl Iterator<Item = &Proxy> {
        (0..3)
            .filter(move |other| *other != at)
            .flat_map(move |other| [&self.proxies[at][other], &self.proxies[other][at]])
    }
}

impl Deref for Routes {
    type Target = [Nats; 3];

    fn deref(&self) -> &[Nats; 3] {
        &self.nodes
    }
}

impl DerefMut for Routes {
    fn deref_mut(&mut self) -> &mut [Nats; 3] {
        &mut self.nodes
    }
}
