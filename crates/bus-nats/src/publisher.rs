//! Publishing, with and without JetStream.
//!
//! The connection is made with the first message and kept. Nothing is sent twice but where the server says that it has
//! not taken a message, because no stream has its subject.

use std::{error::Error, sync::Arc, time::Duration};

use async_nats::{HeaderMap, client, jetstream};
use bytes::Bytes;
use edgehold_core::ErrorClass;
use tokio::{
    select,
    sync::{Mutex, OnceCell},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    ConnectionSettings, StreamSettings,
    link::{Link, connect},
    stream, subject,
};

/// How long to wait before another attempt when no stream has the subject.
const RETRY: Duration = Duration::from_millis(250);

/// Why a message was not published, or may not have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No message can be published to this topic: it is empty, or has an empty level, a wildcard or white space in it.
    #[error("'{topic}' is not a topic to publish to")]
    InvalidTopic {
        /// The topic.
        topic: String,
    },
    /// The server takes no message of this size (its `max_payload`), or no header like these.
    #[error("the message does not fit NATS")]
    Unfit(#[source] Box<dyn Error + Send + Sync>),
    /// The server was away or did not answer in time. What was written already may still arrive.
    #[error("NATS has not taken the message within {after:?}")]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// There was no connection in all that time: the server is away, or refuses who we are. Nothing was sent.
    #[error("no connection to NATS within {after:?}: {reason}")]
    Unreachable {
        /// How long was waited.
        after: Duration,
        /// What became of the last attempt.
        reason: String,
    },
    /// The server did not take it, or there is no connection to be made.
    #[error("NATS does not take the message: {0}")]
    Refused(String),
}

impl PublishError {
    /// Whether another attempt with the same message can succeed.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::InvalidTopic { .. } | Self::Unfit(_) => ErrorClass::Permanent,
            Self::TimedOut { .. } | Self::Unreachable { .. } | Self::Refused(_) => ErrorClass::Transient,
        }
    }
}

/// Publishes. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    settings: ConnectionSettings,
    stream: Option<(StreamSettings, u32)>,
    link: Mutex<Option<Link>>,
    /// Set when the stream was found or made.
    stream_stands: OnceCell<()>,
}

impl Publisher {
    /// Publishes to whoever is connected. Opens nothing yet.
    pub fn to_subscribers(settings: ConnectionSettings) -> Self {
        Self::new(settings, None)
    }

    /// Publishes to the stream that has the subject, which confirms that it keeps the message. When none has it, it is made
    /// (`AutoProvision`) or looked for `retries` times more (`DefaultPubRetryAttempts`). Opens nothing yet.
    pub fn to_stream(settings: ConnectionSettings, stream: StreamSettings, retries: u32) -> Self {
        Self::new(settings, Some((stream, retries)))
    }

    fn new(settings: ConnectionSettings, stream: Option<(StreamSettings, u32)>) -> Self {
        Self(Arc::new(Inner {
            settings,
            stream,
            link: Mutex::default(),
            stream_stands: OnceCell::new(),
        }))
    }

    /// Publishes one message, and returns when it has been written, or when the stream has confirmed it. Waits for a
    /// connection and for that at most [`ConnectionSettings::connect_timeout`] in all.
    ///
    /// Cancel-safe: dropped, the message was sent or not.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(
        &self,
        topic: &str,
        headers: &[(&str, &str)],
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let subject = subject::of_topic(topic).map_err(|_| PublishError::InvalidTopic {
            topic: topic.to_owned(),
        })?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: async_nats::HeaderName = name.parse().map_err(unfit)?;
            let value: async_nats::HeaderValue = value.parse().map_err(unfit)?;
            map.append(name, value);
        }
        let after = self.0.settings.connect_timeout;
        let published = timeout_at(Instant::now() + after, self.send(subject, map, payload));
        match published.await {
            Ok(published) => published,
            Err(_) => {
                let link = self.0.link.try_lock();
                let trouble = link.ok().and_then(|link| link.as_ref().and_then(Link::trouble));
                Err(match trouble {
                    Some(reason) => PublishError::Unreachable { after, reason },
                    None => PublishError::TimedOut { after },
                })
            }
        }
    }

    /// The connection, once it stands. Cancel-safe.
    async fn connected(&self) -> Result<Link, PublishError> {
        let mut made = self.0.link.lock().await;
        let mut link = match &*made {
            Some(link) => link.clone(),
            None => {
                let link = connect(&self.0.settings, "publish").await;
                made.insert(link.map_err(PublishError::Refused)?).clone()
            }
        };
        drop(made);
        loop {
            let mut waiting = link.clone();
            let renewed = select! {
                _ = waiting.connected() => return Ok(waiting),
                renewed = link.renewed() => renewed,
            };
            // Others who wait may have been quicker.
            let mut made = self.0.link.lock().await;
            link = match &*made {
                Some(made) if made.is_as(&renewed) => made.clone(),
                _ => made.insert(renewed).clone(),
            };
        }
    }

    async fn send(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<(), PublishError> {
        let link = self.connected().await?;
        let Some((stream, retries)) = &self.0.stream else {
            return write(&link.client, subject, headers, payload).await;
        };
        let context = jetstream::new(link.client.clone());
        if stream.auto_provision {
            // Without a stream somebody else might take the message, and nobody would confirm it.
            let found = self
                .0
                .stream_stands
                .get_or_try_init(async || stream::find_or_make(&context, stream, &subject).await.map(drop));
            found.await.map_err(PublishError::Refused)?;
        }
        let mut left = *retries;
        loop {
            let sent = context
                .publish_with_headers(subject.clone(), headers.clone(), payload.clone())
                .await;
            let confirmed = match sent {
                Ok(confirmation) => confirmation.await.map(drop),
                Err(error) => Err(error),
            };
            let Err(error) = confirmed else { return Ok(()) };
            match error.kind() {
                jetstream::context::PublishErrorKind::MaxPayloadExceeded => return Err(unfit(error)),
                // Nobody has taken it: it can be sent again.
                jetstream::context::PublishErrorKind::StreamNotFound if left > 0 => {
                    left -= 1;
                    if stream.auto_provision {
                        stream::make(&context, stream)
                            .await
                            .map_err(PublishError::Refused)?;
                    } else {
                        sleep(RETRY).await;
                    }
                }
                _ => return Err(PublishError::Refused(error.to_string())),
            }
        }
    }
}

async fn write(
    client: &async_nats::Client,
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<(), PublishError> {
    let refused = |error: &dyn Error| PublishError::Refused(error.to_string());
    let sent = match headers.is_empty() {
        true => client.publish(subject, payload).await,
        false => client.publish_with_headers(subject, headers, payload).await,
    };
    sent.map_err(|error| match error.kind() {
        client::PublishErrorKind::MaxPayloadExceeded => unfit(error),
        _ => refused(&error),
    })?;
    client.flush().await.map_err(|error| refused(&error))
}

fn unfit(error: impl Error + Send + Sync + 'static) -> PublishError {
    PublishError::Unfit(Box::new(error))
}
