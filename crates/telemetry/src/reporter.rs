//! Reporting: when, what, and what becomes of a metric that cannot be published.
//!
//! ```text
//!   start, or switched on          due                       next due
//!   ──────┬──── interval ──────────┬──────── interval ─────────┬───▶
//!         │                        │ one pass: each selected metric is published, one after the other
//!         └ nothing is reported    └ what is not out when the next pass is due, or when the bus is away, is skipped
//! ```
//!
//! Nothing waits in memory: the next pass says everything again. A changed interval counts from the last pass, so that a
//! shorter one acts at once; names and tags are read with each pass.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use edgehold_config::{Writable, configuration::Telemetry};
use edgehold_contracts::{MetricTag, Payload};
use edgehold_core::{
    BoxFuture, ErrorClass, MessagePublisher, OutgoingMessage, PublishError, ServiceKey, ShutdownSignal,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{Selection, Series, ServiceMetrics, secrets::count_stored};

/// Metrics that are kept somewhere, read whenever they are to be reported.
pub trait Source: Send + Sync {
    /// The metrics that are there, at least those that are selected; what cannot be said now is left out. Answers within
    /// bounded time. Cancel-safe.
    fn read<'a>(&'a self, selection: Selection<'a>) -> BoxFuture<'a, Vec<Series>>;
}

/// Publishes metrics to the message bus.
pub struct Reporter {
    /// The service: the third level of every topic, and the tag `service`.
    pub service_key: ServiceKey,
    /// The live settings.
    pub settings: watch::Receiver<Arc<Writable>>,
    /// What there is to report.
    pub sources: Vec<Arc<dyn Source>>,
    /// The message bus; none where there is none. Its messages are at most once and in envelopes of their generation.
    pub publisher: Option<Arc<dyn MessagePublisher>>,
    /// Counts what is skipped, and the secrets that are stored.
    pub metrics: Arc<ServiceMetrics>,
}

/// What has been said already.
#[derive(Default)]
struct Said {
    /// That there is no message bus.
    no_bus: bool,
    /// That the bus does not take metrics.
    away: bool,
    /// The configured names nothing can be published by.
    unpublishable: BTreeSet<String>,
}

/// How a pass ended.
enum Pass {
    /// Everything that was selected was published, or never can be.
    Complete,
    /// The bus did not take the rest.
    Broken(PublishError),
    /// The next one is due.
    Late,
}

impl Reporter {
    /// Reports until told to end.
    pub async fn run(self, mut shutdown: ShutdownSignal) {
        let stored = count_stored(self.settings.clone(), self.metrics.secrets_stored.clone());
        let following = async {
            tokio::join!(stored, self.report_for_ever());
        };
        tokio::select! {
            () = shutdown.recv() => {}
            () = following => shutdown.recv().await,
        }
    }

    async fn report_for_ever(&self) {
        let mut settings = self.settings.clone();
        let mut may_change = true;
        let mut said = Said::default();
        let mut interval = settings.borrow_and_update().telemetry.interval;
        if let Some(interval) = interval {
            tracing::info!("Metrics Manager started with a report interval of {interval:?}");
        }
        // The last pass, or when reporting began.
        let mut last = Instant::now();
        loop {
            let due = interval.and_then(|interval| last.checked_add(interval));
            // Cancel-safe: a change stays unseen until it has been taken here, and a moment comes again.
            tokio::select! {
                changed = settings.changed(), if may_change => {
                    may_change = changed.is_ok();
                    let before = interval;
                    interval = settings.borrow_and_update().telemetry.interval;
                    if before.is_none() {
                        last = Instant::now();
                    }
                    if interval != before {
                        tell_interval(interval);
                    }
                }
                () = at(due) => {
                    last = Instant::now();
                    self.pass(last, &mut said).await;
                }
            }
        }
    }

    /// Reports once. Ends when the next report is due.
    async fn pass(&self, began: Instant, said: &mut Said) {
        let settings = self.settings.borrow().clone();
        let telemetry = &settings.telemetry;
        let selection = Selection::new(&telemetry.metrics);
        if selection.is_empty() {
            return;
        }
        let Some(publisher) = &self.publisher else {
            if !std::mem::replace(&mut said.no_bus, true) {
                tracing::warn!(
                    "metrics are switched on in Writable/Telemetry/Metrics, but there is no message bus to report them to: \
                     MessageBus is disabled or not configured"
                );
            }
            return;
        };
        let mut left = 0;
        let reported = self.publish(telemetry, &**publisher, &mut left, said);
        let end = telemetry
            .interval
            .and_then(|interval| began.checked_add(interval));
        let pass = match end {
            Some(end) => timeout_at(end, reported).await.unwrap_or(Pass::Late),
            None => reported.await,
        };
        self.metrics.metrics_skipped.add(left);
        let trouble = match pass {
            Pass::Complete => {
                if std::mem::take(&mut said.away) {
                    tracing::info!("metrics are reported again");
                }
                return;
            }
            Pass::Broken(error) => with_causes(&error),
            Pass::Late => "the message bus took longer than Writable/Telemetry/Interval".to_owned(),
        };
        if !std::mem::replace(&mut said.away, true) {
            tracing::warn!(
                skipped = left,
                "metrics are skipped until the message bus takes them again: {trouble}"
            );
        }
    }

    /// Publishes one metric after the other. `left` is how many of those known are not out, at every moment.
    async fn publish(
        &self,
        telemetry: &Telemetry,
        publisher: &dyn MessagePublisher,
        left: &mut i64,
        said: &mut Said,
    ) -> Pass {
        let selection = Selection::new(&telemetry.metrics);
        let mut selected = Vec::new();
        for source in &self.sources {
            for series in source.read(selection).await {
                if let Some(name) = selection.configured_name(&series.name) {
                    selected.push((name, series));
                    *left += 1;
                }
            }
        }
        let tags = self.common_tags(telemetry);
        let now = nanoseconds_since_1970();
        for (name, series) in selected {
            let payload = Payload::json(&series.to_metric(name, &tags, now))
                .expect("a metric is text and numbers, which all have a JSON form");
            let message = OutgoingMessage {
                topic: format!("telemetry/{}/{name}", self.service_key),
                payload,
                content_type: "application/json".to_owned(),
                correlation_id: None,
            };
            match publisher.publish(message).await {
                Ok(()) => *left -= 1,
                Err(error) if error.class() == ErrorClass::Permanent => {
                    if said.unpublishable.insert(name.to_owned()) {
                        tracing::warn!(
                            metric = name,
                            "a metric cannot be reported: {}",
                            with_causes(&error)
                        );
                    }
                }
                Err(error) => return Pass::Broken(error),
            }
        }
        Pass::Complete
    }

    /// What every metric is tagged with: the configured tags, then the service.
    fn common_tags(&self, telemetry: &Telemetry) -> Vec<MetricTag> {
        let configured = telemetry.tags.iter().filter(|(name, _)| !name.trim().is_empty());
        let configured = configured.map(|(name, value)| MetricTag::new(name, value));
        let service = MetricTag::new("service", self.service_key.as_str());
        configured.chain([service]).collect()
    }
}

/// Waits for a moment; for one that never comes, for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn tell_interval(interval: Option<Duration>) {
    match interval {
        Some(interval) => tracing::info!("Metrics Manager report interval changed to {interval:?}"),
        None => tracing::info!("metrics are no longer reported: Writable/Telemetry/Interval is 0s"),
    }
}

/// The time of the metrics, as EdgeX writes it down. Before 1970 it is 0.
fn nanoseconds_since_1970() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
