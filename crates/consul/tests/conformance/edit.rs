//! Changing single leaves beside others who do, and without rights. The rest is in the suite of all providers.

use anyhow::Result;
use edgehold_config::{ConfigurationProvider, Edit, EditError, Expected};
use edgehold_test_support::Consul;

use crate::{PRIVATE, assert_denied, private, provider, provider_with};

fn set(path: &str, text: &str, expected: Expected) -> Edit {
    Edit {
        expected,
        ..Edit::set(path, text)
    }
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
