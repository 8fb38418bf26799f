//! Everything at once, and nobody waits for anything: events come all the time, while the server goes away in each of its
//! ways and comes back, the destination fails, answers late or breaks off, and the service is killed and told to end.
//!
//! A step draws from the seed what happens next. In the end everything is there again, and every event has to arrive: once
//! where the service lived through it, under one key where it was killed, and in the order of its device where that was
//! asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edgehold_test_support::{Answer, Behaviour, HttpSink, MqttPublisher, Postgres, Qos};
use serde_json::Value;

use super::{accepted, broker, each, idempotency_keys, server, service, start};
use crate::random::Random;
use crate::support::{Service, Stats, envelope, event, wait_accepted};

const DEVICES: u64 = 5;
/// So many may wait where there is a limit.
const MAX_ITEMS: &str = "60";
const EVENTS_A_STEP: u64 = 15;
/// A step takes up to so many milliseconds.
const LONGEST_STEP: u64 = 700;

/// How the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    There,
    Down,
    Frozen,
    OutOfConnections,
}

/// What a storm is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storm {
    pub(super) seed: u64,
    pub(super) steps: u64,
    pub(super) journal: &'static str,
    pub(super) ordered: bool,
    /// The service is killed and told to end, too.
    pub(super) kills: bool,
    /// So many instances of it share the events and the store.
    pub(super) instances: usize,
    /// What happens when more wait than [`MAX_ITEMS`].
    pub(super) when_full: Option<&'static str>,
}

fn nothing_waits(stats: &Stats) -> bool {
    stats.store("waiting") == 0 && stats.books("inFlight") == 0
}

/// An event of one of the devices.
fn message(number: u64) -> (String, Vec<u8>) {
    let device = format!("Device-{}", number % DEVICES);
    let mut event = event(number);
    event["deviceName"] = device.clone().into();
    event["readings"][0]["deviceName"] = device.clone().into();
    let topic = format!("edgex/events/device/device-test/Test-Profile/{device}/Value");
    (topic, envelope(&event))
}

async fn set(server: &mut Postgres, from: Server, to: Server) -> Result<()> {
    match from {
        Server::There => {}
        Server::Down => server.restart().await?,
        Server::Frozen => server.thaw()?,
        Server::OutOfConnections => {
            server.psql("postgres", "ALTER ROLE edgehold CONNECTION LIMIT -1")?;
        }
    }
    match to {
        Server::There => {}
        Server::Down => server.kill()?,
        Server::Frozen => server.freeze()?,
        Server::OutOfConnections => {
            server.psql("postgres", "ALTER ROLE edgehold CONNECTION LIMIT 0")?;
            let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'edgehold%'";
            server.psql("postgres", ends)?;
        }
    }
    Ok(())
}

/// A destination as the dice fall. It never accepts without saying so.
fn behave(sink: &HttpSink, random: &mut Random) {
    let failing = random.pick(&[0, 0, 20, 60, 100, 100]);
    let delay = Duration::from_millis(random.pick(&[0, 0, 0, 20, 150]));
    let mut dice = Random(random.next());
    sink.script(move |_| match dice.below(100) < failing {
        true if dice.below(4) == 0 => Behaviour::Reset,
        true => Behaviour::status(503),
        false => Answer::new(200).after(delay).into(),
    });
}

impl Storm {
    pub(super) async fn run(self) -> Result<()> {
        let mut random = Random(self.seed);
        let (mut postgres, mut broker, sink) = tokio::try_join!(server(), broker(), HttpSink::start())?;
        let ordering = if self.ordered { "device" } else { "none" };
        let mut services = Vec::new();
        for instance in 0..self.instances {
            let mut service = service(
                &postgres,
                &broker,
                &sink.url("/"),
                &format!("instance-{instance}"),
            )?
            .env("WRITABLE_STOREANDFORWARD_JOURNAL", self.journal)
            .env("WRITABLE_STOREANDFORWARD_ORDERING", ordering)
            .env("EDGEHOLD_ADMIN", "write")
            .env(
                "WRITABLE_STOREANDFORWARD_MAXITEMS",
                self.when_full.map_or("0", |_| MAX_ITEMS),
            )
            .env(
                "WRITABLE_STOREANDFORWARD_WHENFULL",
                self.when_full.unwrap_or("block"),
            )
            .env(
                "WRITABLE_PIPELINE_FUNCTIONS_HTTPEXPORT_PARAMETERS_REQUESTTIMEOUT",
                "20s",
            );
            start(&mut service, &mut broker).await?;
            services.push(service);
        }
        let mut publisher = MqttPublisher::connect(broker.port()).await?;
        let mut state = Server::There;
        let mut published = 0;
        let mut history = Vec::new();
        for step in 0..self.steps {
            let first = published + 1;
            published += EVENTS_A_STEP;
            let messages: Vec<_> = (first..=published).map(message).collect();
            let messages = messages
                .iter()
                .map(|(topic, bytes)| (topic.as_str(), bytes.clone()));
            publisher.publish_all(messages, Qos::AtLeastOnce).await?;
            if self.when_full.is_some() && step < self.steps / 2 {
                sink.behave(Behaviour::status(503));
            } else if random.below(3) == 0 {
                behave(&sink, &mut random);
            }
            if random.below(3) == 0 {
                let next = match state {
                    Server::There => random.pick(&[Server::Down, Server::Frozen, Server::OutOfConnections]),
                    _ => Server::There,
                };
                set(&mut postgres, state, next).await?;
                state = next;
                history.push(format!("{published} {state:?}"));
            }
            if self.kills && random.below(8) == 0 {
                let which = random.pick(&[0, self.instances - 1]);
                let service = &mut services[which];
                match random.below(2) {
                    0 => service.kill9()?,
                    _ => drop(service.terminate().await?),
                }
                history.push(format!("{published} {which} ended"));
                start(service, &mut broker).await?;
            }
            tokio::time::sleep(Duration::from_millis(random.below(LONGEST_STEP))).await;
        }
        set(&mut postgres, state, Server::There).await?;
        sink.behave(Behaviour::status(200));
        if self.when_full.is_some_and(|then| then != "block") {
            return self.check_what_is_missing(&services, &sink, published).await;
        }
        // What is set aside is overtaken.
        let mut keeps_order = self.ordered;
        for service in &services {
            let stats = service.wait_stats("nothing to wait", nothing_waits).await;
            ensure!(stats.books("dropped") == 0, "{stats:?}");
            if stats.store("error") > 0 {
                self.bring_back(service)?;
                keeps_order = false;
            }
        }
        wait_accepted(&sink, 1..=published).await;
        let mut completed = 0;
        for service in &services {
            service.wait_nothing_left().await;
            completed += service.stats().await?.books("completed");
        }
        // What is killed takes its books along.
        ensure!(
            self.kills || completed == published,
            "{completed} of {published} in the books"
        );
        self.check(&sink, published)
            .and_then(|()| if keeps_order { in_order(&sink) } else { Ok(()) })
            .with_context(|| format!("{self:?}, {history:?}"))
    }

    /// What has not arrived was dropped by name, or is in the error collection.
    async fn check_what_is_missing(
        &self,
        services: &[Service],
        sink: &HttpSink,
        published: u64,
    ) -> Result<()> {
        let (mut received, mut dropped, mut set_aside) = (0, 0, 0);
        while received < published {
            (received, dropped) = (0, 0);
            for service in services {
                let stats = service.wait_stats("nothing to wait", nothing_waits).await;
                received += stats.books("received");
                dropped += stats.books("droppedCapacity");
                ensure!(
                    stats.books("dropped") == stats.books("droppedCapacity"),
                    "{stats:?}"
                );
                set_aside = stats.store("error");
            }
        }
        let accepted = accepted(sink);
        ensure!(
            accepted.values().all(|times| *times == 1),
            "accepted again: {accepted:?}"
        );
        let arrived = accepted.len() as u64;
        ensure!(
            arrived + dropped + set_aside == published && dropped + set_aside > 0,
            "of {published} {arrived} have arrived, {dropped} were dropped, {set_aside} set aside"
        );
        Ok(())
    }

    /// What was in flight at three ends in a row that the server did not see is set aside: nobody knows why it ended.
    fn bring_back(&self, service: &Service) -> Result<()> {
        let listed = service.error_collection()?;
        let crashed = |object: &Value| object["reason"] == "crashed";
        ensure!(self.kills && listed.iter().all(crashed), "set aside: {listed:?}");
        let output = service.run(&["dead", "redrive", "--all"])?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }

    fn check(&self, sink: &HttpSink, published: u64) -> Result<()> {
        let keys = idempotency_keys(sink);
        let many: Vec<_> = keys.iter().filter(|(_, keys)| keys.len() > 1).collect();
        ensure!(many.is_empty(), "events under several keys: {many:?}");
        if self.kills {
            return Ok(());
        }
        let again: Vec<_> = accepted(sink)
            .into_iter()
            .filter(|(_, times)| *times > 1)
            .collect();
        ensure!(again.is_empty(), "accepted again: {again:?}");
        ensure!(accepted(sink) == each(1..=published, 1));
        Ok(())
    }
}

/// The events of each device have arrived in the order in which they were sent. One that came again has arrived before.
fn in_order(sink: &HttpSink) -> Result<()> {
    let mut arrived: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for request in sink
        .requests()
        .iter()
        .filter(|request| request.status == Some(200))
    {
        let event = request.json();
        let device = event["deviceName"].as_str().context("a name")?.to_owned();
        let number: u64 = event["readings"][0]["value"]
            .as_str()
            .context("a value")?
            .parse()?;
        let before = arrived.entry(device).or_default();
        if before.insert(number) {
            ensure!(
                before.last() == Some(&number),
                "{number} came behind {:?}",
                before.last()
            );
        }
    }
    Ok(())
}
