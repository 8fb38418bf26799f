//! Three servers, of which the leader goes.

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, ProviderError, Snapshot};
use edgehold_test_support::{ConsulCluster, wait};

use crate::{ALL_SERVICES, APP_SERVICES, LONG, PRIVATE, Watch, private, provider};

#[tokio::test]
async fn a_lost_leader_loses_nothing_and_resets_nothing() -> Result<()> {
    let mut cluster = ConsulCluster::start().await?;
    let leader = cluster.wait_for_leader(0, None).await?;
    let [ours, third] = cluster.others(leader);
    let key = |n: usize| format!("{PRIVATE}/Writable/N{n}");
    let keys: Vec<_> = [ALL_SERVICES, APP_SERVICES, PRIVATE]
        .map(|section| (format!("{section}/Writable/LogLevel"), "INFO"))
        .into();
    cluster.server(leader).put_all(&keys).await?;
    let provider = provider(cluster.server(ours).port());
    let mut watch = Watch::start(&provider);
    watch.wait_for_private("Writable/LogLevel", "INFO").await;
    // Every snapshot from here on is looked at.
    let mut all = watch.snapshots.clone();
    let mut grown = 0;
    let mut check = |snapshot: &Snapshot| {
        for section in [&snapshot.all_services, &snapshot.app_services, &snapshot.private] {
            let section = section.as_ref().expect("no section ever vanishes");
            assert_eq!(section.get("Writable/LogLevel"), Some("INFO"));
        }
        let now = (0..100).take_while(|n| private(snapshot, &format!("Writable/N{n}")).is_some());
        let now = now.count();
        assert!(
            now >= grown,
            "{now} numbers after {grown}: something old came back"
        );
        grown = now;
        now
    };

    // When one number after the other is written, and the leader goes in the middle.
    let writing = async {
        for n in 0..100 {
            if n == 50 {
                cluster.servers()[leader].kill()?;
            }
            // Through the third server, so that what it is told while nobody leads is told again.
            wait::until("a number to be written", LONG, async || {
                cluster.server(third).put(&key(n), "1").await
            })
            .await;
        }
        let next = cluster.wait_for_leader(ours, Some(leader)).await?;
        assert_ne!(next, leader);
        anyhow::Ok(())
    };
    let reading = async {
        loop {
            let now = check(all.borrow_and_update().as_ref().expect("the first one is there"));
            if now == 100 {
                return anyhow::Ok(());
            }
            tokio::time::timeout(LONG, all.changed()).await??;
        }
    };
    tokio::try_join!(writing, reading)?;

    // Then one server alone is no majority: calls fail, and what is known stays.
    cluster.servers()[third].kill()?;
    wait::until("the majority to be missed", LONG, async || {
        matches!(provider.load().await, Err(ProviderError::Unavailable { .. }))
    })
    .await;
    watch.snapshots.mark_unchanged();

    // And with the others back everything is as it was, and changes arrive.
    cluster.servers()[third].restart().await?;
    cluster.servers()[leader].restart().await?;
    cluster.wait_until_ready(ours).await?;
    let last = key(100);
    cluster.server(leader).put(&last, "1").await?;
    watch.wait_for_private("Writable/N100", "1").await;
    check(watch.snapshots.borrow().as_ref().expect("it was just seen"));
    provider.check_alive().await?;
    Ok(())
}
