//! The service with faults that the crash suite has to find. Built by the tests alone.

use std::process::ExitCode;

fn main() -> ExitCode {
    edgehold::AppService::new("app-<profile>").main()
}
