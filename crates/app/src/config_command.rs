//! `edgehold config …`: the configuration of a service checked, shown, compared and changed, beside it or without it.
//!
//! The answer goes to standard output, everything else to standard error. Exit code: 0 when all is well, 1 when the
//! answer is no, 2 when there is none.

mod call;
mod yaml;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Read},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use edgehold::{
    AppService, Assignment, ChangePlan, Counterpart, Finding, FindingSeverity, Invocation, LogControl,
    LogLevel, LogOutput, Section, SettingDifference, SettingOrigin, SettingsView, ShownSetting,
};
use serde_json::{Value, json};

pub(crate) use self::call::ConfigCommand;
use self::call::{Verb, Writing};
use crate::{
    SERVICE_KEY, WRONG_CALL, print,
    store_command::text::{tell, with_causes},
};

/// How to call it.
pub(crate) const USAGE: &str = "Usage: edgehold [flags] config check [FILE]          every problem, with line and column
       edgehold [flags] config show [KEY]            what holds: everything, or what is below KEY
       edgehold [flags] config diff [FILE]           what differs from the provider, or from the defaults
       edgehold [flags] config push [FILE]           write the private file into the provider
       edgehold [flags] config get KEY               one setting
       edgehold [flags] config set KEY=VALUE ...     change settings in the provider, all in one transaction
       edgehold [flags] config unset KEY ...         remove settings from the provider

Beside the running service or without it. The flags are those of the service and stand before the command: -cp names the
provider, -cd, -p and -cf the private file, -cc the common one, -sk the service key. Without a provider, check, show, get
and diff work on the files and the environment. KEY is a path, Writable/LogLevel or Writable.LogLevel. Secrets are never
shown.

check: errors keep a service from starting or a value from being used, warnings are likely mistakes, notes are worth
knowing. With a provider it is a dry run of a start: what would be seeded, what would be rejected, which overrides of the
environment would have no effect, whether the pipelines can be built. Nothing is written.
diff: with a provider the private file and the provider's private section, otherwise the defaults and what holds.
push: the file as it is, without overrides of the environment; only settings that the provider lacks, unless more is asked
for. A pipeline with its functions goes in one transaction. Refused when it would bring in what check calls an error, as
set and unset are.
set: KEY=- reads the value from standard input, so that a secret is in no history of a shell:
     edgehold -cp=... config set Writable/InsecureSecrets/mqtt/SecretData/password=- < password.txt

Options:
  --file FILE       the private file, in place of the one the flags name (check, show, diff, push, get)
  --strict          warnings count as errors (check)
  --origin          with where each setting comes from: file and line, variable, section (show)
  --defaults        compare with the defaults, also with a provider (diff)
  --running[=URL]   compare with what the running service says, at URL or where the settings say it listens (diff)
  --overwrite       also settings that the provider holds with another value (push)
  --prune --yes     remove settings that are not in the file (push)
  --common SECTION  all-services or app-services, in place of the private section (get, set, unset)
  --private         only the private section (get)
  --recursive       KEY may be a folder (unset)
  --dry-run         only say what would be written (push, set, unset)
  --force           write in spite of errors, and keys that are no settings (push, set, unset)
  --json            for scripts: one JSON document; for diff and show --origin one object a line
  -h, --help        this text

Exit code:
  0   done; for check: no errors; for diff: nothing differs
  1   check found errors, diff differences, get no such setting; push, set or unset was refused, or somebody else changed
      the same setting at that moment
  2   a wrong call, or the provider or a file cannot be read (for check a file is a finding)
";

/// The exit code of an answer that is no.
const NO: u8 = 1;

/// Runs a command and says how it ended.
pub(crate) fn run(invocation: &Invocation, command: ConfigCommand) -> ExitCode {
    LogControl::init(
        "edgehold",
        LogLevel::Warn,
        LogOutput::Stderr,
        invocation.flags.log_format,
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime
        .context("no async runtime")
        .and_then(|runtime| runtime.block_on(execute(invocation, command)));
    match ended {
        Ok(Ended { text, code }) => match print(&text) {
            ExitCode::SUCCESS => ExitCode::from(code),
            unprinted => unprinted,
        },
        Err(error) => {
            tell(&with_causes(&error));
            match error.downcast_ref::<edgehold::SettingsError>() {
                Some(error) if error.is_conflict() => ExitCode::from(NO),
                _ => ExitCode::from(WRONG_CALL),
            }
        }
    }
}

/// What a command prints, and its exit code.
struct Ended {
    text: String,
    code: u8,
}

impl Ended {
    fn well(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: 0,
        }
    }

    fn no(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: NO,
        }
    }
}

async fn execute(invocation: &Invocation, command: ConfigCommand) -> Result<Ended> {
    let ConfigCommand { verb, file, json } = command;
    let view = AppService::new(SERVICE_KEY)
        .settings(invocation, file.as_deref())
        .await?;
    match verb {
        Verb::Check { strict } => Ok(check(&view, strict, json)),
        Verb::Show { prefix, origin } => show(&view, &prefix, origin, json),
        Verb::Diff { with } => {
            let with = with.unwrap_or(match view.provider() {
                Some(_) => Counterpart::Provider,
                None => Counterpart::Defaults,
            });
            diff(&view, &with, json).await
        }
        Verb::Push {
            options,
            writing,
            yes,
        } => {
            let plan = view.plan_push(options)?;
            let removes = plan.changes.iter().any(|change| change.new.is_none());
            if removes && !yes && !writing.dry_run {
                tell("settings would be removed, see above; --yes does it");
                return Ok(Ended::no(planned(&plan, 0, true, json)));
            }
            write(&view, &plan, writing, json).await
        }
        Verb::Get { key, section } => get(&view, &key, section, json),
        Verb::Set {
            assignments,
            section,
            writing,
        } => {
            let assignments = assignments
                .into_iter()
                .map(|(path, text)| {
                    let text = match text.as_str() {
                        "-" => from_standard_input(&path)?,
                        _ => text,
                    };
                    Ok(Assignment { path, text })
                })
                .collect::<Result<Vec<_>>>()?;
            let plan = view.plan_set(section, &assignments)?;
            tell_hidden(&view, section, &plan)?;
            write(&view, &plan, writing, json).await
        }
        Verb::Unset {
            keys,
            section,
            recursive,
            writing,
        } => {
            let held = view.paths(section)?;
            let mut paths = Vec::new();
            for key in &keys {
                let folder = format!("{key}/");
                let below = held.iter().filter(|path| path.starts_with(&folder)).count();
                match held.contains(key) {
                    false if below == 0 => {
                        tell(&format!("{key} is not there"));
                        return Ok(Ended::no(""));
                    }
                    false if !recursive => {
                        tell(&format!(
                            "{key} is a folder with {below} settings; --recursive removes them"
                        ));
                        return Ok(Ended::no(""));
                    }
                    _ => {}
                }
                let is_meant = |path: &&String| *path == key || (recursive && path.starts_with(&folder));
                paths.extend(held.iter().filter(is_meant).cloned());
            }
            write(&view, &view.plan_unset(section, &paths)?, writing, json).await
        }
    }
}

/// Says which settings of a common section have no effect here, because a section above has them too.
fn tell_hidden(view: &SettingsView, section: Section, plan: &ChangePlan) -> Result<()> {
    for change in &plan.changes {
        for (above, name) in [
            (Section::Private, "private"),
            (Section::AppServices, "app-services"),
        ] {
            if above > section && view.leaf(above, &change.path)?.is_some() {
                let service = view.service_key();
                tell(&format!(
                    "{} has no effect on {service}: its {name} section has another value",
                    change.path
                ));
                break;
            }
        }
    }
    Ok(())
}

fn from_standard_input(key: &str) -> Result<String> {
    let mut input = io::stdin();
    if input.is_terminal() {
        tell(&format!("the value of {key}, then Ctrl-D:"));
    }
    let mut text = String::new();
    input
        .read_to_string(&mut text)
        .with_context(|| format!("the value of {key} cannot be read from standard input"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn check(view: &SettingsView, strict: bool, json: bool) -> Ended {
    let report = view.check();
    let [errors, warnings, notes] = [
        FindingSeverity::Error,
        FindingSeverity::Warning,
        FindingSeverity::Note,
    ]
    .map(|severity| report.count(severity));
    let text = if json {
        let seeds = report.seeds.as_ref().map(|seeds| {
            let seed = |(key, value): &(String, String)| json!({"key": key, "value": value});
            seeds.iter().map(seed).collect::<Vec<_>>()
        });
        line(&json!({
            "serviceKey": view.service_key().as_str(),
            "provider": view.provider(),
            "errors": errors,
            "warnings": warnings,
            "notes": notes,
            "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
            "pipelines": report.pipelines,
            "seeds": seeds,
        }))
    } else {
        let mut text = String::new();
        for finding in &report.findings {
            let _ = writeln!(text, "{finding}");
        }
        if let (Some(seeds), Some(provider)) = (&report.seeds, view.provider()) {
            let _ = writeln!(
                text,
                "a start would write {} into {provider}",
                count(seeds.len(), "setting")
            );
            for (path, value) in seeds {
                let _ = writeln!(text, "  {path} = {value}");
            }
        }
        if !report.pipelines.is_empty() {
            let _ = writeln!(text, "pipelines: {}", report.pipelines.join(", "));
        }
        let parts = [
            count(errors, "error"),
            count(warnings, "warning"),
            count(notes, "note"),
        ];
        let _ = writeln!(text, "{}", parts.join(", "));
        text
    };
    match errors > 0 || (strict && warnings > 0) {
        true => Ended::no(text),
        false => Ended::well(text),
    }
}

fn show(view: &SettingsView, prefix: &str, origin: bool, json: bool) -> Result<Ended> {
    let settings = view.settings()?;
    let shown = below(&settings, prefix);
    if shown.is_empty() {
        tell(&format!("there is no setting {prefix}, nor anything below it"));
        return Ok(Ended::no(""));
    }
    Ok(Ended::well(match (json, origin) {
        (false, origin) => yaml::tree(&shown, origin),
        (true, true) => shown.iter().map(|setting| line(&setting_json(setting))).collect(),
        (true, false) => {
            let mut root = json!({});
            for setting in shown {
                let folder = setting
                    .path
                    .split('/')
                    .fold(&mut root, |parent, name| &mut parent[name]);
                *folder = setting.json.clone();
            }
            pretty(&root)
        }
    }))
}

fn get(view: &SettingsView, key: &str, section: Option<Section>, json: bool) -> Result<Ended> {
    let missing = || {
        tell(&format!("{key} is not set"));
        Ok(Ended::no(""))
    };
    if let Some(section) = section {
        let Some(text) = view.leaf(section, key)? else {
            return missing();
        };
        return Ok(Ended::well(match json {
            true => line(&json!({"key": key, "value": text})),
            false => format!("{text}\n"),
        }));
    }
    let settings = view.settings()?;
    match below(&settings, key)[..] {
        [] => missing(),
        [one] if one.path == key => Ok(Ended::well(match json {
            true => line(&setting_json(one)),
            false => format!("{}\n", one.text),
        })),
        // A folder.
        ref several if json => Ok(Ended::well(
            several
                .iter()
                .map(|one| line(&setting_json(one)))
                .collect::<String>(),
        )),
        ref several => Ok(Ended::well(several.iter().fold(
            String::new(),
            |mut text, one| {
                let _ = writeln!(text, "{}={}", one.path, one.text);
                text
            },
        ))),
    }
}

/// The settings at or below a path; all for an empty one.
fn below<'a>(settings: &'a [ShownSetting], path: &str) -> Vec<&'a ShownSetting> {
    let folder = format!("{path}/");
    let is_below = |setting: &&ShownSetting| {
        path.is_empty() || setting.path == path || setting.path.starts_with(&folder)
    };
    settings.iter().filter(is_below).collect()
}

async fn diff(view: &SettingsView, with: &Counterpart, json: bool) -> Result<Ended> {
    let comparison = view.compare(with).await?;
    for rejection in &comparison.rejected {
        tell(&format!("the running service does not use {rejection}"));
    }
    let text = if json {
        comparison
            .differences
            .iter()
            .map(|difference| line(&difference_json(difference)))
            .collect()
    } else if comparison.differences.is_empty() {
        format!(
            "nothing differs between {} and {}\n",
            comparison.left, comparison.right
        )
    } else {
        let mut text = format!("--- {}\n+++ {}\n", comparison.left, comparison.right);
        for difference in &comparison.differences {
            let _ = writeln!(text, "{}", difference_line(difference));
        }
        text
    };
    match comparison.differences.is_empty() {
        true => Ok(Ended::well(text)),
        false => Ok(Ended::no(text)),
    }
}

/// One line: path, left, right, origin.
fn difference_line(difference: &SettingDifference) -> String {
    format!(
        "{}\t{} -> {}\t({})",
        difference.path,
        quoted(difference.left.as_deref()),
        quoted(difference.right.as_deref()),
        difference.origin
    )
}

/// A text in quotes, or a dash where there is none.
fn quoted(text: Option<&str>) -> String {
    text.map_or("-".to_owned(), |text| format!("'{text}'"))
}

/// Writes a plan, unless something speaks against it.
async fn write(view: &SettingsView, plan: &ChangePlan, writing: Writing, json: bool) -> Result<Ended> {
    for objection in &plan.objections {
        tell(&objection.to_string());
    }
    if !plan.objections.is_empty() && !writing.force {
        tell("nothing has been written; --force writes all the same");
        return Ok(Ended::no(match json {
            true => planned(plan, 0, writing.dry_run, true),
            false => String::new(),
        }));
    }
    let written = match writing.dry_run {
        true => 0,
        false => view.write(plan).await?,
    };
    let mut ended = Ended::well(planned(plan, written, writing.dry_run, json));
    if written != plan.changes.len() && !writing.dry_run {
        bail!("{written} of {} settings were written", plan.changes.len());
    }
    if !plan.objections.is_empty() && writing.dry_run {
        ended.code = NO;
    }
    Ok(ended)
}

/// What a plan changes, and what has been written of it.
fn planned(plan: &ChangePlan, written: usize, dry_run: bool, json: bool) -> String {
    if json {
        let changes = plan.changes.iter().map(|change| {
            let effect = if change.is_hot {
                "at once"
            } else {
                "at the next start"
            };
            json!({"key": change.path, "old": change.old, "new": change.new, "effect": effect})
        });
        return line(&json!({
            "dryRun": dry_run,
            "written": written,
            "changes": changes.collect::<Vec<_>>(),
            "kept": plan.kept.iter().map(difference_json).collect::<Vec<_>>(),
            "objections": plan.objections.iter().map(finding_json).collect::<Vec<_>>(),
        }));
    }
    let mut text = String::new();
    for change in &plan.changes {
        let when = if change.is_hot { "" } else { " (at the next start)" };
        let (old, new) = (quoted(change.old.as_deref()), quoted(change.new.as_deref()));
        let _ = writeln!(text, "{}: {old} -> {new}{when}", change.path);
    }
    for kept in &plan.kept {
        let (file, held) = (quoted(kept.left.as_deref()), quoted(kept.right.as_deref()));
        let _ = writeln!(
            text,
            "{}: {held} is kept, the file has {file} (--overwrite)",
            kept.path
        );
    }
    let _ = match (plan.changes.len(), dry_run) {
        (0, _) => writeln!(text, "nothing to write"),
        (changes, true) => writeln!(text, "{} would be written", count(changes, "setting")),
        (_, false) => writeln!(text, "{} written", count(written, "setting")),
    };
    text
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.as_str(),
        "origin": origin_json(&finding.origin),
        "key": finding.key,
        "message": finding.message,
        "suggestion": finding.suggestion,
    })
}

fn setting_json(setting: &ShownSetting) -> Value {
    json!({"key": setting.path, "value": setting.json, "origin": origin_json(&setting.origin)})
}

fn difference_json(difference: &SettingDifference) -> Value {
    json!({
        "key": difference.path,
        "left": difference.left,
        "right": difference.right,
        "origin": origin_json(&difference.origin),
    })
}

fn origin_json(origin: &SettingOrigin) -> Value {
    json!({
        "layer": origin.layer,
        "file": origin.file,
        "line": origin.place.map(|(line, _)| line),
        "column": origin.place.map(|(_, column)| column),
        "variable": origin.variable,
    })
}

fn line(json: &Value) -> String {
    format!("{json}\n")
}

fn pretty(json: &Value) -> String {
    format!("{json:#}\n")
}
