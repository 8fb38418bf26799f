//! Following changes beside what the suite of all providers shows: what wakes it, what is a whole, and what is made up for.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use edgehold_config::{Section, Snapshot};
use edgehold_keeper::PollIntervals;
use edgehold_test_support::{Answer, Behaviour, Keeper, wait::until};
use tokio::time::sleep;

use crate::{ALL_SERVICES, LONG, NEVER, PRIVATE, Watch, polling, private, provider, section};

/// What must not happen can only be waited for by time. Long enough for two looks that agree, which make a change.
const A_WHILE: Duration = Duration::from_millis(300);

/// The common configuration, that of the service, and the common one again.
const REQUESTS_OF_A_LOOK: usize = 3;

#[tokio::test]
async fn what_is_missed_while_the_bus_is_away_is_made_up_for_when_it_is_back() -> Result<()> {
    let keeper = Keeper::start().await?;
    keeper
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    let (provider, notices) = provider(keeper.port());
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/LogLevel", "INFO").await;
    notices.set_listening(true);
    notices.set_listening(false);
    until("the look that the change of the bus leads to", LONG, async || {
        keeper.requests().len() == 2 * REQUESTS_OF_A_LOOK
    })
    .await;
    keeper
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "WARN")
        .await?;
    sleep(A_WHILE).await;
    assert_eq!(keeper.requests().len(), 2 * REQUESTS_OF_A_LOOK, "nobody told");
    let seen = watch.snapshots.borrow().clone().unwrap_or_default();
    assert_eq!(private(&seen, "Writable/LogLevel"), Some("INFO"));

    notices.set_listening(true);

    watch.wait_for_private("Writable/LogLevel", "WARN").await;
    Ok(())
}

#[tokio::test]
async fn what_nobody_tells_of_is_seen_after_a_while() -> Result<()> {
    let keeper = Keeper::start().await?;
    for (listening, poll) in [
        (
            true,
            PollIntervals {
                listening: A_WHILE,
                ..NEVER
            },
        ),
        (
            false,
            PollIntervals {
                deaf: A_WHILE,
                ..NEVER
            },
        ),
    ] {
        keeper
            .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
            .await?;
        let (provider, notices) = polling(keeper.port(), poll);
        notices.set_listening(listening);
        let mut watch = Watch::start(&provider);
        watch.wait_for_private("Writable/LogLevel", "INFO").await;
        keeper
            .put(&format!("{PRIVATE}/Writable/LogLevel"), "WARN")
            .await?;
        watch.wait_for_private("Writable/LogLevel", "WARN").await;
    }
    Ok(())
}

/// As EdgeX's own client writes what is one edit to a person.
#[tokio::test]
async fn single_writes_that_follow_each_other_closely_are_one_change() -> Result<()> {
    let keeper = Keeper::start().await?;
    keeper.put(&format!("{PRIVATE}/Writable/0"), "0").await?;
    let (provider, notices) = provider(keeper.port());
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/0", "0").await;
    watch.snapshots.borrow_and_update();

    for leaf in 0..10 {
        keeper.put(&format!("{PRIVATE}/Writable/{leaf}"), "1").await?;
        notices.tell();
        // The writer's pace: faster than what counts as quiet.
        sleep(Duration::from_millis(5)).await;
    }

    watch.snapshots.changed().await?;
    let first = watch.snapshots.borrow().clone().unwrap_or_default();
    assert_eq!(
        section(&first, Section::Private).map(edgehold_config::Layer::len),
        Some(10)
    );
    Ok(())
}

/// And one who never stops is followed all the same.
#[tokio::test]
async fn what_never_settles_is_told_in_consistent_pieces() -> Result<()> {
    let keeper = Arc::new(Keeper::start().await?);
    let rounds = |round: usize| {
        let round = round.to_string();
        let folders = [
            "core-common-config-bootstrapper/all-services",
            "core-common-config-bootstrapper/app-services",
            "app-x",
        ];
        let leaves = folders.map(|folder| (format!("{folder}/Writable/Round"), round.clone()));
        let keeper = Arc::clone(&keeper);
        async move {
            let leaves = leaves.each_ref().map(|(path, round)| (path, round.as_str()));
            keeper.put_all("edgex/v4", &leaves).await
        }
    };
    rounds(0).await?;
    let (provider, notices) = provider(keeper.port());
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/Round", "0").await;
    let writing = async {
        for round in 1.. {
            rounds(round).await?;
            notices.tell();
            // The writer's pace: faster than what counts as quiet.
            sleep(Duration::from_millis(3)).await;
        }
        anyhow::Ok(())
    };
    let reading = async {
        let mut last = String::new();
        for _ in 0..3 {
            let seen = watch
                .wait_for("the next round", |now| {
                    private(now, "Writable/Round") != Some(&last)
                })
                .await;
            let text = |of| section(&seen, of).and_then(|layer| layer.get("Writable/Round"));
            assert_eq!(text(Section::AllServices), text(Section::Private));
            assert_eq!(text(Section::AppServices), text(Section::Private));
            last = private(&seen, "Writable/Round").unwrap_or_default().to_owned();
        }
        anyhow::Ok(())
    };
    tokio::select! {
        written = writing => written,
        read = reading => read,
    }
}

#[tokio::test]
async fn a_write_of_a_whole_folder_is_one_change_wherever_the_folder_is() -> Result<()> {
    let keeper = Keeper::start().await?;
    let (provider, notices) = provider(keeper.port());
    let mut watch = Watch::start(&provider);
    watch.wait_for("nothing", |now| *now == Snapshot::default()).await;

    keeper
        .put_all(
            "edgex/v4",
            &[("app-x/Writable/A", "1"), ("app-x/Service/Port", "2")],
        )
        .await?;
    let told = keeper.notices().pop().expect("it was told");
    assert!(notices.filters().iter().any(|filter| filter.matches(&told.topic)));
    notices.tell();

    let seen = watch.wait_for_private("Writable/A", "1").await;
    assert_eq!(private(&seen, "Service/Port"), None);
    Ok(())
}

#[tokio::test]
async fn whatever_is_wrong_with_it_the_last_known_stays_and_then_the_present_comes() -> Result<()> {
    let mut keeper = Keeper::start().await?;
    keeper.put(&format!("{PRIVATE}/Writable/Round"), "0").await?;
    let (provider, notices) = provider(keeper.port());
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/Round", "0").await;
    let not_found = Answer::new(404).body("<html>");
    let faults = [
        Behaviour::status(500),
        Behaviour::status(401),
        Behaviour::Reset,
        Behaviour::HalfAnswer,
        not_found.into(),
    ];
    for (round, fault) in faults.into_iter().enumerate() {
        let before = watch.snapshots.borrow_and_update().clone();
        let looked = keeper.requests().len();
        keeper.fault(Some(fault));
        keeper
            .put(&format!("{PRIVATE}/Writable/Round"), &(round + 1).to_string())
            .await?;
        notices.tell();
        until("a look that fails", LONG, async || {
            keeper.requests().len() > looked
        })
        .await;
        sleep(A_WHILE).await;
        assert_eq!(*watch.snapshots.borrow(), before);
        keeper.fault(None);
        watch
            .wait_for_private("Writable/Round", &(round + 1).to_string())
            .await;
    }

    keeper.stop().await;
    keeper.put(&format!("{PRIVATE}/Writable/Round"), "last").await?;
    notices.tell();
    // A look that is refused leaves no trace: time for one.
    sleep(A_WHILE).await;
    keeper.restart().await?;
    watch.wait_for_private("Writable/Round", "last").await;
    Ok(())
}

#[tokio::test]
async fn a_value_that_no_setting_can_have_does_not_hold_up_the_others() -> Result<()> {
    let keeper = Keeper::start().await?;
    let (provider, notices) = provider(keeper.port());
    let mut watch = Watch::start(&provider);
    watch.wait_for("nothing", |now| *now == Snapshot::default()).await;
    // JSON of a list is a text to it, so nothing it can hold is none; what holds is that it reads on.
    let body = br#"{"value": {"A": [1, 2], "B": 5, "C": true, "D": null}}"#;
    let target = format!(
        "/api/v3/kvs/key/{}?flatten=true",
        format!("{PRIVATE}/Writable").replace('/', "%2F")
    );
    keeper.send("PUT", &target, body).await?.succeeded()?;
    notices.tell();
    let seen = watch.wait_for_private("Writable/B", "5").await;
    assert_eq!(private(&seen, "Writable/C"), Some("true"));
    assert_eq!(private(&seen, "Writable/A"), Some(""));
    Ok(())
}

#[tokio::test]
async fn the_first_snapshot_waits_for_nothing() -> Result<()> {
    let keeper = Keeper::start().await?;
    keeper
        .put(&format!("{ALL_SERVICES}/Writable/LogLevel"), "INFO")
        .await?;
    let (provider, _notices) = provider(keeper.port());
    let mut watch = Watch::start(&provider);
    let first = tokio::time::timeout(LONG, watch.snapshots.changed()).await;
    first??;
    assert_eq!(keeper.requests().len(), REQUESTS_OF_A_LOOK, "one read");
    assert_eq!(Arc::strong_count(&provider), 2);
    Ok(())
}
