//! `edgehold-bench-check MEASURE REPORT`: compares two reports of `make bench` and fails when the second is clearly worse.

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context, Result, bail};
use edgehold_bench::regression::regressions;
use serde_json::Value;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [measure, report] = arguments.as_slice() else {
        bail!("two reports are wanted: what is taken as the measure, and what is compared with it");
    };
    let worse = regressions(&read(measure)?, &read(report)?);
    let mut out = std::io::stdout().lock();
    if worse.is_empty() {
        writeln!(out, "nothing in {report} is clearly worse than in {measure}")?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in worse {
        writeln!(out, "worse: {line}")?;
    }
    Ok(ExitCode::FAILURE)
}

fn read(path: &str) -> Result<Value> {
    let text =
        std::fs::read(path).with_context(|| format!("{path} cannot be read: has 'make bench' run?"))?;
    serde_json::from_slice(&text).with_context(|| format!("{path} is no report"))
}
