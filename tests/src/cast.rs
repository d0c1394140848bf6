//! Who acts: four containers, and the servers in them. They also listen where nobody may come, so that a refusal is the
//! fabric's and not that of a closed port.

use crate::lab::{Container, Lab};
use crate::traffic::{tcp, udp};
use anyhow::Result;

/// What `allow-access` opens in the second chapter.
pub const PORT: u16 = 7000;
/// Nobody opens this one.
pub const OTHER_PORT: u16 = 7001;
/// The UDP policy's port.
pub const UDP_PORT: u16 = 5353;
/// The one beside it.
pub const OTHER_UDP_PORT: u16 = 5354;
/// The range policy's first port.
pub const RANGE_START: u16 = 8000;
/// Its last.
pub const RANGE_END: u16 = 8010;

/// The containers and their servers.
#[derive(Debug)]
pub struct Cast {
    /// On cell a.
    pub frontend: Container,
    /// On cell a, of the same app as `backend_b`.
    pub backend_a: Container,
    /// On cell b.
    pub backend_b: Container,
    /// On cell b.
    pub intruder: Container,
    /// UDP in `backend_b`; remembers what arrived.
    pub udp_b: udp::Server,
    _tcp: Vec<tcp::Server>,
    _udp: Vec<udp::Server>,
}

impl Cast {
    /// Takes the containers through the shim and starts the servers.
    pub fn enter(lab: &Lab) -> Result<Self> {
        let frontend = lab.add("a", "frontend", "frontend")?;
        let backend_a = lab.add("a", "backend-a", "backend")?;
        let backend_b = lab.add("b", "backend-b", "backend")?;
        let intruder = lab.add("b", "intruder", "intruder")?;
        let mut tcp = vec![tcp::Server::start(&frontend.namespace(), PORT)?];
        let mut udp = Vec::new();
        for backend in [&backend_a, &backend_b] {
            for port in
                [PORT, OTHER_PORT, UDP_PORT, RANGE_START - 1, RANGE_START, 8005, RANGE_END, RANGE_END + 1]
            {
                tcp.push(tcp::Server::start(&backend.namespace(), port)?);
            }
            udp.push(udp::Server::start(&backend.namespace(), OTHER_UDP_PORT)?);
        }
        udp.push(udp::Server::start(&backend_a.namespace(), UDP_PORT)?);
        let udp_b = udp::Server::start(&backend_b.namespace(), UDP_PORT)?;
        Ok(Self { frontend, backend_a, backend_b, intruder, udp_b, _tcp: tcp, _udp: udp })
    }

    /// Both backends, with the words for where they are as the frontend sees it.
    #[must_use]
    pub fn backends(&self) -> [(&'static str, &Container); 2] {
        [("same cell", &self.backend_a), ("other cell", &self.backend_b)]
    }
}
