//! Following changes: level, not edge, and whole transactions.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, Layer, ProviderError, Snapshot};
use edgehold_consul::ConsulProvider;
use edgehold_core::ServiceKey;
use edgehold_test_support::{Answer, Consul, HttpSink, wait};
use tokio::time::{Instant, timeout};

use crate::{
    ALL_SERVICES, APP_SERVICES, LONG, PRIVATE, Watch, layer, load_and_seed::token_with, private, provider,
    provider_with, proxy::Proxy, settings,
};

#[tokio::test]
async fn the_first_snapshot_comes_at_once_and_then_every_change() -> Result<()> {
    let consul = Consul::start().await?;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    consul.put(&format!("{PRIVATE}/Service/Port"), "59704").await?;
    let mut watch = Watch::start(&provider(consul.port()));

    let first = watch.wait_for("the first snapshot", |_| true).await;
    let writable = layer([("Writable/LogLevel", "INFO")]);
    assert_eq!(
        first,
        Snapshot {
            private: Some(writable),
            ..Snapshot::default()
        }
    );

    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "DEBUG")
        .await?;
    watch.wait_for_private("Writable/LogLevel", "DEBUG").await;
    consul
        .txn(&[(format!("{PRIVATE}/Writable/Pipeline//ü %/x"), "new")])
        .await?;
    watch.wait_for_private("Writable/Pipeline//ü %/x", "new").await;
    // A section that was not there before is followed too.
    consul
        .put(&format!("{ALL_SERVICES}/Writable/Telemetry/Interval"), "30s")
        .await?;
    watch
        .wait_for("the common section", |snapshot| {
            snapshot.all_services == Some(layer([("Writable/Telemetry/Interval", "30s")]))
        })
        .await;
    Ok(())
}

#[tokio::test]
async fn deletions_are_seen_and_a_prefix_that_is_gone_is_none() -> Result<()> {
    let consul = Consul::start().await?;
    consul
        .put_all(&[
            (format!("{APP_SERVICES}/Writable/StoreAndForward/Enabled"), "true"),
            (format!("{PRIVATE}/Writable/LogLevel"), "INFO"),
            (format!("{PRIVATE}/Writable/Other"), "x"),
        ])
        .await?;
    let mut watch = Watch::start(&provider(consul.port()));
    watch.wait_for_private("Writable/Other", "x").await;

    consul.delete(&format!("{PRIVATE}/Writable/Other")).await?;
    let snapshot = watch
        .wait_for("the leaf to go", |s| private(s, "Writable/Other").is_none())
        .await;
    assert_eq!(snapshot.private, Some(layer([("Writable/LogLevel", "INFO")])));

    consul.delete_recurse(&format!("{PRIVATE}/")).await?;
    let snapshot = watch
        .wait_for("the section to go", |snapshot| snapshot.private.is_none())
        .await;
    assert_eq!(
        snapshot.app_services,
        Some(layer([("Writable/StoreAndForward/Enabled", "true")]))
    );

    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "WARN")
        .await?;
    watch.wait_for_private("Writable/LogLevel", "WARN").await;
    Ok(())
}

#[tokio::test]
async fn keys_written_in_one_transaction_arrive_together() -> Result<()> {
    const KEY: &str = "Writable/StoreAndForward/MaxRetryCount";
    let consul = Consul::start().await?;
    let keys = [ALL_SERVICES, APP_SERVICES, PRIVATE].map(|section| format!("{section}/{KEY}"));
    let write = async |n: u32| consul.txn(&keys.each_ref().map(|key| (key, n.to_string()))).await;
    write(0).await?;
    let mut watch = Watch::start(&provider(consul.port()));
    watch.wait_for_private(KEY, "0").await;

    let mut reader = watch.snapshots.clone();
    let check = |snapshot: &Snapshot| {
        let text = |section: &Option<Layer>| Some(section.as_ref()?.get(KEY)?.to_owned());
        let all = text(&snapshot.all_services);
        assert!(all.is_some());
        assert_eq!(all, text(&snapshot.app_services));
        assert_eq!(all, text(&snapshot.private));
        all
    };
    let writing = async {
        for n in 1..=200 {
            write(n).await?;
        }
        anyhow::Ok(())
    };
    let reading = async {
        let mut seen = 1;
        while check(
            reader
                .borrow_and_update()
                .as_ref()
                .expect("the first one is there"),
        )
        .as_deref()
            != Some("200")
        {
            timeout(LONG, reader.changed()).await.expect("another snapshot")?;
            seen += 1;
        }
        anyhow::Ok(seen)
    };
    let ((), seen) = tokio::try_join!(writing, reading)?;
    assert!(
        seen > 2,
        "the changes were seen while they happened, not only their end"
    );
    Ok(())
}

#[tokio::test]
async fn a_change_is_there_within_milliseconds() -> Result<()> {
    const WRITES: usize = 100;
    let consul = Consul::start().await?;
    let key = format!("{PRIVATE}/Writable/Number");
    // As in a stack that runs: no section is missing.
    for section in [ALL_SERVICES, APP_SERVICES, PRIVATE] {
        consul.put(&format!("{section}/Writable/Number"), "first").await?;
    }
    let mut watch = Watch::start(&provider(consul.port()));
    watch.wait_for_private("Writable/Number", "first").await;

    let mut latencies = Vec::new();
    for n in 0..WRITES {
        let text = n.to_string();
        let written = Instant::now();
        // From before the write, so that the time Consul needs for it is in the figure.
        consul.put(&key, &text).await?;
        watch.wait_for_private("Writable/Number", &text).await;
        latencies.push(written.elapsed());
    }

    latencies.sort_unstable();
    let at = |percent: usize| latencies[(WRITES - 1) * percent / 100];
    #[expect(
        clippy::print_stderr,
        reason = "the record of this test; a slow machine is no failure"
    )]
    {
        eprintln!(
            "write to snapshot: p50 {:?}, p99 {:?}, max {:?}",
            at(50),
            at(99),
            at(100)
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_changed_while_disconnected_is_told_afterwards() -> Result<()> {
    let consul = Consul::start().await?;
    let proxy = Proxy::start(consul.port()).await?;
    let key = format!("{PRIVATE}/Writable/LogLevel");
    consul.put(&key, "INFO").await?;
    let mut watch = Watch::start(&provider(proxy.port()));
    watch.wait_for_private("Writable/LogLevel", "INFO").await;

    proxy.cut();
    consul.put(&key, "DEBUG").await?;
    consul.put(&format!("{PRIVATE}/Writable/New"), "1").await?;
    proxy.restore();

    let snapshot = watch.wait_for_private("Writable/LogLevel", "DEBUG").await;
    assert_eq!(private(&snapshot, "Writable/New"), Some("1"));
    Ok(())
}

#[tokio::test]
async fn a_restarted_consul_is_followed_on() -> Result<()> {
    let mut consul = Consul::start().await?;
    let key = format!("{PRIVATE}/Writable/LogLevel");
    consul.put(&key, "before").await?;
    let mut watch = Watch::start(&provider(consul.port()));
    watch.wait_for_private("Writable/LogLevel", "before").await;

    consul.stop().await?;
    consul.restart().await?;
    consul.put(&key, "after SIGTERM").await?;
    watch.wait_for_private("Writable/LogLevel", "after SIGTERM").await;

    consul.kill()?;
    consul.restart().await?;
    consul.put(&key, "after SIGKILL").await?;
    watch.wait_for_private("Writable/LogLevel", "after SIGKILL").await;
    Ok(())
}

#[tokio::test]
async fn a_consul_that_comes_later_is_waited_for() -> Result<()> {
    let mut consul = Consul::start().await?;
    consul
        .put(&format!("{PRIVATE}/Writable/LogLevel"), "INFO")
        .await?;
    consul.kill()?;
    let provider = provider(consul.port());
    let mut watch = Watch::start(&provider);
    let error = provider.load().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable { .. }), "{error:?}");
    assert_eq!(*watch.snapshots.borrow(), None);

    consul.restart().await?;

    watch.wait_for_private("Writable/LogLevel", "INFO").await;
    Ok(())
}

#[tokio::test]
async fn lost_rights_are_not_an_empty_configuration() -> Result<()> {
    let consul = Consul::builder().master_token("root-token").start().await?;
    let proxy = Proxy::start(consul.port()).await?;
    let key = format!("{PRIVATE}/Writable/LogLevel");
    consul.put(&key, "before").await?;
    let rules = r#"key_prefix "edgex" { policy = "read" }"#;
    let token = token_with(&consul, rules).await?;
    let provider = provider_with(proxy.port(), Some(&token));
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/LogLevel", "before").await;

    // The rights go, and then something changes, which wakes the watch.
    consul.set_policy("rules", "").await?;
    wait::until("the rights to go", LONG, async || {
        matches!(provider.load().await, Err(ProviderError::Denied { .. }))
    })
    .await;
    watch.snapshots.mark_unchanged();
    consul.put(&key, "unseen").await?;
    // The read that the wake-up leads to is denied; the next one follows only after that.
    proxy.wait_for_transactions(2).await;
    assert!(!watch.snapshots.has_changed()?, "{:?}", *watch.snapshots.borrow());

    consul.set_policy("rules", rules).await?;
    watch.wait_for_private("Writable/LogLevel", "unseen").await;
    Ok(())
}

#[tokio::test]
async fn an_index_that_moves_without_a_change_sends_nothing() -> Result<()> {
    let consul = Consul::start().await?;
    let proxy = Proxy::start(consul.port()).await?;
    let key = format!("{PRIVATE}/Writable/LogLevel");
    consul.put(&key, "INFO").await?;
    let mut watch = Watch::start(&provider(proxy.port()));
    watch.wait_for_private("Writable/LogLevel", "INFO").await;
    watch.snapshots.mark_unchanged();

    for flags in 1..=5 {
        let before = proxy.transactions();
        // Other flags move the index; the value stays.
        let target = format!("/v1/kv/{key}?flags={flags}");
        consul.ask("PUT", &target, b"INFO").await?.succeeded()?;
        wait::until("the watch to look", LONG, async || proxy.transactions() > before).await;
    }
    assert!(!watch.snapshots.has_changed()?);

    consul.put(&key, "DEBUG").await?;
    watch.wait_for_private("Writable/LogLevel", "DEBUG").await;
    Ok(())
}

#[tokio::test]
async fn an_index_that_never_rests_is_read_slowly() -> Result<()> {
    const READS: usize = 30;
    // A server that wakes every query at once, each time with a higher index and the same data.
    let server = HttpSink::start().await?;
    let mut index = 0_u64;
    server.script(move |request| {
        index += 1;
        let answer = if request.method == "PUT" {
            let value = r#"{"KV":{"Key":"edgex/v3/app-x/Writable/LogLevel","Value":"SU5GTw=="}}"#;
            Answer::new(200).body(format!(r#"{{"Results":[{value}],"Errors":null}}"#))
        } else {
            Answer::new(200)
                .header("X-Consul-Index", &index.to_string())
                .body("[]")
        };
        answer.into()
    });
    let mut watch = Watch::start(&provider(server.port()));
    watch.wait_for_private("Writable/LogLevel", "INFO").await;
    watch.snapshots.mark_unchanged();

    wait::until("reads", LONG, async || {
        server
            .requests()
            .iter()
            .filter(|request| request.method == "PUT")
            .count()
            >= READS
    })
    .await;

    let reads: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.method == "PUT")
        .collect();
    let took = reads[READS - 1].at - reads[0].at;
    // The first read and four more come at once, the others one in 50 ms.
    let least = Duration::from_millis(50) * u32::try_from(READS - 6)?;
    assert!(took >= least, "{READS} reads in {took:?}");
    assert!(!watch.snapshots.has_changed()?);
    Ok(())
}

/// §12, 23: EdgeX gives a read two seconds and then ends.
#[tokio::test]
async fn answers_that_come_late_and_in_parts_are_waited_for() -> Result<()> {
    let consul = Consul::start().await?;
    let proxy = Proxy::slow(consul.port(), Duration::from_secs(3)).await?;
    let key = format!("{PRIVATE}/Writable/LogLevel");
    for section in [ALL_SERVICES, APP_SERVICES, PRIVATE] {
        consul
            .put(&format!("{section}/Writable/LogLevel"), "INFO")
            .await?;
    }
    let provider = provider(proxy.port());

    let added = layer([("Writable/LogLevel", "WARN"), ("Writable/New", "1")]);
    assert_eq!(provider.seed(&added, false).await?, 1);
    let loaded = provider.load().await?.private;
    assert_eq!(
        loaded,
        Some(layer([("Writable/LogLevel", "INFO"), ("Writable/New", "1")]))
    );
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/New", "1").await;
    consul.put(&key, "DEBUG").await?;
    watch.wait_for_private("Writable/LogLevel", "DEBUG").await;
    Ok(())
}

#[tokio::test]
async fn a_service_key_may_be_any_text_too() -> Result<()> {
    let consul = Consul::start().await?;
    for odd in ["app x", "app-ü%41", "app?x#y&z", "app+.."] {
        let service_key = ServiceKey::try_new(odd)?;
        let provider = Arc::new(ConsulProvider::new(settings(consul.port(), None), service_key)?);
        provider
            .seed(
                &layer([("Writable/a b/ü%20/", "1"), ("Writable/LogLevel", "INFO")]),
                false,
            )
            .await?;
        let mut watch = Watch::start(&provider);
        watch.wait_for_private("Writable/LogLevel", "INFO").await;
        let key = format!("edgex/v3/{odd}/Writable/LogLevel");
        consul.txn(&[(key, "DEBUG")]).await?;
        let snapshot = watch.wait_for_private("Writable/LogLevel", "DEBUG").await;
        assert_eq!(
            snapshot.private.map(|layer| layer.len()),
            Some(1),
            "a folder is no leaf"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_watch_ends_when_told_and_when_nobody_listens() -> Result<()> {
    let consul = Consul::start().await?;
    let provider = provider(consul.port());

    let mut told = Watch::start(&provider);
    told.wait_for("the first snapshot", |_| true).await;
    told.shutdown.trigger();
    timeout(LONG, told.task.join_next())
        .await?
        .expect("there was a task")?;

    let Watch {
        snapshots,
        shutdown: _shutdown,
        mut task,
    } = Watch::start(&provider);
    drop(snapshots);
    timeout(LONG, task.join_next())
        .await?
        .expect("there was a task")?;
    assert_eq!(Arc::strong_count(&provider), 1, "neither keeps the provider");
    Ok(())
}
