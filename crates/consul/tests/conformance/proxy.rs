//! A TCP proxy in front of Consul that can be cut or slow, and that counts the transactions going through.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use edgehold_test_support::wait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

use crate::LONG;

const TRANSACTION: &[u8] = b"PUT /v1/txn";

/// Listens until dropped.
pub(crate) struct Proxy {
    port: u16,
    open: watch::Sender<bool>,
    transactions: Arc<AtomicUsize>,
    connections: watch::Sender<usize>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// In front of the server on this port.
    pub(crate) async fn start(server: u16) -> Result<Self> {
        Self::slow(server, Duration::ZERO).await
    }

    /// As [`Self::start`]; answers come after this time, and unless it is zero in small parts.
    pub(crate) async fn slow(server: u16, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (open, is_open) = watch::channel(true);
        let transactions = Arc::new(AtomicUsize::new(0));
        let connections = watch::Sender::new(0);
        let through = Through {
            server,
            delay,
            transactions: Arc::clone(&transactions),
            connections: connections.clone(),
        };
        let mut task = JoinSet::new();
        task.spawn(accept(listener, through, is_open));
        Ok(Self {
            port,
            open,
            transactions,
            connections,
            _task: task,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Drops every connection, and every new one until [`Self::restore`].
    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    /// [`Self::cut`], and waits until no connection is left.
    pub(crate) async fn cut_off(&self) {
        self.cut();
        let mut connections = self.connections.subscribe();
        let cut = timeout(LONG, connections.wait_for(|count| *count == 0)).await;
        cut.expect("connections are cut").expect("the sender is here");
    }

    pub(crate) fn restore(&self) {
        self.open.send_replace(true);
    }

    /// How many transactions have been asked for.
    pub(crate) fn transactions(&self) -> usize {
        self.transactions.load(Ordering::SeqCst)
    }

    /// Waits for this many more.
    pub(crate) async fn wait_for_transactions(&self, more: usize) {
        let wanted = self.transactions() + more;
        wait::until("more transactions", LONG, async || self.transactions() >= wanted).await;
    }
}

/// What a connection goes through.
#[derive(Clone)]
struct Through {
    server: u16,
    delay: Duration,
    transactions: Arc<AtomicUsize>,
    connections: watch::Sender<usize>,
}

/// Counts a connection as long as it lives.
struct Counted(watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn accept(listener: TcpListener, through: Through, mut is_open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                if *is_open.borrow() {
                    through.connections.send_modify(|count| *count += 1);
                    let counted = Counted(through.connections.clone());
                    connections.spawn(forward(client, through.clone(), counted));
                }
            }
            Ok(()) = is_open.changed() => {
                if !*is_open.borrow() {
                    connections.shutdown().await;
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(mut client: TcpStream, through: Through, _counted: Counted) {
    let Through {
        server,
        delay,
        transactions,
        ..
    } = through;
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let upwards = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            // The client writes the head of a request at once.
            let count = buffer[..length]
                .windows(TRANSACTION.len())
                .filter(|window| *window == TRANSACTION)
                .count();
            transactions.fetch_add(count, Ordering::SeqCst);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    let downwards = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            let part = if delay.is_zero() { length } else { 41 };
            sleep(delay).await;
            for part in buffer[..length].chunks(part) {
                if to_client.write_all(part).await.is_err() {
                    return;
                }
                yield_now().await;
            }
        }
    };
    tokio::select! {
        () = upwards => {}
        () = downwards => {}
    }
}
