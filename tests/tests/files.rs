//! Settings in files, without a configuration provider: what is edited takes effect while the service runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use edgehold_test_support::http;
use edgehold_test_support::wait::{self, LONG};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::Service;

/// A private and a common file, and the service that reads them.
struct Stack {
    service: Service,
    private: PathBuf,
    common: PathBuf,
    _folder: TempDir,
}

/// The private file with these settings of Store and Forward and this answer of the pipeline.
fn private(store_and_forward: Value, content_type: &str) -> Value {
    json!({
        "Writable": {
            "LogLevel": "INFO",
            "StoreAndForward": store_and_forward,
            "Pipeline": {
                "TargetType": "raw",
                "ExecutionOrder": "SetResponseData",
                "Functions": {"SetResponseData": {"Parameters": {"ResponseContentType": content_type}}},
            },
        },
        "Service": {"Host": "127.0.0.1"},
        "MessageBus": {"Disabled": true},
        "Trigger": {"Type": "http"},
    })
}

fn common(interval: &str) -> Value {
    json!({
        "all-services": {"Writable": {"Telemetry": {"Interval": interval}}},
        "app-services": {"Writable": {"StoreAndForward": {"RetryInterval": "5m"}}},
    })
}

fn replace(path: &Path, content: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    Ok(fs::rename(new, path)?)
}

impl Stack {
    async fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("edgehold-settings-")?;
        let (file, common_file) = (
            folder.path().join("configuration.yaml"),
            folder.path().join("common.yaml"),
        );
        fs::write(
            &file,
            private(json!({"MaxRetryCount": 20}), "text/one").to_string(),
        )?;
        fs::write(&common_file, common("30s").to_string())?;
        let mut service = Service::new()?
            .flag(&format!("-cd={}", folder.path().display()))
            .flag(&format!("-cc={}", common_file.display()))
            .flag("-sk=app-files")
            .flag("-s")
            .env("WRITABLE_STOREANDFORWARD_RETRYINTERVAL", "33s");
        service.start().await?;
        Ok(Self {
            service,
            private: file,
            common: common_file,
            _folder: folder,
        })
    }

    async fn content_type(&self) -> Result<Option<String>> {
        let answer = http::send(self.service.port(), "POST", "/api/v3/trigger", &[], b"data").await?;
        let answer = answer.succeeded()?;
        Ok(answer.header("Content-Type").map(str::to_owned))
    }
}

#[tokio::test]
async fn an_edited_file_takes_effect_as_a_written_key_does() -> Result<()> {
    // Given a service without a configuration provider, and an override from the environment.
    let mut stack = Stack::start().await?;
    let count = "/Writable/StoreAndForward/MaxRetryCount";
    let interval = "/Writable/StoreAndForward/RetryInterval";
    stack.service.wait_config(count, 20).await;
    stack.service.wait_config(interval, "33s").await;

    // When its file is replaced, then settings and pipeline change, and the override goes on to have the last word.
    let edited = json!({"MaxRetryCount": 21, "RetryInterval": "44s"});
    replace(&stack.private, &private(edited.clone(), "text/two").to_string())?;
    stack.service.wait_config(count, 21).await;
    wait::until("the pipeline of the new file", LONG, async || {
        let found = stack.content_type().await?;
        ensure!(found.as_deref() == Some("text/two"), "it answers {found:?}");
        Ok(())
    })
    .await;
    stack.service.wait_config(interval, "33s").await;

    // When a value is bad, then it alone keeps its last good one, by name.
    let bad = json!({"MaxRetryCount": "many", "MaxItems": 7});
    replace(&stack.private, &private(bad, "text/two").to_string())?;
    stack
        .service
        .wait_config("/Writable/StoreAndForward/MaxItems", 7)
        .await;
    stack.service.wait_config(count, 21).await;
    stack
        .service
        .wait_error(0, "Writable/StoreAndForward/MaxRetryCount")
        .await;

    // When the file is broken or gone, then that is said, and everything stays.
    fs::write(&stack.private, "Writable: {")?;
    stack.service.wait_error(0, "is not valid YAML").await;
    fs::remove_file(&stack.private)?;
    stack.service.wait_error(0, "cannot be read").await;
    stack.service.wait_config(count, 21).await;
    ensure!(stack.content_type().await?.as_deref() == Some("text/two"));

    // The common file is followed too, and a file that is back is taken again.
    replace(
        &stack.private,
        &private(json!({"MaxRetryCount": 23}), "text/two").to_string(),
    )?;
    replace(&stack.common, &common("17s").to_string())?;
    stack.service.wait_config(count, 23).await;
    stack
        .service
        .wait_config("/Writable/Telemetry/Interval", "17s")
        .await;

    // What needs a restart is named.
    let mut moved = private(json!({"MaxRetryCount": 23}), "text/two");
    moved["Service"]["StartupMsg"] = "hello".into();
    replace(&stack.private, &moved.to_string())?;
    stack
        .service
        .process()
        .wait_for_line("Service/StartupMsg; they take effect at the next start", LONG)
        .await;

    // A file is nothing that secrets are written to: as without a provider.
    let secret = json!({"apiVersion": "v3", "secretName": "x", "secretData": [{"key": "k", "value": "v"}]});
    let answer = http::send(
        stack.service.port(),
        "POST",
        "/api/v3/secret",
        &[("Content-Type", "application/json")],
        secret.to_string().as_bytes(),
    )
    .await?;
    assert_eq!(answer.status, 405);
    stack.service.stop().await
}
