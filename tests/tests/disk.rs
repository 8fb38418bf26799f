//! A disk that fills up and is freed again, as a file system of its own; one that turns read-only: no exit, nothing
//! lost, no damage.

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

use crate::support::{DURABLE, Stack, accepted, compile_preload, each, refusing, wait_accepted};

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
    let mut stack = Stack::new(DURABLE).await?;
    let disk = SmallDisk::mount(stack.service.data_dir(), "16m")?;
    with_backlog(&mut stack).await?;

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

/// A stack with twenty events waiting in its store, and a destination that refuses.
async fn with_backlog(stack: &mut Stack) -> Result<()> {
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
    Ok(())
}

/// More comes than can be stored: it is held back, and `/readyz` says why.
async fn is_named_as_read_only(stack: &mut Stack) -> Result<()> {
    stack.publish(21..=400).await?;
    let service = &stack.service;
    wait::until("the read-only disk to be named", LONG, async || {
        let response = service.get("/readyz").await?;
        ensure!(response.status == 503, "{}", response.text());
        let named = "its file system has become read-only";
        ensure!(response.text().contains(named), "{}", response.text());
        Ok(())
    })
    .await;
    ensure!(stack.service.process().exit_status()?.is_none(), "it has ended");
    let stats = stack.service.stats().await?;
    ensure!(stats.books("dropped") == 0, "{stats:?}");
    Ok(())
}

#[tokio::test]
async fn a_disk_that_turns_read_only_holds_deliveries_back_until_it_can_be_written_again() -> Result<()> {
    // Given a backlog, and a disk that can be made read-only under the open files
    let mut stack = Stack::new(DURABLE).await?;
    let folder = tempfile::tempdir()?;
    let (library, switch) = (
        folder.path().join("read_only.so"),
        folder.path().join("read_only"),
    );
    compile_preload("disk/read_only.c", &library)?;
    let data_dir = stack.service.data_dir().display().to_string();
    for (name, value) in [
        ("LD_PRELOAD", library.display().to_string()),
        ("READ_ONLY_FOLDER", data_dir),
        ("READ_ONLY_WHEN", switch.display().to_string()),
    ] {
        stack.service.set_env(name, &value);
    }
    with_backlog(&mut stack).await?;

    // When it is read-only
    File::create(&switch)?;
    is_named_as_read_only(&mut stack).await?;

    // And can be written again, then it goes on within seconds
    let before = stack.service.stats().await?;
    let repaired = Instant::now();
    fs::remove_file(&switch)?;
    stack
        .service
        .wait_stats("storing to go on", |stats| {
            stats.store("waiting") > before.store("waiting")
        })
        .await;
    ensure!(
        repaired.elapsed() < Duration::from_secs(5),
        "{:?}",
        repaired.elapsed()
    );

    // And everything arrives, and the file is sound
    stack.sink.behave(Behaviour::status(200));
    wait_accepted(&stack.sink, 1..=400).await;
    stack.service.wait_nothing_left().await;
    ensure!(
        accepted(&stack.sink) == each(1..=400, 1),
        "something arrived twice"
    );
    ensure!(stack.service.get("/readyz").await?.status == 200);
    stack.service.stop().await?;
    ensure!(stack.service.integrity().await? == "ok");
    Ok(())
}

#[tokio::test]
#[ignore = "needs loop devices and ext4: make soak"]
async fn soak_a_disk_that_the_kernel_made_read_only_loses_nothing() -> Result<()> {
    // Given a backlog on an ext4 file system that turns read-only on an error
    let mut stack = Stack::new(DURABLE).await?;
    let disk = Ext4::make(stack.service.data_dir())?;
    with_backlog(&mut stack).await?;

    // When the kernel finds an error
    disk.fail()?;
    is_named_as_read_only(&mut stack).await?;

    // And the service is started again on the repaired disk
    stack.service.kill9()?;
    disk.repair()?;
    stack.sink.behave(Behaviour::status(200));
    stack.service.start().await?;

    // Then everything arrives: what was stored, and what was never acknowledged
    wait_accepted(&stack.sink, 1..=400).await;
    stack.service.wait_nothing_left().await;
    stack.service.stop().await?;
    ensure!(stack.service.integrity().await? == "ok");
    Ok(())
}

/// An ext4 file system in a file, mounted over a folder.
struct Ext4 {
    image: tempfile::NamedTempFile,
    folder: PathBuf,
}

impl Ext4 {
    fn make(folder: &Path) -> Result<Self> {
        let image = tempfile::NamedTempFile::new()?;
        image.as_file().set_len(64 << 20)?;
        run("mkfs.ext4", &[Path::new("-q"), image.path()])?;
        let disk = Self {
            image,
            folder: folder.to_owned(),
        };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let options = ["-o", "loop,errors=remount-ro"].map(Path::new);
        run(
            "mount",
            &[&options[..], &[self.image.path(), &self.folder]].concat(),
        )
    }

    /// Makes the kernel believe that it has found an error.
    fn fail(&self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let folder = self.folder.display().to_string();
        let device = mounts
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(_, rest)| rest.split(' ').next() == Some(&folder))
            .and_then(|(device, _)| device.strip_prefix("/dev/"))
            .context("the file system is mounted")?;
        let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
        fs::write(&trigger, "1").with_context(|| format!("writing {}", trigger.display()))
    }

    fn repair(&self) -> Result<()> {
        run("umount", &[&self.folder])?;
        // It answers 1 when it has repaired something.
        Command::new("fsck.ext4")
            .args(["-y", "-f"])
            .arg(self.image.path())
            .output()?;
        self.mount()
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {told}");
    Ok(())
}
