//! `edgehold pipeline test …`: what each function of a pipeline makes of a message.
//!
//! The answer goes to standard output, everything else to standard error.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use edgehold::{
    AppService, Data, Generation, Invocation, LogControl, LogLevel, LogOutput, RehearsalReport,
    RehearsalRequest, StepEnd,
};

use crate::{
    SERVICE_KEY, print,
    store_command::text::{tell, with_causes},
};

/// How to call it.
pub(crate) const USAGE: &str = "Usage: edgehold [flags] pipeline test --config FILE --event FILE [options]

Runs the pipelines of a configuration file on one message, function by function, and prints what each makes of it. Needs
no broker and stores nothing; exports are not sent. The flags are those of the service: -cc names a common configuration.

Options:
  --config FILE    the private configuration file, for example res/sample/configuration.yaml
  --event FILE     the message: as on the bus, in its envelope as JSON, or the payload alone, as JSON or CBOR
  --pipeline ID    only this pipeline; otherwise all
  --topic T        the topic it comes from: only pipelines that take it, with '{receivedtopic}' filled in
  --send           let exports send
  -h, --help       this text

Exit code: 0 when no function failed (a message may be filtered out), 1 when one did or there is nothing to run, 2 for a
wrong call.
";

/// A call of `pipeline`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PipelineTest {
    config: PathBuf,
    event: PathBuf,
    pipeline: Option<String>,
    topic: Option<String>,
    sends: bool,
}

impl PipelineTest {
    /// Reads the words behind `pipeline`; none when help is asked for.
    ///
    /// # Errors
    /// What is wrong with the call.
    pub(crate) fn parse(words: &[&str]) -> Result<Option<Self>, String> {
        let (mut verb, mut config, mut event) = (None, None, None);
        let mut test = Self::default();
        let mut rest = words.iter().copied();
        while let Some(word) = rest.next() {
            let Some(option) = word.strip_prefix('-') else {
                if verb.replace(word).is_some() {
                    return Err(format!("'{word}' is too much"));
                }
                continue;
            };
            let option = option.strip_prefix('-').unwrap_or(option);
            let (name, given) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            match (name, given) {
                ("h" | "help", None) => return Ok(None),
                ("send", None) => {
                    test.sends = true;
                    continue;
                }
                ("h" | "help" | "send", Some(_)) => return Err(format!("--{name} takes no value")),
                ("config" | "event" | "pipeline" | "topic", _) => {}
                _ => return Err(format!("unknown option '{word}'")),
            }
            let value = given
                .or_else(|| rest.next())
                .ok_or_else(|| format!("--{name} needs a value"))?;
            match name {
                "config" => config = Some(PathBuf::from(value)),
                "event" => event = Some(PathBuf::from(value)),
                "pipeline" => test.pipeline = Some(value.to_owned()),
                _ => test.topic = Some(value.to_owned()),
            }
        }
        match verb {
            Some("test") => {}
            Some(other) => return Err(format!("unknown command 'pipeline {other}'")),
            None => return Err("pipeline what? There is 'pipeline test'".to_owned()),
        }
        test.config = config.ok_or("--config is missing")?;
        test.event = event.ok_or("--event is missing")?;
        Ok(Some(test))
    }
}

/// Runs the test and says how it ended.
pub(crate) fn run(invocation: &Invocation, test: PipelineTest) -> ExitCode {
    LogControl::init(
        "edgehold",
        LogLevel::Warn,
        LogOutput::Stderr,
        invocation.flags.log_format,
    );
    match report(invocation, test) {
        Ok((text, success)) => {
            let printed = print(&text);
            if success { printed } else { ExitCode::FAILURE }
        }
        Err(error) => {
            tell(&format!("cannot test the pipeline: {}", with_causes(&error)));
            ExitCode::FAILURE
        }
    }
}

fn report(invocation: &Invocation, test: PipelineTest) -> Result<(String, bool)> {
    let message = std::fs::read(&test.event).with_context(|| test.event.display().to_string())?;
    let request = RehearsalRequest {
        configuration: test.config,
        message: message.into(),
        pipeline: test.pipeline,
        topic: test.topic,
        sends: test.sends,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let service = AppService::new(SERVICE_KEY);
    let report = runtime.block_on(service.rehearse(invocation, &request))?;
    let generation = match invocation.flags.generation() {
        3 => Generation::V3,
        _ => Generation::V4,
    };
    let success = report
        .pipelines
        .iter()
        .all(|(_, rehearsed)| rehearsed.is_success());
    Ok((told(&report, generation), success))
}

/// The report as text: each step with its number and name, its output indented below.
fn told(report: &RehearsalReport, generation: Generation) -> String {
    let mut text = String::new();
    let kind = report.input.kind();
    push(
        &mut text,
        &format!("input: {}", kind.as_str()),
        &shown(&report.input, generation),
    );
    for (pipeline, rehearsed) in &report.pipelines {
        let _ = writeln!(text, "\npipeline {}", pipeline.id());
        let mut input = &report.input;
        for (number, (name, end)) in rehearsed.steps.iter().enumerate() {
            let start = format!("{}. {name}", number + 1);
            match end {
                StepEnd::Continued(data) => {
                    let same = if data == input { ", as it came" } else { "" };
                    let line = format!("{start}: {}{same}", data.kind().as_str());
                    if same.is_empty() {
                        push(&mut text, &line, &shown(data, generation));
                    } else {
                        push(&mut text, &line, "");
                    }
                    input = data;
                }
                StepEnd::HandedOnNothing => {
                    push(
                        &mut text,
                        &format!("{start}: nothing, what follows gets the input of the pipeline"),
                        "",
                    );
                    input = &report.input;
                }
                StepEnd::Stopped => push(&mut text, &format!("{start}: stopped here, filtered out"), ""),
                StepEnd::NotSent(destination) => {
                    let bytes = input.to_bytes(generation).len();
                    let line = format!("{start}: not sent, {bytes} bytes for {destination} (--send sends)");
                    push(&mut text, &line, "");
                }
                StepEnd::StillWaiting => push(
                    &mut text,
                    &format!("{start}: waits for more than ten seconds"),
                    "",
                ),
                StepEnd::Failed(error) => push(&mut text, &format!("{start}: failed: {}", error.chain()), ""),
                other => push(&mut text, &format!("{start}: {other:?}"), ""),
            }
        }
        for step in pipeline.steps().iter().skip(rehearsed.steps.len()) {
            push(&mut text, &format!("-. {}: not reached", step.name), "");
        }
        if let Some((data, content_type)) = &rehearsed.response {
            let line = match content_type.as_str() {
                "" => "response".to_owned(),
                content_type => format!("response: {content_type}"),
            };
            push(&mut text, &line, &shown(&Data::Bytes(data.clone()), generation));
        }
    }
    text
}

fn push(text: &mut String, line: &str, output: &str) {
    let _ = writeln!(text, "{line}");
    for line in output.lines() {
        let _ = writeln!(text, "   {line}");
    }
}

/// The bytes an export would send, as text if they are, else how many they are.
fn shown(data: &Data, generation: Generation) -> String {
    let bytes = data.to_bytes(generation);
    match std::str::from_utf8(&bytes) {
        Ok(text)
            if !text.contains(|character: char| character.is_control() && !character.is_whitespace()) =>
        {
            text.to_owned()
        }
        _ => format!("{} bytes that are no text", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<PipelineTest>, String> {
        PipelineTest::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn options_come_in_any_order_with_one_or_two_dashes() {
        let expected = PipelineTest {
            config: "c.yaml".into(),
            event: "e.json".into(),
            pipeline: Some("float".to_owned()),
            topic: Some("edgex/a".to_owned()),
            sends: true,
        };
        for line in [
            "test --config c.yaml --event e.json --pipeline float --topic edgex/a --send",
            "-send --topic=edgex/a -config=c.yaml test --pipeline=float --event=e.json",
        ] {
            assert_eq!(parsed(line).as_ref(), Ok(&Some(expected.clone())), "{line}");
        }
        assert_eq!(parsed("--help"), Ok(None));
    }

    #[test]
    fn a_wrong_call_is_told_by_what_is_wrong() {
        for (line, problem) in [
            ("", "pipeline what?"),
            ("run", "unknown command 'pipeline run'"),
            ("test more", "'more' is too much"),
            ("test --config", "--config needs a value"),
            ("test --event e", "--config is missing"),
            ("test --config c", "--event is missing"),
            ("test --send=yes", "--send takes no value"),
            ("test --fast", "unknown option '--fast'"),
        ] {
            let told = parsed(line).unwrap_err();
            assert!(told.contains(problem), "{line}: {told}");
        }
    }
}
