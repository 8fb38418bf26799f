//! `edgehold store …`: looking at a store from outside.

use std::process::ExitCode;

use edgehold::{Invocation, LogControl, LogLevel, LogOutput, waiting_objects};

use crate::SERVICE_KEY;

/// Prints how many objects wait, and nothing else on standard output.
#[expect(clippy::print_stdout, reason = "the answer of a command")]
pub(crate) fn count(invocation: &Invocation) -> ExitCode {
    LogControl::init("edgehold", LogLevel::Warn, LogOutput::Stderr);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("no async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(waiting_objects(invocation, SERVICE_KEY)) {
        Ok(count) => {
            println!("{count}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("cannot count: {error}");
            ExitCode::FAILURE
        }
    }
}
