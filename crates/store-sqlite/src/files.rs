//! The files beside the database: its folder, its lock, its reserve.

use std::{
    ffi::OsString,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use edgehold_store::StoreError;

/// Bytes set aside for the moment the disk is full: room for the log of some thousand removals.
const RESERVE_BYTES: usize = 4 << 20;

/// Calls between two attempts to fill the reserve.
const REFILL_PAUSE: u32 = 256;

/// `<file><suffix>`
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the folder and the empty file of a database where they are missing, readable by owner and group.
pub(crate) fn prepare(database: &Path) -> Result<(), StoreError> {
    let folder = folder_of(database);
    let unusable = |error: io::Error| {
        StoreError::Configuration(format!(
            "the data folder {} cannot be written ({error}); mount a volume there, or name another folder with \
             --data-dir or EDGEHOLD_DATA_DIR",
            folder.display()
        ))
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    {
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o750);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    }
    builder.create(folder).map_err(unusable)?;
    options.open(database).map_err(unusable)?;
    Ok(())
}

/// Makes an empty file where there is none, readable by owner and group.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path).map(drop)
}

/// Gives a finished file its name, on the disk before this returns.
pub(crate) fn finish(part: &Path, path: &Path) -> io::Result<()> {
    File::open(part)?.sync_all()?;
    std::fs::rename(part, path)?;
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Holds the lock that keeps other processes from writing, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(database: &Path) -> Result<Self, StoreError> {
        let path = beside(database, ".lock");
        let unusable = |error: io::Error| {
            StoreError::unavailable(format!("the lock {} cannot be taken", path.display()), error)
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
                what: database.display().to_string(),
            }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }
}

/// A file whose only use is to be given up: on a full disk SQLite can neither delete nor check-point without room.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    held: bool,
    /// Calls of [`Reserve::refill`] to let pass: trying costs what little room there is.
    pause: u32,
}

impl Reserve {
    /// The reserve of a database, filled when there is room.
    pub(crate) fn of(database: &Path) -> Self {
        let mut reserve = Self {
            path: beside(database, ".reserve"),
            held: false,
            pause: 0,
        };
        reserve.refill();
        reserve
    }

    /// Whether there was something to give up; there is a little room now.
    pub(crate) fn give_up(&mut self) -> bool {
        std::mem::take(&mut self.held) && std::fs::remove_file(&self.path).is_ok()
    }

    /// Sets the bytes aside again if they are not; to be called when something else could be written. Without room it
    /// stays empty and is tried again some hundred calls later.
    pub(crate) fn refill(&mut self) {
        if self.held {
            return;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        self.held = self.fill().is_ok();
        if !self.held {
            self.pause = REFILL_PAUSE;
            // What could be written of it is wanted elsewhere.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn fill(&self) -> io::Result<()> {
        if std::fs::metadata(&self.path).is_ok_and(|file| file.len() >= RESERVE_BYTES as u64) {
            return Ok(());
        }
        // Written, not only sized: a sparse file sets nothing aside.
        let mut file = File::create(&self.path)?;
        let block = [0x5a; 1 << 16];
        for _ in 0..RESERVE_BYTES / block.len() {
            file.write_all(&block)?;
        }
        file.sync_all()
    }
}
