//! Writing, and what only providers of keys and values can promise.

use super::{Outcome, TestProvider, check, leaf, same, snapshot_of};
use crate::{
    Edit, EditError, Expected, Layer,
    Section::{AllServices, AppServices, Private},
    Snapshot,
};

fn layer(leaves: &[(&str, &str)]) -> Layer {
    leaves.iter().copied().collect()
}

async fn seed(test: &TestProvider, leaves: &Layer, overwrite: bool) -> Result<usize, String> {
    let seeded = test.provider.seed(leaves, overwrite).await;
    seeded.map_err(|error| format!("it cannot be seeded: {error}"))
}

pub(super) async fn seeding_writes_what_is_missing(test: &TestProvider) -> Outcome {
    test.given().await;
    test.set_private("Writable/Empty", "").await;
    let leaves = layer(&[
        ("Service/Host", "localhost"),
        ("Service/Port", "1"),
        ("Writable/Empty", "no"),
        ("Writable/LogLevel", "INFO"),
        ("Writable/New", ""),
    ]);
    same("leaves written", seed(test, &leaves, false).await?, 2)?;
    let expected = layer(&[
        ("Service/Host", "localhost"),
        ("Service/Port", "59704"),
        ("Writable/Empty", ""),
        ("Writable/LogLevel", "DEBUG"),
        ("Writable/New", ""),
    ]);
    same("the private section", test.load().await?.private, Some(expected))?;
    same("leaves written again", seed(test, &leaves, false).await?, 0)?;
    same("nothing written", seed(test, &Layer::default(), true).await?, 0)
}

pub(super) async fn seeding_over_what_is_there_writes_all_and_deletes_nothing(
    test: &TestProvider,
) -> Outcome {
    test.given().await;
    test.set_private("Writable/Extra", "kept").await;
    let before = test.load().await?;
    let leaves = layer(&[("Writable/LogLevel", "INFO"), ("Writable/New", "1")]);
    same("leaves written", seed(test, &leaves, true).await?, 2)?;
    let expected = layer(&[
        ("Service/Port", "59704"),
        ("Writable/Extra", "kept"),
        ("Writable/LogLevel", "INFO"),
        ("Writable/New", "1"),
    ]);
    let expected = Snapshot {
        private: Some(expected),
        ..before
    };
    same("all sections", test.load().await?, expected)
}

pub(super) async fn what_is_seeded_is_told(test: &TestProvider) -> Outcome {
    test.given().await;
    test.watched(async |mut told| {
        told.text(Private, "Writable/LogLevel", "DEBUG").await?;
        seed(test, &layer(&[("Writable/New", "1")]), false).await?;
        told.text(Private, "Writable/New", "1").await?;
        seed(test, &layer(&[("Writable/New", "2")]), true).await?;
        told.text(Private, "Writable/New", "2").await.map(drop)
    })
    .await
}

pub(super) async fn edits_take_place_as_long_as_what_they_expect_is_there(test: &TestProvider) -> Outcome {
    let edit = |groups: Vec<Vec<Edit>>| async move { test.provider.edit(&groups).await };
    let written =
        |result: Result<usize, EditError>| result.map_err(|error| format!("an edit failed: {error}"));
    let set = |path: &str, text: &str, expected| Edit {
        expected,
        ..Edit::set(path, text)
    };
    let common = Edit {
        section: AppServices,
        ..Edit::set("Writable/StoreAndForward/RetryInterval", "5m")
    };
    let odd = match (test.is_legal)("Writable//odd ü%") {
        true => "Writable//odd ü%",
        false => "Writable/odd;=~",
    };
    let groups = vec![
        vec![common, set("Writable/LogLevel", "INFO", Expected::Absent)],
        vec![Edit::set(odd, ""), Edit::remove("Writable/Absent")],
    ];
    same("leaves written", written(edit(groups).await)?, 3)?;
    let expected = snapshot_of(&[
        (AppServices, "Writable/StoreAndForward/RetryInterval", "5m"),
        (Private, "Writable/LogLevel", "INFO"),
        (Private, odd, ""),
    ]);
    same("what was written", test.load().await?, expected.clone())?;

    // One of a group that expects something else keeps the whole group back.
    for stale in [Expected::Absent, Expected::Text("DEBUG".to_owned())] {
        let group = vec![Edit::remove(odd), set("Writable/LogLevel", "WARN", stale)];
        match edit(vec![group]).await {
            Err(EditError::Conflict { path }) if path == "Writable/LogLevel" => {}
            other => return Err(format!("a stale edit ended with {other:?}")),
        }
        same("after a stale edit", test.load().await?, expected.clone())?;
    }

    let removal = Edit {
        expected: Expected::seen(Some("")),
        ..Edit::remove(odd)
    };
    let seen = Expected::seen(Some("INFO"));
    let group = vec![removal, set("Writable/LogLevel", "WARN", seen)];
    same("leaves written", written(edit(vec![group]).await)?, 2)?;
    let private = Some(layer(&[("Writable/LogLevel", "WARN")]));
    same("the private section", test.load().await?.private, private)
}

pub(super) async fn folders_are_no_leaves(test: &TestProvider) -> Outcome {
    test.given().await;
    test.set(&[
        (Private, "Writable/Pipeline/Functions/", ""),
        (AllServices, "Writable/", ""),
    ])
    .await;
    let loaded = test.load().await?;
    let layers = [&loaded.all_services, &loaded.app_services, &loaded.private];
    for (path, _) in layers.into_iter().flatten().flat_map(Layer::iter) {
        check(
            !path.is_empty() && !path.ends_with('/'),
            format!("{path:?} is a leaf"),
        )?;
    }
    test.watched(async |mut told| {
        let first = told.until("the first snapshot", |_| true, |_| Ok(())).await?;
        let expected = snapshot_of(&[
            (AllServices, "Writable/LogLevel", "INFO"),
            (AppServices, "Writable/StoreAndForward/RetryInterval", "5m"),
            (Private, "Writable/LogLevel", "DEBUG"),
        ]);
        same("what was told", first, expected)
    })
    .await
}

pub(super) async fn a_section_without_keys_is_none(test: &TestProvider) -> Outcome {
    same("nothing", test.load().await?, Snapshot::default())?;
    test.given().await;
    test.watched(async |mut told| {
        told.text(Private, "Writable/LogLevel", "DEBUG").await?;
        let edits = ["Writable/LogLevel", "Service/Port"].map(Edit::remove);
        test.behind.edit(&edits).await;
        let gone = |now: &Snapshot| now.private.is_none();
        let rest = told.until("no private section", gone, |_| Ok(())).await?;
        same(
            "another section",
            leaf(&rest, AllServices, "Writable/LogLevel"),
            Some("INFO"),
        )
    })
    .await?;
    same("the private section", test.load().await?.private, None)
}

pub(super) async fn sections_that_change_together_are_told_together(test: &TestProvider) -> Outcome {
    const ROUNDS: usize = 50;
    let sections = [AllServices, AppServices, Private];
    let set = async |round: usize| {
        let round = round.to_string();
        let leaves = sections.map(|section| (section, "Writable/Round", round.as_str()));
        test.set(&leaves).await;
    };
    set(0).await;
    test.watched(async |mut told| {
        told.text(Private, "Writable/Round", "0").await?;
        let writing = async {
            for round in 1..=ROUNDS {
                set(round).await;
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        let reading = async {
            let together = |now: &_| {
                let [all, app, private] = sections.map(|section| leaf(now, section, "Writable/Round"));
                same("sections that change together", (all, app), (private, private))
            };
            let last = ROUNDS.to_string();
            let is_last = |now: &_| leaf(now, Private, "Writable/Round") == Some(&last);
            told.until("the last round", is_last, together).await.map(drop)
        };
        tokio::try_join!(writing, reading).map(drop)
    })
    .await
}

pub(super) async fn the_common_configuration_is_ready_when_it_says_so(test: &TestProvider) -> Outcome {
    for ready in [false, true, false, true] {
        test.behind.set_ready(ready).await;
        let found = test.provider.common_config_ready().await;
        same("ready", found.map_err(|error| error.to_string()), Ok(ready))?;
    }
    Ok(())
}
