//! A service as a whole process: from its arguments to its exit code, until a signal ends it.

use std::{process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::{AppService, StartError};
use crate::{
    invocation::{Invocation, InvocationError},
    logging::with_causes,
};

/// How long a service may take to end: less than the ten seconds containers are given.
const GRACE: Duration = Duration::from_secs(8);

impl AppService {
    /// Runs the service as a whole process: flags and environment of this process, until SIGINT or SIGTERM.
    pub fn main(self) -> ExitCode {
        let result = Invocation::from_process()
            .map_err(StartError::from)
            .and_then(|invocation| {
                if let Some(word) = invocation.command.first() {
                    return Err(StartError::UnknownCommand(word.clone()));
                }
                self.block_on(&invocation)
            });
        exit(result)
    }

    /// As [`AppService::main`] for an invocation that has been read already.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn block_on(self, invocation: &Invocation) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| StartError::Ended(format!("no async runtime: {error}")))?;
        runtime.block_on(async {
            let built = self.build(invocation).await?;
            // Before anybody is answered: whoever sees that it serves may end it.
            let signalled = terminating_signal();
            let mut running = built.spawn();
            let stop_requested = running.stop_requested();
            let end = tokio::select! {
                name = signalled => {
                    tracing::info!("Terminating signal received: {name}");
                    Ok(())
                }
                early = running.ended_early() => Err(StartError::Ended(early)),
                () = stop_requested => {
                    tracing::info!("the service was asked to stop from within");
                    Ok(())
                }
            };
            running.drain(GRACE).await;
            end
        })
    }
}

/// Takes SIGTERM and SIGINT from now on: the first of them by name.
fn terminating_signal() -> impl Future<Output = &'static str> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => "terminated",
            _ = interrupt.recv() => "interrupt",
        }
    }
}

/// Says how a process ended and turns it into its exit code.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "help and a wrong call are answered before there is a log, and so is a key that is none"
)]
pub fn exit(result: Result<(), StartError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match &error {
                StartError::Invocation(InvocationError::Help(text)) => println!("{text}"),
                StartError::Invocation(_) | StartError::UnknownCommand(_) => {
                    eprintln!("{error}\n-h lists all flags and commands");
                }
                // There is no log before there is a service key.
                StartError::ServiceKey(_) => eprintln!("{error}"),
                error => tracing::error!("{}", with_causes(error)),
            }
            ExitCode::from(error.exit_code())
        }
    }
}
