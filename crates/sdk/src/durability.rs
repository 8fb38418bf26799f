//! What stands between an enabled Store and Forward and its promise that what was acknowledged is durable: settings that
//! leave it empty, a broker that grants less than was asked for, and devices that publish with less than was granted.
//!
//! Owns what is said about it: one line that names every such key and what is lost, when the service starts and whenever
//! that has changed since; one more when the broker's answer is known, and when the first such message has come. With
//! Store and Forward switched off nothing is promised, and nothing is said.

use std::sync::Arc;

use edgehold_config::{Writable, configuration::PipelineSettings};
use edgehold_core::{ShutdownSignal, parse_go_bool};
use edgehold_mqtt::Qos;
use tokio::sync::watch;

/// Where a session's settings stand.
#[derive(Clone, Copy)]
pub(crate) struct SessionKeys {
    pub(crate) qos: &'static str,
    pub(crate) clean_session: &'static str,
}

/// How the session at a broker was asked for. None of it changes while the service runs.
pub(crate) struct BusSession {
    pub(crate) keys: SessionKeys,
    /// What subscriptions ask for.
    pub(crate) qos: Qos,
    /// Whether the broker forgets the service when it leaves.
    pub(crate) clean_session: bool,
    /// The lowest that the broker has granted; none while that is not known.
    pub(crate) granted: watch::Receiver<Option<Qos>>,
    /// The topic of the first message that was published with less than that.
    pub(crate) published_lower: watch::Receiver<Option<String>>,
}

/// What the message bus does for the promise.
pub(crate) enum BusPromise {
    /// It keeps what is not acknowledged, as far as the session asks for that.
    Session(BusSession),
    /// It loses this, whatever a session could ask for.
    Gaps(Vec<&'static str>),
}

/// What the promise stands on beside the settings that change.
#[derive(Default)]
pub(crate) struct Durability {
    /// None for a trigger of the developer's own, which answers for itself.
    pub(crate) bus: Option<BusPromise>,
    /// Whether there are functions or pipelines of the developer's own. They may keep what failed without a parameter
    /// that says so.
    pub(crate) own_functions: bool,
}

impl Durability {
    /// Says what is lost, now and whenever it changes, until told to end.
    pub(crate) async fn follow(
        mut self,
        mut writable: watch::Receiver<Arc<Writable>>,
        mut shutdown: ShutdownSignal,
    ) {
        let mut told = [None, None, None];
        loop {
            let now = {
                let writable = writable.borrow_and_update();
                [
                    self.settings_gap(&writable),
                    self.broker_gap(&writable),
                    self.publisher_gap(&writable),
                ]
            };
            for (now, told) in now.into_iter().zip(&mut told) {
                if let Some(line) = now.as_ref().filter(|_| now != *told) {
                    tracing::warn!("{line}");
                }
                *told = now;
            }
            // All cancel-safe: what changed is read anew in the next turn.
            tokio::select! {
                () = shutdown.recv() => return,
                changed = writable.changed() => if changed.is_err() {
                    return shutdown.recv().await;
                },
                () = bus_changed(self.bus.as_mut()) => {}
            }
        }
    }

    fn session(&self) -> Option<&BusSession> {
        match self.bus.as_ref()? {
            BusPromise::Session(session) => Some(session),
            BusPromise::Gaps(_) => None,
        }
    }

    /// Which settings leave the promise empty, and what is lost by each.
    fn settings_gap(&self, writable: &Writable) -> Option<String> {
        if !writable.store_and_forward.enabled {
            return None;
        }
        let mut gaps = Vec::new();
        if let Some(BusPromise::Gaps(lost)) = &self.bus {
            gaps.extend(lost.iter().map(|gap| (*gap).to_owned()));
        }
        if let Some(bus) = self.session() {
            let SessionKeys { qos, clean_session } = bus.keys;
            if bus.qos == Qos::AtMostOnce {
                gaps.push(format!(
                    "with {qos} 0 what is in hand when the service is killed, and what is published while it is away, is \
                     lost"
                ));
            }
            if bus.clean_session {
                gaps.push(format!(
                    "with {clean_session} true what is published while the service is away is lost"
                ));
            }
        }
        if !self.own_functions && !any_persists(&writable.pipeline) {
            gaps.push(
                "with Writable/Pipeline/Functions/<name>/Parameters/PersistOnError true for no function of a pipeline \
                 what fails to be exported is dropped"
                    .to_owned(),
            );
        }
        let told = || {
            format!(
                "Store and Forward is enabled, but does not keep everything: {}",
                gaps.join("; ")
            )
        };
        (!gaps.is_empty()).then(told)
    }

    /// Whether the broker has granted less than the settings ask for.
    fn broker_gap(&self, writable: &Writable) -> Option<String> {
        let bus = self.session()?;
        let lower = bus.granted.borrow().is_some_and(|granted| granted < bus.qos);
        (lower && writable.store_and_forward.enabled).then(|| {
            format!(
                "Store and Forward is enabled, but does not keep everything: the broker grants QoS 0 although {} asks for \
                 1: what is in hand when the service is killed, and what is published while it is away, is lost",
                bus.keys.qos
            )
        })
    }

    /// Whether others publish with less than is subscribed for.
    fn publisher_gap(&self, writable: &Writable) -> Option<String> {
        let topic = self.session()?.published_lower.borrow().clone()?;
        writable.store_and_forward.enabled.then(|| {
            format!(
                "Store and Forward is enabled, but does not keep everything: messages are published with QoS 0 (the first \
                 one to '{topic}'), and of these what is in hand when the service is killed, and what is published while it \
                 is away, is lost; let the publishers use QoS 1 too"
            )
        })
    }
}

/// Returns when more is known of the bus. Pends where nothing ever will be.
async fn bus_changed(bus: Option<&mut BusPromise>) {
    let Some(BusPromise::Session(bus)) = bus else {
        return std::future::pending().await;
    };
    tokio::select! {
        Ok(()) = bus.granted.changed() => {}
        Ok(()) = bus.published_lower.changed() => {}
        // The trigger has ended.
        else => std::future::pending().await,
    }
}

/// Whether one function of a pipeline keeps what it failed to export.
fn any_persists(pipeline: &PipelineSettings) -> bool {
    let per_topic = pipeline
        .per_topic
        .values()
        .map(|pipeline| &pipeline.execution_order);
    let mut names = std::iter::once(&pipeline.execution_order)
        .chain(per_topic)
        .flatten();
    names.any(|name| {
        let mut parameters = pipeline.functions.get(name).into_iter().flatten();
        parameters.any(|(name, value)| {
            name.eq_ignore_ascii_case("PersistOnError") && parse_go_bool(value.trim()) == Some(true)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writable(enabled: bool, persist: &str) -> Writable {
        let mut writable = Writable::default();
        writable.store_and_forward.enabled = enabled;
        writable.pipeline.execution_order = vec!["HTTPExport2".to_owned()];
        let parameters = [("persistonerror".to_owned(), persist.to_owned())];
        writable
            .pipeline
            .functions
            .insert("HTTPExport2".to_owned(), parameters.into());
        let unused = [("PersistOnError".to_owned(), "true".to_owned())];
        writable
            .pipeline
            .functions
            .insert("HTTPExport".to_owned(), unused.into());
        writable
    }

    fn bus(qos: Qos, clean_session: bool, granted: Option<Qos>) -> Durability {
        Durability {
            bus: Some(BusPromise::Session(BusSession {
                keys: SessionKeys {
                    qos: "MessageBus/Optional/Qos",
                    clean_session: "MessageBus/Optional/CleanSession",
                },
                qos,
                clean_session,
                granted: watch::channel(granted).1,
                published_lower: watch::channel(None).1,
            })),
            own_functions: false,
        }
    }

    #[test]
    fn each_setting_that_leaves_the_promise_empty_is_named_in_one_line() {
        let keys = |durability: &Durability, writable: &Writable| {
            let line = durability.settings_gap(writable).unwrap_or_default();
            assert!(!line.contains('\n'), "{line}");
            ["Optional/Qos", "Optional/CleanSession", "PersistOnError"].map(|key| line.contains(key))
        };
        let (keeps, drops) = (writable(true, "true"), writable(true, "false"));
        let good = bus(Qos::AtLeastOnce, false, None);
        assert_eq!(good.settings_gap(&keeps), None);
        assert_eq!(keys(&good, &drops), [false, false, true]);
        let worst = bus(Qos::AtMostOnce, true, None);
        assert_eq!(keys(&worst, &keeps), [true, true, false]);
        assert_eq!(keys(&worst, &drops), [true, true, true]);
        assert_eq!(worst.settings_gap(&writable(false, "false")), None);
    }

    #[test]
    fn a_bus_that_keeps_nothing_is_named() {
        let keeps = writable(true, "true");
        let mut durability = bus(Qos::AtLeastOnce, false, None);
        durability.bus = Some(BusPromise::Gaps(vec!["with MessageBus/Type redis all is lost"]));
        let line = durability.settings_gap(&keeps).expect("a gap");
        assert!(
            line.ends_with("keep everything: with MessageBus/Type redis all is lost"),
            "{line}"
        );
        assert_eq!(durability.broker_gap(&keeps), None);
        assert_eq!(durability.settings_gap(&writable(false, "true")), None);
    }

    #[test]
    fn functions_of_ones_own_answer_for_themselves() {
        let durability = Durability {
            own_functions: true,
            ..Durability::default()
        };
        assert_eq!(durability.settings_gap(&writable(true, "false")), None);
    }

    #[test]
    fn a_function_of_a_per_topic_pipeline_counts_as_well() {
        let mut writable = writable(true, "true");
        let order = std::mem::take(&mut writable.pipeline.execution_order);
        assert!(!any_persists(&writable.pipeline));
        let per_topic = edgehold_config::configuration::PerTopicPipeline {
            id: "p".to_owned(),
            topics: Vec::new(),
            execution_order: order,
        };
        writable.pipeline.per_topic.insert("P".to_owned(), per_topic);
        assert!(any_persists(&writable.pipeline));
    }

    #[test]
    fn a_broker_that_grants_less_is_told_of_once_its_answer_is_known() {
        let (on, off) = (writable(true, "true"), writable(false, "true"));
        let gap = |granted| bus(Qos::AtLeastOnce, false, granted).broker_gap(&on);
        assert_eq!(gap(None), None);
        assert_eq!(gap(Some(Qos::AtLeastOnce)), None);
        assert!(
            gap(Some(Qos::AtMostOnce))
                .unwrap()
                .contains("MessageBus/Optional/Qos")
        );
        let granted_less = bus(Qos::AtLeastOnce, false, Some(Qos::AtMostOnce));
        assert_eq!(granted_less.broker_gap(&off), None);
        let asked_for = bus(Qos::AtMostOnce, false, Some(Qos::AtMostOnce));
        assert_eq!(asked_for.broker_gap(&on), None);
    }
}
