//! What a process was started with: flags, environment and what follows from both.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use edgehold_config::{FlagError, Flags, Parsed, file::as_uri, usage};

/// The arguments and environment of a process, read once. `Debug` shows no value of the environment.
#[derive(Clone)]
pub struct Invocation {
    /// The flags, environment applied.
    pub flags: Flags,
    /// The words after the flags: a command, or nothing.
    pub command: Vec<String>,
    /// The environment, for overrides of settings.
    pub environment: BTreeMap<String, String>,
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("flags", &self.flags)
            .field("command", &self.command)
            .field("environment", &self.environment.keys())
            .finish()
    }
}

/// Why a process cannot go on with what it was started with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvocationError {
    /// A flag or environment variable is wrong.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// Help was asked for: this is it.
    #[error("{0}")]
    Help(String),
}

impl Invocation {
    /// What this process was started with.
    ///
    /// # Errors
    /// [`InvocationError`].
    pub fn from_process() -> Result<Self, InvocationError> {
        Self::new(std::env::args_os().skip(1), std::env::vars_os())
    }

    /// From arguments (without the program's name) and environment.
    ///
    /// # Errors
    /// [`InvocationError`].
    pub fn new(
        args: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, InvocationError> {
        // Text that is not UTF-8 matches no name of ours; replacement characters keep it visible in messages.
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let args: Vec<String> = args.into_iter().map(text).collect();
        let environment: BTreeMap<String, String> = environment
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        match Flags::parse(&args, &environment)? {
            Parsed::Help => Err(InvocationError::Help(usage())),
            Parsed::Run { flags, command } => Ok(Self {
                flags,
                command,
                environment,
            }),
        }
    }

    /// Takes this private file, whatever folder and profile the flags name.
    pub(crate) fn set_private_file(&mut self, file: &Path) {
        self.flags.profile = String::new();
        if as_uri(file).is_none() {
            self.flags.config_dir = match file.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
                _ => PathBuf::from("."),
            };
        }
        let name = match as_uri(file) {
            Some(uri) => uri.into(),
            None => file.file_name().unwrap_or_default().to_string_lossy(),
        };
        self.flags.config_file = name.into_owned();
    }

    /// How long start-up may wait for others in all, and how long between two tries.
    pub(crate) fn startup(&self) -> Startup {
        Startup {
            duration: self.flags.startup_duration,
            interval: self.flags.startup_interval,
        }
    }
}

/// The start-up budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Startup {
    pub(crate) duration: Duration,
    pub(crate) interval: Duration,
}
