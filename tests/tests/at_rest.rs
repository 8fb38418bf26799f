//! Encryption at rest as its user sees it: what is on the disk shows nothing, keys change while the service runs, and what is
//! looked at through the service's own commands is readable.

use anyhow::{Context, Result, ensure};
use edgehold_test_support::{Behaviour, MqttPublisher, Qos};

use crate::support::{
    DURABLE, Stack, TOPIC, accepted, each, envelope, event_id, event_of, refusing, wait_accepted,
};

const K1: &str = "1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a";
const K2: &str = "2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b";
const NAME: (&str, &str) = ("InsecureSecrets/encryption/SecretName", "store-encryption");

const COMPRESSED: (&str, &str) = ("app-services/Database/Compression", "zstd");

/// A stack whose stored objects are encrypted and compressed, its destination refusing.
async fn encrypting(keys: &[(&str, &str)]) -> Result<Stack> {
    let at_rest = [("app-services/Database/Encryption", "aes256-gcm"), COMPRESSED];
    storing(&at_rest, keys).await
}

/// A stack with these settings whose destination refuses.
async fn storing(at_rest: &[(&str, &str)], keys: &[(&str, &str)]) -> Result<Stack> {
    let mut stack = Stack::new(&[DURABLE, at_rest].concat()).await?;
    stack.set(keys).await?;
    stack.start_service().await?;
    stack
        .store_and_forward(&[("StoreAndForward/RetryInterval", "1h")])
        .await?;
    stack.sink.behave(refusing());
    Ok(stack)
}

/// The files of the data folder that hold this text.
fn files_with(stack: &Stack, text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(stack.service.data_dir())? {
        let path = entry?.path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            // SQLite has some for a moment only.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

#[tokio::test]
async fn what_waits_is_encrypted_on_the_disk_and_leaves_after_a_kill_and_a_rotation() -> Result<()> {
    // Given events that wait
    let key = ("InsecureSecrets/encryption/SecretData/k1", K1);
    let mut stack = encrypting(&[NAME, key]).await?;
    stack.publish(1..=50).await?;
    let waiting = |number: u64| {
        move |stats: &crate::support::Stats| stats.store("waiting") == number && stats.books("inFlight") == 0
    };
    stack.service.wait_stats("fifty to wait", waiting(50)).await;

    // Then nothing on the disk says what they are, and the command does
    for text in ["Test-Device", "Test-Profile", "origin"] {
        assert_eq!(files_with(&stack, text)?, [""; 0], "{text}");
    }
    assert_ne!(
        files_with(&stack, "default-pipeline")?,
        [""; 0],
        "the test looks at what is written"
    );
    let shown = stack.service.run(&["store", "ls", "--json", "--limit", "1"])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.contains("Test-Device"), "{shown}");

    // When the service is killed, started again, and gets another key while it runs
    stack.service.kill9()?;
    stack.start_service().await?;
    let rotation = [
        ("InsecureSecrets/encryption/SecretData/k2", K2),
        ("InsecureSecrets/encryption/SecretData/active", "k2"),
    ];
    stack.set(&rotation).await?;
    stack
        .service
        .wait_config(
            "/Writable/InsecureSecrets/encryption/SecretName",
            "store-encryption",
        )
        .await;
    stack.publish(51..=60).await?;
    stack.service.wait_stats("sixty to wait", waiting(60)).await;
    assert_eq!(files_with(&stack, "Test-Device")?, [""; 0]);

    // Then all of them leave, each as it was
    stack.sink.behave(Behaviour::status(200));
    stack.set(&[("StoreAndForward/RetryInterval", "1s")]).await?;
    wait_accepted(&stack.sink, 1..=60).await;
    stack.service.wait_nothing_left().await;
    assert_eq!(accepted(&stack.sink), each(1..=60, 1));
    Ok(())
}

#[tokio::test]
async fn what_waits_is_compressed_on_the_disk() -> Result<()> {
    let repeated = "again".repeat(400);
    for (at_rest, is_there) in [(&[][..], true), (&[COMPRESSED][..], false)] {
        let stack = storing(at_rest, &[]).await?;
        let event = event_of(&event_id(1), 1, &repeated);
        let mut publisher = MqttPublisher::connect(stack.broker.port()).await?;
        publisher
            .publish(TOPIC, envelope(&event), Qos::AtLeastOnce)
            .await?;
        stack
            .service
            .wait_stats("it to wait", |stats| stats.store("waiting") == 1)
            .await;
        let found = files_with(&stack, &repeated[..500])?;
        assert_eq!(!found.is_empty(), is_there, "{at_rest:?}: {found:?}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_key_nothing_is_kept_in_clear_and_the_start_says_what_is_missing() -> Result<()> {
    let mut stack = encrypting(&[]).await?;
    let said = stack
        .service
        .wait_error(
            0,
            "Database/Encryption is on, but the secret with its keys cannot be had",
        )
        .await;
    assert!(said.contains("no secret named 'store-encryption'"), "{said}");
    // When the key comes, what came meanwhile is kept and leaves
    stack.publish(1..=3).await?;
    let key = ("InsecureSecrets/encryption/SecretData/k1", K1);
    stack
        .set(&[NAME, key, ("StoreAndForward/RetryInterval", "1s")])
        .await?;
    stack.sink.behave(Behaviour::status(200));
    wait_accepted(&stack.sink, 1..=3).await;
    assert_eq!(files_with(&stack, "Test-Device")?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn what_is_brought_back_is_encrypted_again() -> Result<()> {
    // Given objects that were given up, exported, and purged by their device's name.
    let key = ("InsecureSecrets/encryption/SecretData/k1", K1);
    let mut stack = encrypting(&[NAME, key]).await?;
    stack
        .set(&[("Pipeline/Functions/HTTPExport/Parameters/PermanentStatus", "503")])
        .await?;
    stack
        .service
        .wait_config(
            "/Writable/Pipeline/Functions/HTTPExport/Parameters/PermanentStatus",
            "503",
        )
        .await;
    stack.publish(1..=3).await?;
    let given_up = |stats: &crate::support::Stats| stats.store("error") == 3;
    stack.service.wait_stats("three to be given up", given_up).await;
    stack.service.stop().await?;
    let elsewhere = tempfile::tempdir()?;
    let file = elsewhere.path().join("dead.jsonl").display().to_string();
    let run = |words: &[&str]| -> Result<String> {
        let output = stack.service.run(words)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{words:?}: {told}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run(&["dead", "export", "--to", &file])?;
    assert!(std::fs::read_to_string(&file)?.contains("Test-Device"));
    let count = run(&["dead", "count", "--device", "Test-Device"])?;
    assert!(count.contains("3 objects"), "{count}");
    let purged = run(&["dead", "purge", "--device", "Test-Device"])?;
    assert!(purged.starts_with("purged: 3 of 3"), "{purged}");

    // When they are brought back, then nothing on the disk says what they are.
    assert!(run(&["dead", "import", &file])?.starts_with("imported: 3 of 3"));
    for text in ["Test-Device", "Test-Profile", "origin"] {
        assert_eq!(files_with(&stack, text)?, [""; 0], "{text}");
    }
    assert!(run(&["dead", "ls", "--json"])?.contains("Test-Device"));
    Ok(())
}
