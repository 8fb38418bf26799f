//! A disk that fills up and is freed again, as a file system of its own: no exit, nothing lost, no damage.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edgehold_test_support::{
    Behaviour,
    wait::{self, LONG},
};
use tokio::time::Instant;

use crate::support::{Stack, accepted, each, refusing, wait_accepted};

/// A file system in memory, mounted over a folder. Needs the rights to mount: the suite runs as root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, size: &str) -> Result<Self> {
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "edgehold-test"])
            .arg(folder)
            .output()
            .context("calling mount")?;
        ensure!(
            output.status.success(),
            "a full disk needs a file system of its own, but mounting one failed (run the suite as root): {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self(folder.to_owned()))
    }

    /// Writes until there is no room for another page.
    fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast())?;
        for size in [64 << 10, 4 << 10] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("removing what fills the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the service may still have its files open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_holds_deliveries_back_and_loses_nothing() -> Result<()> {
    // Given a backlog on a small disk, and a destination that refuses
    let mut stack = Stack::new(crate::support::DURABLE).await?;
    let disk = SmallDisk::mount(stack.service.data_dir(), "16m")?;
    stack.start_service().await?;
    stack
        .store_and_forward(&[
            ("StoreAndForward/RetryInterval", "1s"),
            ("StoreAndForward/MaxRetryCount", "0"),
        ])
        .await?;
    stack.sink.behave(refusing());
    stack.publish(1..=20).await?;
    stack
        .service
        .wait_stats("a backlog", |stats| stats.store("waiting") == 20)
        .await;

    // When the disk is full and more comes than the freed reserve takes
    disk.fill()?;
    stack.publish(21..=9_000).await?;
    let service = &stack.service;
    wait::until("the full disk to be named", LONG, async || {
        let response = service.get("/readyz").await?;
        ensure!(response.status == 503, "{}", response.text());
        let named = r#""problems":{"store":"the store is full: there is no room for "#;
        ensure!(response.text().contains(named), "{}", response.text());
        Ok(())
    })
    .await;
    let before = stack.service.stats().await?;
    ensure!(stack.service.process().exit_status()?.is_none(), "it has ended");
    ensure!(before.books("dropped") == 0, "{before:?}");

    // And is freed, then it goes on within seconds
    let freed = Instant::now();
    disk.free()?;
    stack
        .service
        .wait_stats("storing to go on", |stats| {
            stats.store("waiting") > before.store("waiting")
        })
        .await;
    ensure!(freed.elapsed() < Duration::from_secs(5), "{:?}", freed.elapsed());

    // And everything arrives, the books balance, and the file is sound
    stack.sink.behave(Behaviour::status(200));
    wait_accepted(&stack.sink, 1..=9_000).await;
    let stats = stack
        .service
        .wait_stats("nothing to be left", |stats| {
            stats.store("waiting") == 0 && stats.books("inFlight") == 0
        })
        .await;
    ensure!(stats.books("started") == stats.books("completed"), "{stats:?}");
    ensure!(
        accepted(&stack.sink) == each(1..=9_000, 1),
        "something arrived twice"
    );
    ensure!(stack.service.get("/readyz").await?.status == 200);
    stack.service.stop().await?;
    ensure!(stack.service.integrity().await? == "ok");
    Ok(())
}
