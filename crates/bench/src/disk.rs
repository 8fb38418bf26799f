//! What the disk gives by itself: how often a small write is safe in a second.

use std::{fs::File, io::Write as _, path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::time::Instant;

/// A page of a database.
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// Appends a block of 4 KiB and syncs it (`fdatasync`), again and again for so long, in a file of its own in `folder`.
/// Answers how often, and how long that took. Blocks the thread.
///
/// # Errors
/// When the file cannot be written.
pub fn syncs(folder: &Path, time: Duration) -> Result<(usize, Duration)> {
    let path = folder.join("syncs");
    let mut file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < time {
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        count += 1;
    }
    let elapsed = started.elapsed();
    std::fs::remove_file(&path)?;
    Ok((count, elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_syncs_and_is_left_clean() {
        let folder = tempfile::tempdir().unwrap();
        let (count, elapsed) = syncs(folder.path(), Duration::from_millis(1)).unwrap();
        assert!(count > 0 && elapsed >= Duration::from_millis(1));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
