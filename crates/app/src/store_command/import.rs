//! `edgehold store import`: what the original's Store and Forward left becomes ours.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Result;
use edgehold::{AppService, ImportReport, ImportRequest, Invocation};

use super::text;
use crate::{SERVICE_KEY, dead_command::progress};

/// What cannot be read is named up to so many times.
const NAMED: usize = 20;

pub(super) async fn run(invocation: &Invocation, request: &ImportRequest) -> Result<ExitCode> {
    let bar = progress();
    let imported = AppService::new(SERVICE_KEY)
        .import(invocation, request, |report| {
            bar.set_length(report.meant.max(report.read));
            bar.set_position(report.read);
        })
        .await;
    bar.finish_and_clear();
    let report = imported?;
    if let Some(address) = &report.answers_at {
        text::tell(&format!(
            "a service with this key answers at {address}: if that is EdgeX's own, it goes on storing and removing there; \
             stop it and import again"
        ));
    }
    write(&report, request, &mut io::stdout().lock())?;
    Ok(match report.unreadable {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn write(report: &ImportReport, request: &ImportRequest, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "EdgeX left {} objects in {}", report.read, report.source)?;
    let (adopted, aside) = match request.dry_run {
        true => ("can be taken over", "would be set aside"),
        false => ("taken over", "set aside"),
    };
    writeln!(out, "{adopted}: {}", report.adopted)?;
    if report.already > 0 {
        writeln!(out, "taken over by an earlier import: {}", report.already)?;
    }
    writeln!(out, "{aside}: {}", report.set_aside_in_all())?;
    for ((pipeline, reason), count) in &report.set_aside {
        writeln!(
            out,
            "  {count} of pipeline {}, {}",
            text::visible(pipeline.as_str()),
            reason.as_str()
        )?;
        if let Some(wanted) = report.wanted.get(&(pipeline.clone(), *reason)) {
            writeln!(out, "    {}", text::visible(wanted))?;
        }
    }
    writeln!(out, "cannot be read, stay where they are: {}", report.unreadable)?;
    for (key, problem) in report.problems.iter().take(NAMED) {
        writeln!(out, "  {}: {}", text::visible(key), text::visible(problem))?;
    }
    if !request.dry_run {
        writeln!(out, "removed from EdgeX's store: {}", report.removed)?;
    }
    if !report.set_aside.is_empty() && !request.dry_run {
        writeln!(
            out,
            "What is set aside is in the error collection and still in EdgeX's store: with pipelines that have these \
             functions, import again."
        )?;
    }
    Ok(())
}
