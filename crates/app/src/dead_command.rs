//! `edgehold dead count|redrive|purge|export|import`: what becomes of the error collection, from outside.
//!
//! Which way to go (the running service over REST, or the store of a stopped one) is `edgehold::ErrorAdmin`'s to find out.
//! Progress goes to standard error and only when that is a terminal; Ctrl-C ends a run after the page it is at.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use edgehold::{
    AdminOrder, ErrorAction, ErrorAdmin, Invocation, ListRequest, ObjectFilter, ObjectName, ObjectState,
    StoredObject, Timestamp, record,
    wire::{Count, RunBody},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    SERVICE_KEY,
    command::{DeadCommand, RunOptions, Which},
    store_command::{block_on, filter, now, text},
};

/// Objects that are read at once; fewer when they are large.
const PAGE: usize = 256;
/// How long a service that ends during a run is waited for, unless something else is said.
const PATIENCE: Duration = Duration::from_secs(120);
/// Objects that are brought back at once, and the bytes of payload at which no more are.
const IMPORT_PAGE: usize = 200;
const IMPORT_PAGE_BYTES: usize = 8 << 20;

/// Runs a command and says how it ended.
pub(crate) fn run(invocation: &Invocation, command: DeadCommand) -> ExitCode {
    let what = match &command {
        DeadCommand::Count { .. } => "count",
        DeadCommand::Run(options) => match options.action {
            ErrorAction::Redrive => "re-drive",
            ErrorAction::Purge => "purge",
        },
        DeadCommand::Export { .. } => "export",
        DeadCommand::Import(_) => "import",
    };
    block_on(invocation, what, execute(invocation, command))
}

async fn execute(invocation: &Invocation, command: DeadCommand) -> Result<ExitCode> {
    let admin = ErrorAdmin::new(invocation, SERVICE_KEY).await?;
    match command {
        DeadCommand::Count { which, json } => {
            let order = AdminOrder {
                action: ErrorAction::Purge,
                filter: meant(&admin, &which).await?,
                rate: None,
                patience: PATIENCE,
            };
            write_count(&admin.count(&order).await?, json)?;
            Ok(ExitCode::SUCCESS)
        }
        DeadCommand::Run(options) => move_out(invocation, &admin, options).await,
        DeadCommand::Export { which, to } => {
            let filter = meant(&admin, &which).await?;
            export(&admin, filter, to.as_deref()).await?;
            Ok(ExitCode::SUCCESS)
        }
        DeadCommand::Import(file) => {
            import(&admin, &file).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What a command means by these options: an object that is named by its number is looked up.
async fn meant(admin: &ErrorAdmin, which: &Which) -> Result<ObjectFilter> {
    let mut meant = filter(which, now());
    let view = match which
        .objects
        .iter()
        .any(|name| matches!(name, ObjectName::Seq(_)))
    {
        true => admin.view().await?,
        false => None,
    };
    for name in &which.objects {
        meant.ids.push(match (name, &view) {
            (ObjectName::Id(id), _) => *id,
            (ObjectName::Seq(seq), Some(view)) => match view.find(*name).await? {
                Some(object) if object.state == ObjectState::Error => object.id,
                _ => bail!("there is no object {seq} in the error collection"),
            },
            (ObjectName::Seq(seq), None) => {
                bail!("in this store only its service can look up object {seq}: name it by its id")
            }
        });
    }
    if let Some(view) = view {
        view.close().await;
    }
    Ok(meant)
}

/// What was named and is not there is a failure; a number that is not there has been told before.
fn found(options: &RunOptions, objects: u64) -> ExitCode {
    if objects > 0 || options.which.objects.is_empty() {
        return ExitCode::SUCCESS;
    }
    text::tell(match options.action {
        ErrorAction::Redrive => {
            "no such object was given up (what is corrupt is re-driven only with --reason corrupt)"
        }
        ErrorAction::Purge => "no such object was given up",
    });
    ExitCode::FAILURE
}

/// Re-drives or purges.
async fn move_out(invocation: &Invocation, admin: &ErrorAdmin, options: RunOptions) -> Result<ExitCode> {
    let order = AdminOrder {
        action: options.action,
        filter: meant(admin, &options.which).await?,
        rate: options.rate,
        patience: options.wait.unwrap_or(PATIENCE),
    };
    if options.dry_run {
        let count = admin.count(&order).await?;
        write_count(&count, options.json)?;
        return Ok(found(&options, count.objects));
    }
    let begun = now();
    let bar = progress();
    let cancelled = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Then nobody can ask for it.
            std::future::pending::<()>().await;
        }
    };
    let run = admin
        .carry_out(&order, cancelled, |run| {
            bar.set_length(run.meant);
            bar.set_position(run.done);
            bar.set_message(run.problem.clone().unwrap_or_default());
        })
        .await;
    bar.finish_and_clear();
    let run = run?;
    let mut out = io::stdout().lock();
    if options.json {
        serde_json::to_writer(&mut out, &run)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", told(&run, now().saturating_since(begun)))?;
    }
    if run.state == "done" {
        return Ok(found(&options, run.meant));
    }
    let program = std::env::args().collect::<Vec<_>>();
    let flags = &program[..program.len().saturating_sub(invocation.command.len())];
    let words = flags.iter().cloned().chain(words_to_go_on(&options, &run));
    let line: Vec<_> = words.map(|word| text::quoted(&word)).collect();
    writeln!(io::stderr(), "To go on with what is left:\n{}", line.join(" "))?;
    Ok(ExitCode::FAILURE)
}

/// The command that goes on with a run: what was given up since it began is not meant.
fn words_to_go_on(options: &RunOptions, run: &RunBody) -> Vec<String> {
    let RunBody { filter, action, .. } = run;
    let mut words = vec!["dead".to_owned(), action.clone()];
    words.extend(filter.ids.iter().cloned());
    let time = |millis: Option<i64>| millis.map(|millis| text::time(Timestamp::from_unix_millis(millis)));
    let given = [
        ("pipeline", filter.pipelines.first().cloned()),
        ("device", filter.devices.first().cloned()),
        ("reason", filter.reasons.first().cloned()),
        ("newer-than", time(filter.ended_from)),
        ("older-than", time(filter.ended_before)),
        ("rate", run.rate.map(|rate| rate.to_string())),
    ];
    for (name, value) in given {
        words.extend(value.map(|value| format!("--{name}={value}")));
    }
    words.extend(options.json.then(|| "--json".to_owned()));
    words
}

/// How a run went, in a line.
fn told(run: &RunBody, took: Duration) -> String {
    let what = match run.action.as_str() {
        "purge" => "purged",
        _ => "re-driven",
    };
    let rest = run.meant.saturating_sub(run.done);
    let problem = run.problem.as_deref().unwrap_or("it was ended");
    let (known, end) = match run.state.as_str() {
        "done" => ("", String::new()),
        "cancelled" => ("", format!("; cancelled, {rest} are left")),
        // What was done after the last word from the service is not known.
        state => (
            "at least ",
            format!("; {state}, at most {rest} are left: {}", text::visible(problem)),
        ),
    };
    format!(
        "{what}: {known}{} of {} objects ({}) in {:.1} s{end}",
        run.done,
        run.meant,
        text::size(usize::try_from(run.payload_bytes).unwrap_or(usize::MAX)),
        took.as_secs_f64()
    )
}

/// A bar on a terminal, and nothing anywhere else.
pub(crate) fn progress() -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec}, {eta} left {msg}");
    ProgressBar::with_draw_target(Some(0), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn write_count(count: &Count, json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, count)?;
        writeln!(out)?;
        return Ok(());
    }
    let now = now();
    let age = |millis| text::age(now.saturating_since(Timestamp::from_unix_millis(millis)));
    let mut lines = vec![["PIPELINE", "REASON", "OBJECTS", "SIZE", "FIRST", "LAST"].map(str::to_owned)];
    for group in &count.groups {
        lines.push([
            text::visible(&group.pipeline),
            group.reason.clone().unwrap_or_else(|| "-".to_owned()),
            group.objects.to_string(),
            text::size(usize::try_from(group.payload_bytes).unwrap_or(usize::MAX)),
            age(group.first),
            age(group.last),
        ]);
    }
    if !count.groups.is_empty() {
        let width = |column: usize| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        for [pipeline, reason, objects, size, first, last] in &lines {
            let [w0, w1, w2, w3, w4, w5] = widths;
            writeln!(
                out,
                "{pipeline:<w0$}  {reason:<w1$}  {objects:>w2$}  {size:>w3$}  {first:>w4$}  {last:>w5$}"
            )?;
        }
    }
    let size = text::size(usize::try_from(count.payload_bytes).unwrap_or(usize::MAX));
    writeln!(out, "{} objects ({size})", count.objects)?;
    Ok(())
}

/// Writes objects down, a JSON object (`edgehold::record`) a line.
async fn export(admin: &ErrorAdmin, filter: ObjectFilter, to: Option<&Path>) -> Result<()> {
    let mut out: BufWriter<Box<dyn Write>> = BufWriter::new(match to {
        Some(path) => {
            let file = File::create_new(path).with_context(|| {
                format!(
                    "{} cannot be made (what is there is not overwritten)",
                    path.display()
                )
            })?;
            Box::new(file)
        }
        None => Box::new(io::stdout().lock()),
    });
    let view = admin.view().await?;
    let (mut after_seq, mut written) = (0, 0_usize);
    let bar = progress();
    loop {
        let next = match &view {
            Some(view) => {
                let page = view
                    .list(ListRequest {
                        states: vec![ObjectState::Error],
                        filter: filter.clone(),
                        after_seq,
                        limit: PAGE,
                    })
                    .await?;
                for object in &page.objects {
                    out.write_all(&record::to_json(object))?;
                    writeln!(out)?;
                }
                written += page.objects.len();
                page.next_after_seq
            }
            None => {
                let (objects, next) = admin.page(&filter, after_seq, PAGE).await?;
                for object in &objects {
                    writeln!(out, "{}", object.get())?;
                }
                written += objects.len();
                next
            }
        };
        bar.set_position(u64::try_from(written).unwrap_or(u64::MAX));
        match next {
            Some(next) => after_seq = next,
            None => break,
        }
    }
    out.flush()?;
    bar.finish_and_clear();
    if let Some(view) = view {
        view.close().await;
    }
    if let Some(path) = to {
        File::open(path)?.sync_all()?;
        writeln!(
            io::stdout().lock(),
            "exported: {written} objects to {}",
            path.display()
        )?;
    }
    Ok(())
}

/// Brings back what was exported.
async fn import(admin: &ErrorAdmin, path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut lines = (1..).zip(BufReader::new(file).lines());
    let mut read = 0_usize;
    let next_page = || -> Result<Vec<StoredObject>> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        while page.len() < IMPORT_PAGE && bytes < IMPORT_PAGE_BYTES {
            let Some((number, line)) = lines.next() else { break };
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let at = || format!("{} line {number}", path.display());
            let object = record::from_json(line.as_bytes()).with_context(at)?;
            anyhow::ensure!(
                object.state == ObjectState::Error,
                "{}: it was not in an error collection but {}",
                at(),
                object.state.as_str()
            );
            bytes += object.payload.len();
            page.push(object);
        }
        read += page.len();
        Ok(page)
    };
    let brought = admin.bring_back(next_page).await?;
    writeln!(
        io::stdout().lock(),
        "imported: {brought} of {read} objects; the others were there"
    )?;
    Ok(())
}
