//! The listener and its connections: HTTP/1 over TCP, or over TLS with `HttpServer.Protocol` `https`.
//!
//! Owns what a connection may take (time for the head of a request, time for a handshake, how many there are) and the
//! graceful end: requests in hand are finished. Knows no route.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use edgehold_core::ShutdownSignal;
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::Https;

/// More than these wait until one is free: each may hold a buffer, and the process has only so many descriptors.
const MOST_CONNECTIONS: usize = 1024;
/// The pause after a connection could not be taken for want of descriptors or memory.
const PAUSE: Duration = Duration::from_secs(1);

/// What every connection is served with.
#[derive(Clone)]
struct Server {
    router: Router,
    https: Option<Arc<Https>>,
    /// `Service.RequestTimeout`, which also bounds the head of a request and a handshake, as in EdgeX.
    limit: Duration,
}

/// Answers requests until told to end; requests in hand are finished first.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    https: Option<Arc<Https>>,
    limit: Duration,
    mut shutdown: ShutdownSignal,
) {
    let server = Server { router, https, limit };
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection is accepted or it is not, and a permit that is dropped is given back.
        tokio::select! {
            () = shutdown.recv() => break,
            (stream, permit) = accept(&listener, &room) => {
                let connection = server.clone().connection(stream, shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // It is never closed, so there always is one.
    let permit = room.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            // The other side was gone before we looked.
            Err(error) if is_of_the_other_side(&error) => {}
            Err(error) => {
                tracing::warn!("the REST interface cannot take a connection: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_the_other_side(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

impl Server {
    async fn connection(self, stream: TcpStream, mut shutdown: ShutdownSignal) {
        // Answers are written at once and whole.
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok().map(ConnectInfo);
        let Some(https) = self.https.clone() else {
            return self.talk(TokioIo::new(stream), peer, shutdown).await;
        };
        tokio::select! {
            shaken = timeout(self.limit, https.handshake(stream)) => {
                if let Ok(Some(stream)) = shaken {
                    self.talk(TokioIo::new(stream), peer, shutdown).await;
                }
            }
            () = shutdown.recv() => {}
        }
    }

    async fn talk<IO: Read + Write + Unpin>(
        self,
        io: IO,
        peer: Option<ConnectInfo<SocketAddr>>,
        mut shutdown: ShutdownSignal,
    ) {
        let router = TowerToHyperService::new(self.router);
        let asked = AtomicBool::new(false);
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            // For routes that tell who asked.
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limit)
            .title_case_headers(true)
            .serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        // How a connection ends is the other side's business: it broke off, was too slow, or spoke no HTTP.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = shutdown.recv() => {}
        }
        // One that has never asked would be waited for until its time is up.
        if asked.load(Ordering::Relaxed) {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
