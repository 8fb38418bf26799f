//! The `edgehold` binary: an EdgeX application service configured by files and settings alone.
//!
//! ```text
//! edgehold [flags]                    run the service
//! edgehold [flags] store ls|show|count    look at what waits for another attempt
//! edgehold [flags] dead ls|show|count     look at the error collection
//! edgehold [flags] dead redrive|purge|export|import   what becomes of it
//! edgehold [flags] pipeline test          try pipelines on a message
//! edgehold [flags] config check|show|diff|push|get|set|unset   the configuration
//! edgehold settings                   print the table of all settings
//! edgehold [flags] demo               run the service against embedded everything (feature `demo`)
//! ```
//!
//! The flags are those of EdgeX's app-service-configurable; `edgehold --help` lists them, `edgehold store --help` the
//! options of commands.

mod command;
mod config_command;
mod dead_command;
#[cfg(feature = "demo")]
mod demo;
mod pipeline_command;
mod store_command;

use std::{io::Write as _, process::ExitCode};

use edgehold::{AppService, Invocation, StartError, exit, settings_table_markdown};

use self::command::{Command, WrongCall};

/// The service key of app-service-configurable; `-p` fills the profile in, `-sk` replaces it.
const SERVICE_KEY: &str = "app-<profile>";

/// The exit code of a call that cannot be understood.
const WRONG_CALL: u8 = 2;

fn main() -> ExitCode {
    let invocation = match Invocation::from_process() {
        Ok(invocation) => invocation,
        Err(error) => return exit(Err(error.into())),
    };
    match command::parse(&invocation.command) {
        Ok(Command::Run) => exit(AppService::new(SERVICE_KEY).block_on(&invocation)),
        Ok(Command::Store(command)) => store_command::run(&invocation, command),
        Ok(Command::Dead(command)) => dead_command::run(&invocation, command),
        Ok(Command::Pipeline(test)) => pipeline_command::run(&invocation, test),
        Ok(Command::PipelineHelp) => print(pipeline_command::USAGE),
        Ok(Command::Config(command)) => config_command::run(&invocation, command),
        Ok(Command::ConfigHelp) => print(config_command::USAGE),
        Ok(Command::Settings) => print(&settings_table_markdown()),
        Ok(Command::Help) => print(command::USAGE),
        #[cfg(feature = "demo")]
        Ok(Command::Demo) => demo::run(invocation),
        Err(WrongCall::UnknownCommand(words)) => exit(Err(StartError::UnknownCommand(words))),
        Err(WrongCall::Usage(problem)) => {
            let help = match invocation.command.first().map(String::as_str) {
                Some(command @ ("store" | "dead" | "config" | "pipeline")) => format!("{command} --help"),
                _ => "--help".to_owned(),
            };
            // Nowhere to say so when standard error is closed; the exit code says it as well.
            let _ = writeln!(
                std::io::stderr(),
                "{problem}\n'edgehold {help}' lists commands and options"
            );
            ExitCode::from(WRONG_CALL)
        }
    }
}

/// Prints an answer; a reader that has left early is content with what it got.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
