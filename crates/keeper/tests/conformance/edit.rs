//! Changing single leaves. The rest is in the suite of all providers.

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, Edit, Section};
use edgehold_test_support::Keeper;
use serde_json::json;

use crate::{PRIVATE, layer, provider};

#[tokio::test]
async fn what_is_set_together_is_one_write_and_what_is_removed_follows() -> Result<()> {
    let keeper = Keeper::start().await?;
    let (provider, _notices) = provider(keeper.port());
    keeper.put(&format!("{PRIVATE}/Writable/Old"), "1").await?;
    keeper
        .put(&format!("{PRIVATE}/Writable/Old/Below"), "stays")
        .await?;
    let groups = [
        vec![
            Edit::remove("Writable/Old"),
            Edit::set("Writable/Pipeline/ExecutionOrder", "Batch"),
            Edit::set("Writable/Pipeline/Functions/Batch/Parameters/Mode", "bycount"),
        ],
        vec![Edit::set("Writable/LogLevel", "DEBUG")],
    ];

    assert_eq!(provider.edit(&groups).await?, 4);

    let requests = keeper.requests();
    let written: Vec<_> = requests
        .iter()
        .filter(|request| request.method != "GET")
        .collect();
    let targets: Vec<&str> = written.iter().map(|request| request.target.as_str()).collect();
    assert_eq!(
        targets,
        [
            "/api/v3/kvs/key/edgex%2Fv4%2Fapp%2Dx%2FWritable?flatten=true",
            "/api/v3/kvs/key/edgex%2Fv4%2Fapp%2Dx%2FWritable%2FOld",
        ]
    );
    assert_eq!(
        written[0].json()["value"],
        json!({
            "LogLevel": "DEBUG",
            "Pipeline": {"ExecutionOrder": "Batch", "Functions": {"Batch": {"Parameters": {"Mode": "bycount"}}}},
        })
    );
    let expected = layer([
        ("Writable/LogLevel", "DEBUG"),
        ("Writable/Old/Below", "stays"),
        ("Writable/Pipeline/ExecutionOrder", "Batch"),
        ("Writable/Pipeline/Functions/Batch/Parameters/Mode", "bycount"),
    ]);
    assert_eq!(provider.load().await?.private, Some(expected));
    Ok(())
}

#[tokio::test]
async fn the_topic_of_an_edit_is_one_that_the_original_listens_to() -> Result<()> {
    let keeper = Keeper::start().await?;
    let (provider, _notices) = provider(keeper.port());
    let common = Edit {
        section: Section::AppServices,
        ..Edit::set("Writable/StoreAndForward/MaxRetryCount", "5")
    };
    provider.edit(&[vec![common]]).await?;
    provider
        .edit(&[vec![Edit::set("Writable/A", "1"), Edit::set("Writable/B/C", "2")]])
        .await?;
    let topics: Vec<String> = keeper.notices().into_iter().map(|notice| notice.topic).collect();
    assert_eq!(
        topics,
        [
            "edgex/configs/edgex/v4/core-common-config-bootstrapper/app-services/Writable/StoreAndForward/MaxRetryCount",
            "edgex/configs/edgex/v4/app-x/Writable",
        ]
    );
    Ok(())
}
