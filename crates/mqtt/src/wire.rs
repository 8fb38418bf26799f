//! Writing to the connection of an event loop between two polls, past the library's request queue: both kinds of
//! connection send their packets this way.

use std::time::Duration;

use rumqttc::{ConnectionError, EventLoop, Packet, StateError};
use tokio::time::timeout;

/// Writes packets with one flush, within `limit`.
///
/// # Errors
/// The connection is gone, or does not take the packets in time. Some of them may have been sent.
pub(crate) async fn write(
    event_loop: &mut EventLoop,
    limit: Duration,
    packets: impl IntoIterator<Item = Packet>,
) -> Result<(), ConnectionError> {
    let Some(network) = event_loop.network.as_mut() else {
        return Err(StateError::ConnectionAborted.into());
    };
    let written = async {
        for packet in packets {
            network.write(packet).await?;
        }
        network.flush().await
    };
    match timeout(limit, written).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ConnectionError::FlushTimeout),
    }
}
