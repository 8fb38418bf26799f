//! The stream that is read, and the consumer by which it is.
//!
//! (EdgeX makes the stream when `AutoProvision` says so, and one push consumer for each topic, which acknowledges nothing.
//! Here one pull consumer takes all topics: what is pulled is what there is room for, and it is acknowledged when it is
//! done.)

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, DeliverPolicy, FromConsumer as _, Info, pull},
    context::GetStreamByNameErrorKind,
    stream,
};
use tracing::info;

use crate::{Deliver, StreamSettings, subject};

/// The server's patience when it says nothing of it.
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);

/// The server's patience with a consumer that is made here. What takes longer is said to be worked on each third of it,
/// so that it may be short: it is what a message waits that was in hand when the service was killed.
const ACK_WAIT: Duration = Duration::from_secs(6);

/// How long the server keeps a consumer without a name when nobody pulls: a server that restarts finds it again.
const INACTIVE: Duration = Duration::from_mins(5);

/// What is added to the name of a durable consumer of EdgeX's own kind, which cannot be read from here.
const OURS: &str = "-edgehold";

/// A consumer to pull from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    /// Tells this stream from others that had or will have its name.
    pub(crate) mark: String,
    /// How long the server waits for an answer before it delivers a message again.
    pub(crate) ack_wait: Duration,
}

/// Finds the stream that has these subjects, or makes it, and finds or makes the consumer.
pub(crate) async fn open(
    context: &Context,
    settings: &StreamSettings,
    subjects: &[String],
    max_ack_pending: i64,
) -> Result<Source, String> {
    let stream = find_or_make(context, settings, &subjects[0]).await?;
    let stream = context.get_stream(stream).await.map_err(|error| chain(&error))?;
    let found = stream.cached_info();
    let (name, mark) = (found.config.name.clone(), format!("{:?}", found.created));
    // Older servers know one filter only; what comes too much is left out here.
    let filter_subject = match subjects {
        [only] => only.clone(),
        _ => String::new(),
    };
    let mut durable = settings.durable.as_deref().map(subject::consumer_name);
    if let Some(text) = &mut durable
        && let Ok(existing) = stream.consumer_info(&*text).await
    {
        let config = &existing.config;
        let ours = config.deliver_subject.is_none() && config.ack_policy == AckPolicy::Explicit;
        if ours && config.filter_subject == filter_subject {
            return Ok(source(&existing, mark));
        }
        if ours {
            let mut config =
                pull::Config::try_from_consumer_config(config.clone()).map_err(|error| error.to_string())?;
            config.filter_subject = filter_subject;
            let changed = stream
                .create_consumer(config)
                .await
                .map_err(|error| chain(&error))?;
            return Ok(source(changed.cached_info(), mark));
        }
        info!(
            stream = name,
            consumer = text,
            "the consumer pushes and does not wait for answers: reading beside it"
        );
        text.push_str(OURS);
        if let Ok(existing) = stream.consumer_info(&*text).await
            && existing.config.filter_subject == filter_subject
        {
            return Ok(source(&existing, mark));
        }
    }
    let config = pull::Config {
        name: durable.clone(),
        inactive_threshold: match durable {
            Some(_) => Duration::ZERO,
            None => INACTIVE,
        },
        durable_name: durable,
        deliver_policy: match settings.deliver {
            Deliver::New => DeliverPolicy::New,
            Deliver::All => DeliverPolicy::All,
            Deliver::Last => DeliverPolicy::Last,
            Deliver::LastPerSubject => DeliverPolicy::LastPerSubject,
        },
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        filter_subject: match (settings.deliver, filter_subject.as_str()) {
            // The server wants to know which subjects these are.
            (Deliver::LastPerSubject, "") => ">".to_owned(),
            _ => filter_subject,
        },
        max_ack_pending,
        ..pull::Config::default()
    };
    let made = stream
        .create_consumer(config)
        .await
        .map_err(|error| chain(&error))?;
    Ok(source(made.cached_info(), mark))
}

fn source(info: &Info, mark: String) -> Source {
    Source {
        stream: info.stream_name.clone(),
        consumer: info.name.clone(),
        mark,
        ack_wait: match info.config.ack_wait {
            Duration::ZERO => DEFAULT_ACK_WAIT,
            wait => wait,
        },
    }
}

/// The name of the stream that has this subject, which is made where it may be.
pub(crate) async fn find_or_make(
    context: &Context,
    settings: &StreamSettings,
    subject: &str,
) -> Result<String, String> {
    match context.stream_by_subject(subject).await {
        Ok(name) => Ok(name),
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => {
            if !settings.auto_provision {
                return Err(format!(
                    "no stream has the subject '{subject}', and MessageBus/Optional/AutoProvision is not true"
                ));
            }
            make(context, settings).await
        }
        Err(error) => Err(chain(&error)),
    }
}

/// Makes the stream as EdgeX does.
pub(crate) async fn make(context: &Context, settings: &StreamSettings) -> Result<String, String> {
    let subject = subject::of_filter(&settings.subject)
        .map_err(|error| format!("MessageBus/Optional/Subject: {error}"))?;
    let name = match settings.stream_name.as_str() {
        "" => subject::stream_name(&subject),
        name => subject::consumer_name(name),
    };
    let config = stream::Config {
        name: name.clone(),
        subjects: vec![subject.clone()],
        ..stream::Config::default()
    };
    let made = context.get_or_create_stream(config).await;
    made.map_err(|error| chain(&error))?;
    info!(stream = name, subject, "made the stream");
    Ok(name)
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
