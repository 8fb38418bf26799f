//! Ports for servers, without two tests ever taking the same one.
//!
//! A port that the kernel hands out (port 0) is free only until the next process asks, and a server that is restarted
//! needs the port it had. So a port is *held*: a lock on a small file named for it in the machine's temporary folder.
//! The lock belongs to this process and the kernel lets go of it when the process dies, however it dies; other test
//! processes pass over a held port even while its server is down. Ports stay below 32768, where the kernel does not
//! take the near end of outgoing connections from.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use anyhow::{Context, Result, bail};

use crate::unique::random_u64;

const FIRST: u64 = 20_000;
const COUNT: u64 = 12_000;
const TRIES: usize = 200;

/// A port on 127.0.0.1 (TCP and UDP) that no other [`Port`] of this machine has until this one is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Closing the file gives the port back.
    _lock: File,
}

impl Port {
    /// Takes a random free port between 20000 and 31999.
    ///
    /// # Errors
    /// When the temporary folder cannot be written, or 200 ports in a row were taken.
    pub fn hold() -> Result<Self> {
        let folder = std::env::temp_dir().join("edgehold-test-ports");
        std::fs::create_dir_all(&folder).context("making the folder of held ports")?;
        for _ in 0..TRIES {
            let number = u16::try_from(FIRST + random_u64() % COUNT).expect("32000 fits into 16 bits");
            let lock = File::create(folder.join(number.to_string())).context("making the lock of a port")?;
            match lock.try_lock() {
                Ok(()) if can_bind(number) => return Ok(Self { number, _lock: lock }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).context("locking a port"),
            }
        }
        bail!(
            "{TRIES} random ports between {FIRST} and {} were all taken",
            FIRST + COUNT
        )
    }

    /// The port number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Whether nobody outside our locks listens there; Consul's gossip needs the UDP side too.
fn can_bind(number: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, number);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_free_below_the_ephemeral_range_and_not_given_twice() {
        let ports: Vec<Port> = (0..20).map(|_| Port::hold().expect("a port")).collect();

        for port in &ports {
            assert!((20_000..32_000).contains(&port.number()), "{port:?}");
            assert!(can_bind(port.number()), "{port:?}");
        }
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
    }
}
