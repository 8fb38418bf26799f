//! The power fails: what a process had written and not synced is gone.
//!
//! Two halves. `unsynced.c`, preloaded into the process, writes what each write below the watched folder overwrites into
//! an undo file beside, and forgets it when the file is synced. Here the undo files are applied, newest first, after the
//! process was killed: every file is then as it was when it was last synced.
//!
//! This is the hardest that a disk may be about content. Names are not undone: a file that was made, renamed or removed
//! stays so. Mapped memory (SQLite's `-shm`) is not seen: whoever opens the database first makes it anew.

use std::{fs, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::support::{Service, compile_preload};

/// The compiled shim, and where the undo files are.
pub(super) struct UnsyncedWrites {
    folder: TempDir,
}

/// What stands before the bytes of each entry of an undo file: three numbers of 64 bits, in the machine's order.
const HEAD_BYTES: usize = 24;

impl UnsyncedWrites {
    /// Compiles the shim.
    pub(super) fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("edgehold-unsynced-").context("making a folder")?;
        compile_preload("kill/unsynced.c", &folder.path().join("unsynced.so"))?;
        fs::create_dir(folder.path().join("undo"))?;
        Ok(Self { folder })
    }

    /// From its next start on, the writes of this service can be undone.
    pub(super) fn watch(&self, service: &mut Service) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let watched = service.data_dir().display().to_string();
        service.set_env("LD_PRELOAD", &path("unsynced.so"));
        service.set_env("UNSYNCED_WATCHED", &watched);
        service.set_env("UNSYNCED_UNDO", &path("undo"));
    }

    /// Undoes what the dead process had not synced, and answers how many writes that was.
    pub(super) fn undo(&self, data_dir: &Path) -> Result<usize> {
        let mut undone = 0;
        for entry in fs::read_dir(self.folder.path().join("undo"))? {
            let undo = entry?.path();
            let name = undo.file_name().context("an undo file has a name")?;
            let entries = fs::read(&undo)?;
            undone += apply(&entries, &data_dir.join(name))
                .with_context(|| format!("undoing {}", undo.display()))?;
            fs::remove_file(&undo)?;
        }
        Ok(undone)
    }
}

/// One overwriting: where it began, how long the file was, what stood there.
struct Entry<'a> {
    offset: u64,
    old_length: u64,
    old: &'a [u8],
}

/// Brings a file back to where its undo file begins.
fn apply(mut undo: &[u8], file: &Path) -> Result<usize> {
    let mut entries = Vec::new();
    while let Some((head, rest)) = undo.split_at_checked(HEAD_BYTES) {
        let number = |place: usize| {
            let bytes = head[place * 8..][..8].try_into().expect("eight bytes are eight");
            u64::from_ne_bytes(bytes)
        };
        // Killed while it was noted: the write itself was not begun.
        let Some((old, rest)) = rest.split_at_checked(usize::try_from(number(2))?) else {
            break;
        };
        entries.push(Entry {
            offset: number(0),
            old_length: number(1),
            old,
        });
        undo = rest;
    }
    // A file that is gone needs nothing.
    if entries.is_empty() || !file.is_file() {
        return Ok(0);
    }
    let file = fs::OpenOptions::new().write(true).open(file)?;
    for entry in entries.iter().rev() {
        file.write_all_at(entry.old, entry.offset)?;
        file.set_len(entry.old_length)?;
    }
    Ok(entries.len())
}
