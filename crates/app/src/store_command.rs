//! `edgehold store …` and `edgehold dead …`: looking at a store from outside.
//!
//! The answer goes to standard output, everything else to standard error. However large the store is, one page of
//! objects is in memory at a time.

mod care;
mod import;
mod page;
mod record;
mod table;
pub(crate) mod text;

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Result;
use edgehold::{
    Invocation, ListRequest, LogControl, LogLevel, LogOutput, ObjectFilter, ObjectState, StoreView,
    StoredObject, Timestamp,
};

use self::{record::Record, table::Table};
use crate::{
    SERVICE_KEY,
    command::{Form, ListOptions, ShowOptions, StoreCommand, Which},
};

/// Objects that are read at once.
const PAGE: usize = 256;

/// What a command means by these options; objects that are named are not among them.
pub(crate) fn filter(which: &Which, now: Timestamp) -> ObjectFilter {
    ObjectFilter {
        ids: Vec::new(),
        pipeline_ids: which.pipeline.clone().into_iter().collect(),
        version: None,
        devices: which.device.clone().into_iter().collect(),
        reasons: which.reason.into_iter().collect(),
        ended_from: which.newer_than.map(|moment| moment.before(now)),
        ended_before: which.older_than.map(|moment| moment.before(now)),
    }
}

/// Runs a command and says how it ended.
pub(crate) fn run(invocation: &Invocation, command: StoreCommand) -> ExitCode {
    let what = match command {
        StoreCommand::Count => "count",
        StoreCommand::List(_) => "list",
        StoreCommand::Show(_) => "show",
        StoreCommand::Import(_) => "import",
        StoreCommand::Copy(_) => "copy",
        StoreCommand::Check => "check",
        StoreCommand::Backup(_) => "back up",
    };
    block_on(invocation, what, execute(invocation, command))
}

/// Runs what is to be done beside a service and says how it ended.
pub(crate) fn block_on(
    invocation: &Invocation,
    what: &str,
    work: impl Future<Output = Result<ExitCode>>,
) -> ExitCode {
    LogControl::init(
        "edgehold",
        LogLevel::Warn,
        LogOutput::Stderr,
        invocation.flags.log_format,
    );
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            text::tell(&format!("no async runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(work) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            text::tell(&format!("cannot {what}: {}", text::with_causes(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of the output left early (`| head`), which is its right.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn execute(invocation: &Invocation, command: StoreCommand) -> Result<ExitCode> {
    match command {
        StoreCommand::Count => {
            let count = async |view: &StoreView, out: &mut Out| {
                writeln!(out, "{}", view.stats().await?.waiting())?;
                Ok(ExitCode::SUCCESS)
            };
            looking(invocation, count).await
        }
        StoreCommand::List(options) => {
            let list = async |view: &StoreView, out: &mut Out| {
                if !view.exists() {
                    text::tell(&format!(
                        "there is no store at {}: nothing has been stored yet",
                        view.place()
                    ));
                }
                list(view, options, out).await?;
                Ok(ExitCode::SUCCESS)
            };
            looking(invocation, list).await
        }
        StoreCommand::Show(options) => {
            let show = async |view: &StoreView, out: &mut Out| show(view, &options, out).await;
            looking(invocation, show).await
        }
        StoreCommand::Check => looking(invocation, async |view, out| care::check(view, out).await).await,
        StoreCommand::Backup(file) => {
            let back_up = async |view: &StoreView, out: &mut Out| care::back_up(view, &file, out).await;
            looking(invocation, back_up).await
        }
        StoreCommand::Import(request) => import::run(invocation, &request).await,
        StoreCommand::Copy(request) => care::copy(invocation, &request).await,
    }
}

type Out = BufWriter<io::StdoutLock<'static>>;

/// Does something with a store that is open for looking.
async fn looking(
    invocation: &Invocation,
    look: impl AsyncFnOnce(&StoreView, &mut Out) -> Result<ExitCode>,
) -> Result<ExitCode> {
    if let Some((spool, objects)) = edgehold::spooled_objects(invocation, SERVICE_KEY).await {
        text::tell(&format!(
            "{objects} objects wait in the spool {}, besides: they go into the store when it is back",
            spool.display()
        ));
    }
    let view = StoreView::open(invocation, SERVICE_KEY).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    let code = look(&view, &mut out).await?;
    out.flush()?;
    view.close().await;
    Ok(code)
}

/// Writes objects page by page.
async fn list(view: &StoreView, options: ListOptions, out: &mut impl Write) -> Result<()> {
    let mut table = Table::new(options.collection);
    let filter = filter(&options.which, now());
    let mut left = options.limit;
    let mut after_seq = options.after_seq;
    let mut written = 0_usize;
    let next = loop {
        let page = view
            .list(ListRequest {
                states: options.collection.states().to_vec(),
                filter: filter.clone(),
                after_seq,
                limit: left.map_or(PAGE, |left| left.min(PAGE)),
            })
            .await?;
        if options.json {
            for object in &page.objects {
                write_json(object, out)?;
            }
        } else {
            table.write(&page.objects, now(), out)?;
        }
        out.flush()?;
        written += page.objects.len();
        left = left.map(|left| left.saturating_sub(page.objects.len()));
        match page.next_after_seq {
            Some(next) if left != Some(0) => after_seq = next,
            next => break next,
        }
    };
    if options.json {
        return Ok(());
    }
    match next {
        Some(next) => writeln!(out, "\nThere may be more: --after {next}")?,
        None if written == 0 => writeln!(out, "no objects")?,
        None => {}
    }
    Ok(())
}

/// Writes one object; not finding it is an answer too.
async fn show(view: &StoreView, options: &ShowOptions, out: &mut impl Write) -> Result<ExitCode> {
    let Some(object) = view.find(options.name).await? else {
        text::tell(&format!("there is no such object in {}", view.place()));
        return Ok(ExitCode::FAILURE);
    };
    if !options.collection.states().contains(&object.state) {
        let elsewhere = match object.state {
            ObjectState::Error => "it is in the error collection: use 'dead show'",
            ObjectState::Success => "it has been delivered",
            ObjectState::New | ObjectState::Failed | ObjectState::Batched => {
                "it waits for another attempt: use 'store show'"
            }
        };
        text::tell(&format!("there is no such object here; {elsewhere}"));
        return Ok(ExitCode::FAILURE);
    }
    match options.form {
        Form::Page => page::write(&object, now(), out)?,
        Form::Json => write_json(&object, out)?,
        Form::Raw => out.write_all(&object.payload)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write_json(object: &StoredObject, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Record::of(object))?;
    writeln!(out)
}

/// The wall clock, which ages are told by.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
