//! An unresponsive host: it accepts connections and sends nothing, like a frozen server, or accepts none, like one
//! without a network.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Connections that keep the accept queue full.
const FILLERS: usize = 4;

pub struct UnresponsiveHost {
    address: SocketAddr,
    _running: AbortOnDropHandle<()>,
}

impl UnresponsiveHost {
    /// Accepts connections and sends nothing.
    pub async fn frozen() -> UnresponsiveHost {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (connection, _) = listener.accept().await.expect("a listener on loopback accepts");
                open.push(connection);
            }
        });
        UnresponsiveHost {
            address,
            _running: AbortOnDropHandle::new(running),
        }
    }

    /// Answers no connection attempt: its queue is full, and the system drops further ones.
    pub async fn gone() -> UnresponsiveHost {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // The queue has room for one connection; once that is made, no later one succeeds.
        let first = TcpStream::connect(address).await.unwrap();
        let running = tokio::spawn(async move {
            let mut fillers = JoinSet::new();
            for _ in 0..FILLERS {
                fillers.spawn(TcpStream::connect(address));
            }
            let mut open = vec![first];
            while let Some(filler) = fillers.join_next().await {
                open.extend(filler.ok().and_then(Result::ok));
            }
            std::future::pending::<()>().await;
            drop((listener, open));
        });
        UnresponsiveHost {
            address,
            _running: AbortOnDropHandle::new(running),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
