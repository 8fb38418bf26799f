//! The names of the metrics that a service has by itself.

use crate::names::Kind::{Counter, Gauge, Histogram, Timer};

/// What a metric counts or measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `counter-count`.
    Counter,
    /// `gauge-value`.
    Gauge,
    /// `timer-…`.
    Timer,
    /// `histogram-…`.
    Histogram,
}

/// Messages that came, whatever the trigger.
pub const MESSAGES_RECEIVED: &str = "MessagesReceived";
/// Of these: those that could not be decoded.
pub const INVALID_MESSAGES_RECEIVED: &str = "InvalidMessagesReceived";
/// Messages that went into a pipeline.
pub const PIPELINE_MESSAGES_PROCESSED: &str = "PipelineMessagesProcessed";
/// How long a pipeline took for a message.
pub const PIPELINE_MESSAGE_PROCESSING_TIME: &str = "PipelineMessageProcessingTime";
/// Attempts that failed in a pipeline, retries included.
pub const PIPELINE_PROCESSING_ERRORS: &str = "PipelineProcessingErrors";
/// The bytes of each request that was accepted.
pub const HTTP_EXPORT_SIZE: &str = "HttpExportSize";
/// Requests that were refused or not answered.
pub const HTTP_EXPORT_ERRORS: &str = "HttpExportErrors";
/// The bytes of each message that was published by `MQTTExport`.
pub const MQTT_EXPORT_SIZE: &str = "MqttExportSize";
/// Messages that could not be published by `MQTTExport`.
pub const MQTT_EXPORT_ERRORS: &str = "MqttExportErrors";
/// Objects that wait in the store for another attempt.
pub const STORE_FORWARD_QUEUE_SIZE: &str = "StoreForwardQueueSize";
/// How often a secret was asked for.
pub const SECURITY_SECRETS_REQUESTED: &str = "SecuritySecretsRequested";
/// How often a secret was added, changed or removed.
pub const SECURITY_SECRETS_STORED: &str = "SecuritySecretsStored";
/// Objects in the error collection. Ours.
pub const STORE_FORWARD_DEAD_LETTERS: &str = "StoreForwardDeadLetters";
/// Runs whose data is gone, for each reason. Ours.
pub const RUNS_DROPPED: &str = "RunsDropped";
/// 1 while a destination does not answer and is only probed, for each destination. Ours.
pub const BREAKER_OPEN: &str = "BreakerOpen";
/// Settings that are rejected now. Ours.
pub const CONFIGURATION_REJECTED: &str = "ConfigurationRejected";
/// Metrics that could not be reported. Ours.
pub const METRICS_SKIPPED: &str = "MetricsSkipped";

/// Tag of what is of one pipeline.
pub const PIPELINE_TAG: &str = "pipeline";
/// Tag of what is of one URL.
pub const URL_TAG: &str = "url";
/// Tag of what is of one broker and topic.
pub const ADDRESS_TOPIC_TAG: &str = "address/topic";
/// Tag of what is of one reason.
pub const REASON_TAG: &str = "reason";
/// Tag of what is of one destination.
pub const DESTINATION_TAG: &str = "destination";

/// Every metric a service has by itself: its name, kind and the tag of its own.
pub const BUILT_IN: &[(&str, Kind, Option<&str>)] = &[
    (MESSAGES_RECEIVED, Counter, None),
    (INVALID_MESSAGES_RECEIVED, Counter, None),
    (PIPELINE_MESSAGES_PROCESSED, Counter, Some(PIPELINE_TAG)),
    (PIPELINE_MESSAGE_PROCESSING_TIME, Timer, Some(PIPELINE_TAG)),
    (PIPELINE_PROCESSING_ERRORS, Counter, Some(PIPELINE_TAG)),
    (HTTP_EXPORT_SIZE, Histogram, Some(URL_TAG)),
    (HTTP_EXPORT_ERRORS, Counter, Some(URL_TAG)),
    (MQTT_EXPORT_SIZE, Histogram, Some(ADDRESS_TOPIC_TAG)),
    (MQTT_EXPORT_ERRORS, Counter, Some(ADDRESS_TOPIC_TAG)),
    (STORE_FORWARD_QUEUE_SIZE, Counter, None),
    (SECURITY_SECRETS_REQUESTED, Counter, None),
    (SECURITY_SECRETS_STORED, Counter, None),
    (STORE_FORWARD_DEAD_LETTERS, Gauge, None),
    (RUNS_DROPPED, Counter, Some(REASON_TAG)),
    (BREAKER_OPEN, Gauge, Some(DESTINATION_TAG)),
    (CONFIGURATION_REJECTED, Gauge, None),
    (METRICS_SKIPPED, Counter, None),
];

/// Whether a registered name would be taken for one of a service's own.
pub(crate) fn is_built_in(registered: &str) -> bool {
    BUILT_IN.iter().any(|(name, ..)| {
        let rest = registered.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configured name means every metric that begins with it: one of ours must not come along unasked.
    #[test]
    fn no_name_begins_with_another() {
        for (name, ..) in BUILT_IN {
            let begun = BUILT_IN.iter().filter(|(other, ..)| other.starts_with(name));
            assert_eq!(begun.count(), 1, "{name}");
        }
    }
}
