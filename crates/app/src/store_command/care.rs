//! `edgehold store copy|check|backup`: a store moved, looked through, and put away.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Result;
use edgehold::{CopyRequest, Invocation, StoreView, copy_store};

use super::text;
use crate::{SERVICE_KEY, dead_command::progress};

/// Copies, and says whether the two agree.
pub(super) async fn copy(invocation: &Invocation, request: &CopyRequest) -> Result<ExitCode> {
    let bar = progress();
    let copied = copy_store(invocation, SERVICE_KEY, request, |report| {
        bar.set_length(report.meant.saturating_mul(2));
        bar.set_position(report.copied.saturating_add(report.compared));
    })
    .await;
    bar.finish_and_clear();
    let report = copied?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "copied: {} objects from {} to {}; {} of them were there already",
        report.copied, request.from, request.to, report.already
    )?;
    if report.others > 0 {
        writeln!(
            out,
            "{} holds {} other objects beside them",
            request.to, report.others
        )?;
    }
    if let Some((spool, objects)) = &report.spool {
        writeln!(
            out,
            "{objects} objects wait in the spool {0} and are not among them: copy them as well, with --from {0}",
            spool.display()
        )?;
    }
    if let Some((here, there)) = &report.checksums {
        writeln!(out, "sha256 {here}  {}", request.from)?;
        writeln!(out, "sha256 {there}  {}", request.to)?;
    }
    if report.agrees() && report.meant == 0 {
        let service_key = invocation.flags.service_key(SERVICE_KEY);
        writeln!(
            out,
            "{} has no objects of the service '{service_key}'; -sk and -p name another one.",
            request.from
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if report.agrees() {
        writeln!(
            out,
            "They agree: every object is there, with the same content and state."
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "They do not agree: {} objects are missing or different, the first of them:",
        report.differing
    )?;
    for id in &report.named {
        writeln!(out, "  {id}")?;
    }
    Ok(ExitCode::FAILURE)
}

/// Reads every object.
pub(super) async fn check(view: &StoreView, out: &mut impl Write) -> Result<ExitCode> {
    let bar = progress();
    let checked = view
        .check(|read, meant| {
            bar.set_length(meant.max(read));
            bar.set_position(read);
        })
        .await;
    bar.finish_and_clear();
    let check = checked?;
    let size = text::size(usize::try_from(check.payload_bytes).unwrap_or(usize::MAX));
    writeln!(
        out,
        "read: {} objects ({size}) of {}",
        check.objects,
        view.place()
    )?;
    match &check.file {
        Some(problems) if problems.is_empty() => writeln!(out, "the file: sound")?,
        Some(problems) => {
            writeln!(out, "the file: damaged")?;
            for problem in problems {
                writeln!(out, "  {}", text::visible(problem))?;
            }
        }
        None => {}
    }
    match &check.counters {
        Some(differing) if differing.is_empty() => writeln!(out, "the counters: they agree")?,
        Some(differing) => {
            for (state, (said, found)) in differing {
                writeln!(
                    out,
                    "the counters: they say {said} are {state}, and there are {found}"
                )?;
            }
        }
        None => writeln!(
            out,
            "the counters: not compared, the store cannot be read to its end"
        )?,
    }
    writeln!(
        out,
        "damaged: {}, sealed and not to be opened: {}",
        check.damaged, check.unopened
    )?;
    for (id, problem) in &check.problems {
        writeln!(out, "  {id}: {}", text::visible(problem))?;
    }
    let (verdict, code) = match check.is_sound() {
        true => ("The store is sound.", ExitCode::SUCCESS),
        false => ("The store is not sound.", ExitCode::FAILURE),
    };
    writeln!(out, "{verdict}")?;
    Ok(code)
}

/// Puts a copy away.
pub(super) async fn back_up(view: &StoreView, to: &Path, out: &mut impl Write) -> Result<ExitCode> {
    let objects = view.back_up(to).await?;
    writeln!(out, "backed up: {objects} objects to {}", to.display())?;
    Ok(ExitCode::SUCCESS)
}
