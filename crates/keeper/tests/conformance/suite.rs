//! The suite of all configuration providers: woken by notices, and by time alone.

use std::{sync::Arc, time::Duration};

use edgehold_config::{
    Edit, Section,
    conformance::{Behind, TestProvider},
};
use edgehold_core::BoxFuture;
use edgehold_keeper::{NoticeSender, PollIntervals};
use edgehold_test_support::{Behaviour, Keeper};
use tokio::task::JoinSet;

use crate::{ALL_SERVICES, APP_SERVICES, NEVER, PRIVATE, polling};

mod told {
    edgehold_config::provider_conformance!(super::told_of);
    edgehold_config::key_value_conformance!(super::told_of);
}

mod polled {
    edgehold_config::provider_conformance!(super::never_told);
    edgehold_config::key_value_conformance!(super::never_told);
}

/// An empty Core Keeper whose notices arrive.
async fn told_of() -> TestProvider {
    fresh(NEVER, true).await
}

/// An empty Core Keeper without a message bus.
async fn never_told() -> TestProvider {
    let often = Duration::from_millis(20);
    let poll = PollIntervals {
        listening: often,
        deaf: often,
    };
    fresh(poll, false).await
}

async fn fresh(poll: PollIntervals, listening: bool) -> TestProvider {
    let keeper = Arc::new(Keeper::start().await.expect("a port is free"));
    let (provider, notices) = polling(keeper.port(), poll);
    let mut forwarding = JoinSet::new();
    if listening {
        notices.set_listening(true);
        forwarding.spawn(forward(keeper.clone(), notices));
    }
    TestProvider {
        provider,
        behind: Box::new(InKeeper {
            keeper,
            _forwarding: forwarding,
        }),
        is_legal: |path| {
            path.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_~;=./".contains(c))
        },
    }
}

struct InKeeper {
    keeper: Arc<Keeper>,
    _forwarding: JoinSet<()>,
}

/// Tells of notices as a message bus would: a moment later.
async fn forward(keeper: Arc<Keeper>, notices: NoticeSender) {
    let mut told = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let there = keeper.notices().len();
        if there > told {
            told = there;
            notices.tell();
        }
    }
}

impl Behind for InKeeper {
    fn edit<'a>(&'a self, edits: &'a [Edit]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut together = Vec::new();
            for edit in edits {
                let section = match edit.section {
                    Section::AllServices => ALL_SERVICES,
                    Section::AppServices => APP_SERVICES,
                    Section::Private => PRIVATE,
                };
                let key = format!("{section}/{}", edit.path);
                let is_plain = edit
                    .path
                    .split('/')
                    .all(|level| !matches!(level, "" | "." | ".."));
                match &edit.text {
                    Some(text) if is_plain => together.push((key, text.as_str())),
                    Some(text) => self.keeper.put(&key, text).await.expect("Keeper takes the key"),
                    // It may not be there.
                    None => drop(self.keeper.delete(&key, false).await),
                }
            }
            if !together.is_empty() {
                let below = |(key, text): &(String, _)| (key["edgex/v4/".len()..].to_owned(), *text);
                let leaves: Vec<(String, &str)> = together.iter().map(below).collect();
                let put = self.keeper.put_all("edgex/v4", &leaves).await;
                put.expect("Keeper takes the keys");
            }
        })
    }

    fn set_away(&self, away: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.keeper.fault(away.then_some(Behaviour::Reset)) })
    }

    fn set_ready(&self, ready: bool) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let key = "edgex/v4/core-common-config-bootstrapper/IsCommonConfigReady";
            let put = self.keeper.put(key, &ready.to_string()).await;
            put.expect("Keeper takes the key");
        })
    }
}
