//! The `edgehold` binary: an EdgeX application service configured by files and settings alone.
//!
//! ```text
//! edgehold [flags]                run the service
//! edgehold [flags] store count    print how many objects wait for another attempt, and nothing else
//! edgehold [flags] demo           run the service against embedded everything (feature `demo`)
//! ```
//!
//! The flags are those of EdgeX's app-service-configurable; `edgehold --help` lists them.

#[cfg(feature = "demo")]
mod demo;
mod store_command;

use std::process::ExitCode;

use edgehold::{AppService, Invocation, StartError, exit};

/// The service key of app-service-configurable; `-p` fills the profile in, `-sk` replaces it.
const SERVICE_KEY: &str = "app-<profile>";

fn main() -> ExitCode {
    let invocation = match Invocation::from_process() {
        Ok(invocation) => invocation,
        Err(error) => return exit(Err(error.into())),
    };
    let command: Vec<&str> = invocation.command.iter().map(String::as_str).collect();
    match command.as_slice() {
        [] => exit(AppService::new(SERVICE_KEY).block_on(&invocation)),
        ["store", "count"] => store_command::count(&invocation),
        #[cfg(feature = "demo")]
        ["demo"] => demo::run(invocation),
        words => exit(Err(StartError::UnknownCommand(words.join(" ")))),
    }
}
