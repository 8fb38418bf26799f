//! Following changes.

use edgehold_core::Shutdown;
use tokio::{sync::watch, time::timeout};

use super::{LONG, Outcome, TestProvider, check, leaf, same, snapshot_of};
use crate::{
    Edit,
    Section::{AllServices, AppServices, Private},
};

pub(super) async fn the_first_snapshot_comes_by_itself(test: &TestProvider) -> Outcome {
    test.given().await;
    let expected = snapshot_of(&[
        (AllServices, "Writable/LogLevel", "INFO"),
        (AppServices, "Writable/StoreAndForward/RetryInterval", "5m"),
        (Private, "Writable/LogLevel", "DEBUG"),
    ]);
    test.watched(async |mut told| {
        let first = told.until("the first snapshot", |_| true, |_| Ok(())).await?;
        same("the first snapshot", first, expected)
    })
    .await
}

pub(super) async fn every_change_of_every_section_is_told(test: &TestProvider) -> Outcome {
    test.given().await;
    test.watched(async |mut told| {
        told.text(Private, "Writable/LogLevel", "DEBUG").await?;
        for section in [AllServices, AppServices, Private] {
            // One that is there in some sections, and one that is new.
            for (path, text) in [
                ("Writable/LogLevel", "WARN"),
                ("Writable/New", "1"),
                ("Writable/New", "2"),
            ] {
                test.set(&[(section, path, text)]).await;
                told.text(section, path, text).await?;
            }
        }
        let last = told.text(Private, "Writable/New", "2").await?;
        same(
            "what the other sections were told to be",
            (
                leaf(&last, AllServices, "Writable/New"),
                leaf(&last, AppServices, "Writable/StoreAndForward/RetryInterval"),
            ),
            (Some("2"), Some("5m")),
        )
    })
    .await
}

pub(super) async fn a_leaf_that_is_removed_is_gone(test: &TestProvider) -> Outcome {
    test.given().await;
    test.set(&[
        (AllServices, "Writable/Gone", "1"),
        (AppServices, "Writable/Gone", "1"),
        (Private, "Writable/Gone", "1"),
    ])
    .await;
    test.watched(async |mut told| {
        told.text(Private, "Writable/Gone", "1").await?;
        for section in [AllServices, AppServices, Private] {
            test.remove(section, "Writable/Gone").await;
            let gone = |now: &_| leaf(now, section, "Writable/Gone").is_none();
            told.until(&format!("{section:?} without the leaf"), gone, |_| Ok(()))
                .await?;
        }
        Ok(())
    })
    .await
}

pub(super) async fn only_what_is_writable_is_told(test: &TestProvider) -> Outcome {
    test.given().await;
    test.set(&[
        (AllServices, "Service/RequestTimeout", "5s"),
        (AppServices, "Trigger/Type", "http"),
        (Private, "WritableX/LogLevel", "1"),
    ])
    .await;
    test.watched(async |mut told| {
        test.set_private("Service/Port", "1").await;
        test.set_private("Writable/Last", "1").await;
        let is_writable = |now: &crate::Snapshot| {
            let layers = [&now.all_services, &now.app_services, &now.private];
            let mut paths = layers.into_iter().flatten().flat_map(|layer| layer.iter());
            match paths.find(|(path, _)| !path.starts_with("Writable/")) {
                Some((path, _)) => Err(format!("{path} was told")),
                None => Ok(()),
            }
        };
        let last = |now: &_| leaf(now, Private, "Writable/Last").is_some();
        told.until("the last change", last, is_writable).await.map(drop)
    })
    .await
}

pub(super) async fn what_changes_together_in_a_section_is_told_together(test: &TestProvider) -> Outcome {
    const ROUNDS: usize = 20;
    let set = async |round: usize| {
        let round = round.to_string();
        test.set(&[
            (Private, "Writable/A", round.as_str()),
            (Private, "Writable/Z", &round),
        ])
        .await;
    };
    test.given().await;
    set(0).await;
    test.watched(async |mut told| {
        told.text(Private, "Writable/Z", "0").await?;
        let writing = async {
            for round in 1..=ROUNDS {
                set(round).await;
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        let reading = async {
            let together = |now: &_| {
                let (a, z) = (leaf(now, Private, "Writable/A"), leaf(now, Private, "Writable/Z"));
                same("two leaves that change together", a, z)
            };
            let last = ROUNDS.to_string();
            let is_last = |now: &_| leaf(now, Private, "Writable/Z") == Some(&last);
            told.until("the last round", is_last, together).await.map(drop)
        };
        tokio::try_join!(writing, reading).map(drop)
    })
    .await
}

pub(super) async fn what_is_the_same_again_is_not_told(test: &TestProvider) -> Outcome {
    test.given().await;
    test.watched(async |mut told| {
        let before = told.text(Private, "Writable/LogLevel", "DEBUG").await?;
        for round in 0..5 {
            // The same text, and something that is not told; then a change, by which it is seen that both were.
            test.set_private("Writable/LogLevel", "DEBUG").await;
            test.set_private("Service/Port", &round.to_string()).await;
            let mut seen = before.clone();
            if round > 0 {
                let text = (round - 1).to_string();
                let private = seen.private.get_or_insert_default();
                private.insert("Writable/Round", text);
            }
            let text = round.to_string();
            test.set_private("Writable/Round", &text).await;
            // Whoever is told something is told something else than before.
            let changed = timeout(LONG, told.snapshots.changed()).await;
            check(matches!(changed, Ok(Ok(()))), "a change was not told")?;
            let now = told.snapshots.borrow_and_update().clone();
            check(now.as_ref() != Some(&seen), "the same was told again")?;
            told.text(Private, "Writable/Round", &text).await?;
        }
        Ok(())
    })
    .await
}

pub(super) async fn while_it_is_away_nothing_is_told_and_afterwards_what_has_changed(
    test: &TestProvider,
) -> Outcome {
    test.given().await;
    test.set_private("Writable/Old", "1").await;
    test.watched(async |mut told| {
        told.text(Private, "Writable/Old", "1").await?;
        test.behind.set_away(true).await;
        let loaded = test.provider.load().await;
        check(loaded.is_err(), "away, it was loaded")?;
        // Time to notice, for one that would make something else of it.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let told_something = told.snapshots.has_changed().unwrap_or(true);
        check(
            !told_something,
            format!("away, it told {:?}", told.snapshots.borrow()),
        )?;
        let edits = [Edit::set("Writable/New", "1"), Edit::remove("Writable/Old")];
        test.behind.edit(&edits).await;
        test.behind.set_away(false).await;

        let changed = |now: &_| {
            leaf(now, Private, "Writable/New") == Some("1") && leaf(now, Private, "Writable/Old").is_none()
        };
        let whole = |now: &_| {
            let kept = (
                leaf(now, Private, "Writable/LogLevel"),
                leaf(now, AllServices, "Writable/LogLevel"),
            );
            same("what did not change", kept, (Some("DEBUG"), Some("INFO")))
        };
        told.until("what changed while it was away", changed, whole)
            .await
            .map(drop)
    })
    .await
}

pub(super) async fn a_new_watch_begins_with_what_is_there(test: &TestProvider) -> Outcome {
    test.given().await;
    for round in ["1", "2", "3"] {
        test.set_private("Writable/Round", round).await;
        test.watched(async |mut told| {
            let first = told.until("the first snapshot", |_| true, |_| Ok(())).await?;
            let found = leaf(&first, Private, "Writable/Round");
            same("the first snapshot of a new watch", found, Some(round))
        })
        .await?;
    }
    Ok(())
}

pub(super) async fn two_who_watch_are_told_the_same(test: &TestProvider) -> Outcome {
    test.given().await;
    test.watched(async |mut first| {
        test.watched(async |mut second| {
            for text in ["1", "2", "3"] {
                test.set_private("Writable/Round", text).await;
                let (first, second) = tokio::try_join!(
                    first.text(Private, "Writable/Round", text),
                    second.text(Private, "Writable/Round", text),
                )?;
                same("what both were told", first, second)?;
            }
            Ok(())
        })
        .await
    })
    .await
}

pub(super) async fn a_watch_ends_when_told(test: &TestProvider) -> Outcome {
    test.given().await;
    let (sender, mut snapshots) = watch::channel(None);
    let (shutdown, signal) = Shutdown::new();
    let telling = async {
        let first = snapshots.wait_for(Option::is_some).await;
        check(first.is_ok(), "the watch ended before its first snapshot")?;
        shutdown.trigger();
        Ok(())
    };
    let watching = async {
        test.provider.clone().watch(sender, signal).await;
        Ok(())
    };
    let ended = timeout(LONG, async { tokio::try_join!(watching, telling) }).await;
    ended
        .map_err(|_| "the watch goes on after the end".to_owned())?
        .map(drop)
}

pub(super) async fn a_watch_ends_when_nobody_listens(test: &TestProvider) -> Outcome {
    test.given().await;
    let (sender, mut snapshots) = watch::channel(None);
    let (_shutdown, signal) = Shutdown::new();
    let listening = async {
        let first = snapshots.wait_for(Option::is_some).await.is_ok();
        drop(snapshots);
        check(first, "the watch ended before its first snapshot")
    };
    let watching = async {
        test.provider.clone().watch(sender, signal).await;
        Ok(())
    };
    let ended = timeout(LONG, async { tokio::try_join!(watching, listening) }).await;
    ended
        .map_err(|_| "the watch goes on although nobody listens".to_owned())?
        .map(drop)
}
