//! Changing single leaves: what Consul does, and the provider in memory alike.

use anyhow::Result;
use edgehold_config::{
    ConfigurationProvider, Edit, EditError, Expected, Section, Snapshot, memory::MemoryProvider,
};
use edgehold_test_support::Consul;

use crate::{PRIVATE, assert_denied, layer, private, provider, provider_with};

fn set(path: &str, text: &str, expected: Expected) -> Edit {
    Edit {
        expected,
        ..Edit::set(path, text)
    }
}

#[tokio::test]
async fn edits_take_place_as_long_as_what_they_expect_is_there() -> Result<()> {
    let consul = Consul::start().await?;
    for provider in [
        &*provider(consul.port()) as &dyn ConfigurationProvider,
        &MemoryProvider::default(),
    ] {
        // When leaves of two sections are written, one of them is created and one removed that is not there,
        let common = Edit {
            section: Section::AppServices,
            ..Edit::set("Writable/StoreAndForward/RetryInterval", "5m")
        };
        let groups = [
            vec![common, set("Writable/LogLevel", "INFO", Expected::Absent)],
            vec![Edit::set("Writable//odd ü%", ""), Edit::remove("Writable/Absent")],
        ];

        // then what was written is there, and nothing else was counted.
        assert_eq!(provider.edit(&groups).await?, 3);
        let expected = Snapshot {
            all_services: None,
            app_services: Some(layer([("Writable/StoreAndForward/RetryInterval", "5m")])),
            private: Some(layer([("Writable/LogLevel", "INFO"), ("Writable//odd ü%", "")])),
        };
        assert_eq!(provider.load().await?, expected);

        // When one of a group expects something else, then nothing of the group takes place,
        for stale in [Expected::Absent, Expected::Text("DEBUG".to_owned())] {
            let group = vec![
                Edit::remove("Writable//odd ü%"),
                set("Writable/LogLevel", "WARN", stale),
            ];
            let error = provider.edit(&[group]).await.unwrap_err();
            assert!(
                matches!(&error, EditError::Conflict { path } if path == "Writable/LogLevel"),
                "{error}"
            );
            assert_eq!(provider.load().await?, expected);
        }

        // and what expects what is there does.
        let seen = Expected::seen(Some("INFO"));
        let removal = Edit {
            expected: Expected::seen(Some("")),
            ..Edit::remove("Writable//odd ü%")
        };
        assert_eq!(
            provider
                .edit(&[vec![removal, set("Writable/LogLevel", "WARN", seen)]])
                .await?,
            2
        );
        assert_eq!(
            provider.load().await?.private,
            Some(layer([("Writable/LogLevel", "WARN")]))
        );
    }
    Ok(())
}

#[tokio::test]
async fn of_many_who_edit_at_the_same_time_each_sees_what_the_others_wrote() -> Result<()> {
    let consul = Consul::start().await?;
    consul.put(&format!("{PRIVATE}/Writable/Count"), "0").await?;
    let provider = provider(consul.port());
    let count = || async {
        for _ in 0..20 {
            loop {
                let snapshot = provider.load().await?;
                let seen = private(&snapshot, "Writable/Count").unwrap_or_default();
                let next = (seen.parse::<u32>()? + 1).to_string();
                let edit = set("Writable/Count", &next, Expected::seen(Some(seen)));
                match provider.edit(&[vec![edit]]).await {
                    Ok(_) => break,
                    Err(EditError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        anyhow::Ok(())
    };
    tokio::try_join!(count(), count())?;

    assert_eq!(private(&provider.load().await?, "Writable/Count"), Some("40"));
    Ok(())
}

#[tokio::test]
async fn an_edit_without_rights_is_denied() -> Result<()> {
    let consul = Consul::builder().master_token("the-master-token").start().await?;
    let anonymous = provider_with(consul.port(), None);
    let result = anonymous
        .edit(&[vec![Edit::set("Writable/LogLevel", "INFO")]])
        .await;
    let result = result.map_err(|error| match error {
        EditError::Provider(error) => error,
        other => panic!("{other}"),
    });
    assert_denied(result);
    Ok(())
}
