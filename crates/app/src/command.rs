//! The words after the flags: which command they ask for, and its options.
//!
//! Flags stand before the command and are EdgeX's; options stand behind it and are read here. One or two dashes,
//! `--name value` or `--name=value`, in any order with the id.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use edgehold::{
    CopyRequest, ErrorAction, ErrorReason, ImportRequest, ObjectName, ObjectState, PipelineId, Timestamp,
    parse_go_duration,
};

use crate::{config_command::ConfigCommand, pipeline_command::PipelineTest, store_command::text};

/// How to call the commands.
pub(crate) const USAGE: &str = "Usage: edgehold [flags] store ls [options]         what waits for another attempt
       edgehold [flags] store show ID [options]    one of it, whole
       edgehold [flags] store count                how many wait: a number and nothing else
       edgehold [flags] store import [options]     take over what EdgeX's Store and Forward left
       edgehold [flags] store copy --from A --to B copy the store of a stopped service; A and B are a file or a
                                                   postgres://user@host:port/database
       edgehold [flags] store check                read every object: whether the store is sound
       edgehold [flags] store backup FILE          a consistent copy of the SQLite file, beside the service
       edgehold [flags] dead ls [options]          the error collection: what was given up
       edgehold [flags] dead show ID [options]     one of it, whole
       edgehold [flags] dead count [options]       how many, by pipeline and reason
       edgehold [flags] dead redrive WHICH         try them again, with a fresh count
       edgehold [flags] dead purge WHICH           remove them for good
       edgehold [flags] dead export [options]      write them down, payloads whole: a JSON object a line
       edgehold [flags] dead import FILE           bring back what was exported (with the service stopped)
       edgehold [flags] pipeline test ...          pipelines on a message: 'edgehold pipeline --help'
       edgehold [flags] config ...                 the configuration: 'edgehold config --help'
       edgehold settings                           every setting, as a Markdown table

Beside the running service or without it. A running service re-drives and purges itself, over REST, if it was started with
EDGEHOLD_ADMIN=write; the store of a stopped one is opened. One that speaks https shows a certificate for Service/Host that the
system trusts, or the authorities in the file EDGEHOLD_CACERT; EDGEHOLD_TLS_SERVER_NAME expects another name in it, and with
EDGEHOLD_TLS_VERIFY=false any certificate will do. The flags are those of the service (--configProvider,
--configDir, --profile, --data-dir, ...: 'edgehold --help') and say whose store it is. ID is the id or the SEQ of an object.
WHICH is such IDs, options that say which, or --all.

Options:
  --pipeline ID    only objects of this pipeline (all of 'dead', store ls)
  --device NAME    only objects about this device (dead)
  --reason NAME    only objects given up for this reason (dead): retries_exceeded, pipeline_changed,
                   pipeline_removed, permanent_error, too_old, capacity, undecodable, crashed, corrupt
  --older-than AGE only objects given up so long ago (dead): 90s, 15m, 12h, 168h, or a time: 2026-11-22T18:42:12.345Z
  --newer-than AGE only objects given up since then (dead)
  --all            all of them: has to be said (redrive, purge)
  --dry-run        count and change nothing (redrive, purge, import)
  --rate N         at most N objects a second (redrive, purge)
  --wait TIME      how long a service that ends meanwhile is waited for, to go on with it; default 2m (redrive, purge)
  --to FILE        write to this file instead of standard output (export)
  --from URL       where EdgeX keeps it: redis://user:password@host:port or postgres://user:password@host:port/database;
                   default: where Database/Type, Host and Port say (store import). Behind a database may stand, as for psql,
                   ?sslmode=MODE&sslrootcert=FILE&sslcert=FILE&sslkey=FILE. A password that is left out, where nobody
                   sees it among the processes, is PGPASSWORD or in the secret 'postgres'; for Redis REDISCLI_AUTH
  --keep           leave it where EdgeX has it, too; what is delivered meanwhile comes again with the next import
                   (store import)
  --limit N        at most so many, oldest first; 0 = all; default 50 (ls)
  --after SEQ      only objects behind this one: the next page (ls)
  --json           for scripts: one JSON object a line; times in milliseconds since 1970, payload in base64, and
                   as payloadText too when it is UTF-8 (ls, show, count, redrive, purge)
  --raw            the bytes of the payload and nothing else (show)
  -h, --help       this text

Exit code: 0, 1 when there is no such object, the store cannot be read or is not sound, copies do not agree, or something could
not be done to its end, 2 for a wrong call.
";

/// How many objects are listed unless asked otherwise.
const DEFAULT_LIMIT: usize = 50;

/// What the process was started for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// No word: the service.
    Run,
    /// A look at the store.
    Store(StoreCommand),
    /// Something with the error collection.
    Dead(DeadCommand),
    /// Pipelines on a message.
    Pipeline(PipelineTest),
    /// How to try pipelines.
    PipelineHelp,
    /// The configuration checked, shown, compared or changed.
    Config(ConfigCommand),
    /// How to do that.
    ConfigHelp,
    /// The table of all settings.
    Settings,
    /// How to call the commands.
    Help,
    /// The service with everything around it.
    #[cfg(feature = "demo")]
    Demo,
}

/// A look at the store.
#[derive(Debug, PartialEq)]
pub(crate) enum StoreCommand {
    /// How many wait.
    Count,
    /// Objects, a line each.
    List(ListOptions),
    /// One object, whole.
    Show(ShowOptions),
    /// What the original left.
    Import(ImportRequest),
    /// The store copied into another one.
    Copy(Box<CopyRequest>),
    /// Every object read.
    Check,
    /// A copy of the file.
    Backup(PathBuf),
}

/// Something with the error collection that is more than a look at objects.
#[derive(Debug, PartialEq)]
pub(crate) enum DeadCommand {
    /// How many, by pipeline and reason.
    Count {
        /// Which ones.
        which: Which,
        /// As JSON.
        json: bool,
    },
    /// Re-drive or purge.
    Run(RunOptions),
    /// Writes them down.
    Export {
        /// Which ones.
        which: Which,
        /// Where; none = standard output.
        to: Option<PathBuf>,
    },
    /// Brings back what was exported.
    Import(PathBuf),
}

/// What to re-drive or purge, and how.
#[derive(Debug, PartialEq)]
pub(crate) struct RunOptions {
    pub(crate) action: ErrorAction,
    pub(crate) which: Which,
    pub(crate) rate: Option<NonZeroU32>,
    /// None = the default.
    pub(crate) wait: Option<Duration>,
    pub(crate) dry_run: bool,
    pub(crate) json: bool,
}

/// Which objects of the error collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Which {
    pub(crate) objects: Vec<ObjectName>,
    pub(crate) pipeline: Option<PipelineId>,
    pub(crate) device: Option<String>,
    pub(crate) reason: Option<ErrorReason>,
    pub(crate) older_than: Option<Moment>,
    pub(crate) newer_than: Option<Moment>,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long before the call.
    Ago(Duration),
    /// Whenever the call is.
    At(Timestamp),
}

impl Moment {
    /// When that was, for a call that is made now.
    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(age) => now.saturating_sub(age),
            Self::At(at) => at,
        }
    }
}

/// The part of the store a command looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collection {
    /// What is still to be delivered.
    Waiting,
    /// The error collection.
    Dead,
}

impl Collection {
    /// The states of its objects.
    pub(crate) fn states(self) -> &'static [ObjectState] {
        match self {
            Self::Waiting => &[ObjectState::New, ObjectState::Failed, ObjectState::Batched],
            Self::Dead => &[ObjectState::Error],
        }
    }
}

/// Which objects to list, and how.
#[derive(Debug, PartialEq)]
pub(crate) struct ListOptions {
    pub(crate) collection: Collection,
    pub(crate) which: Which,
    /// None = all.
    pub(crate) limit: Option<usize>,
    pub(crate) after_seq: i64,
    pub(crate) json: bool,
}

/// Which object to show, and how.
#[derive(Debug, PartialEq)]
pub(crate) struct ShowOptions {
    pub(crate) collection: Collection,
    pub(crate) name: ObjectName,
    pub(crate) form: Form,
}

/// The form an object is shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Page,
    /// A JSON object.
    Json,
    /// The payload alone.
    Raw,
}

/// A call that cannot be understood.
#[derive(Debug, PartialEq)]
pub(crate) enum WrongCall {
    /// Words that are no command.
    UnknownCommand(String),
    /// A command with wrong options: what is wrong.
    Usage(String),
}

impl WrongCall {
    fn usage(problem: impl std::fmt::Display) -> Self {
        Self::Usage(problem.to_string())
    }
}

/// Reads the words after the flags.
pub(crate) fn parse(words: &[String]) -> Result<Command, WrongCall> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let collection = match words.first() {
        None => return Ok(Command::Run),
        #[cfg(feature = "demo")]
        Some(&"demo") if words.len() == 1 => return Ok(Command::Demo),
        #[cfg(not(feature = "demo"))]
        Some(&"demo") => {
            return Err(WrongCall::usage(
                "the demo is not built in: 'make run' builds and runs it",
            ));
        }
        Some(&"settings") if words.len() == 1 => return Ok(Command::Settings),
        Some(&"pipeline") => {
            let test = PipelineTest::parse(&words[1..]).map_err(WrongCall::Usage)?;
            return Ok(test.map_or(Command::PipelineHelp, Command::Pipeline));
        }
        Some(&"config") => {
            let command = ConfigCommand::parse(&words[1..]).map_err(WrongCall::Usage)?;
            return Ok(command.map_or(Command::ConfigHelp, Command::Config));
        }
        Some(&"store") => Collection::Waiting,
        Some(&"dead") => Collection::Dead,
        Some(_) => return Err(WrongCall::UnknownCommand(words.join(" "))),
    };
    let Some(options) = Options::read(&words[1..])? else {
        return Ok(Command::Help);
    };
    match collection {
        Collection::Dead if let Some(command) = options.dead()? => Ok(Command::Dead(command)),
        _ => options.into_command(collection).map(Command::Store),
    }
}

/// The words behind `store` or `dead`, before it is known which of them make sense together.
#[derive(Default)]
struct Options<'a> {
    /// What is not an option: the verb and its object.
    words: Vec<&'a str>,
    pipeline: Option<&'a str>,
    device: Option<&'a str>,
    reason: Option<&'a str>,
    older_than: Option<&'a str>,
    newer_than: Option<&'a str>,
    rate: Option<&'a str>,
    wait: Option<&'a str>,
    to: Option<&'a str>,
    from: Option<&'a str>,
    limit: Option<&'a str>,
    after: Option<&'a str>,
    json: bool,
    raw: bool,
    all: bool,
    dry_run: bool,
    keep: bool,
}

/// Options that say which objects of the error collection.
const WHICH: [&str; 5] = ["pipeline", "device", "reason", "older-than", "newer-than"];

impl<'a> Options<'a> {
    /// None when help is asked for.
    fn read(words: &[&'a str]) -> Result<Option<Self>, WrongCall> {
        let mut options = Self::default();
        let mut rest = words.iter().copied();
        while let Some(word) = rest.next() {
            let Some(option) = word.strip_prefix('-') else {
                options.words.push(word);
                continue;
            };
            let option = option.strip_prefix('-').unwrap_or(option);
            let (name, given) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            let value = match name {
                "pipeline" => &mut options.pipeline,
                "device" => &mut options.device,
                "reason" => &mut options.reason,
                "older-than" => &mut options.older_than,
                "newer-than" => &mut options.newer_than,
                "rate" => &mut options.rate,
                "wait" => &mut options.wait,
                "to" => &mut options.to,
                "from" => &mut options.from,
                "limit" => &mut options.limit,
                "after" => &mut options.after,
                "json" | "raw" | "all" | "dry-run" | "keep" | "h" | "help" if given.is_some() => {
                    return Err(WrongCall::usage(format_args!("--{name} takes no value")));
                }
                "json" => {
                    options.json = true;
                    continue;
                }
                "raw" => {
                    options.raw = true;
                    continue;
                }
                "all" => {
                    options.all = true;
                    continue;
                }
                "dry-run" => {
                    options.dry_run = true;
                    continue;
                }
                "keep" => {
                    options.keep = true;
                    continue;
                }
                "h" | "help" => return Ok(None),
                _ => return Err(WrongCall::usage(format_args!("unknown option '{word}'"))),
            };
            let Some(given) = given.or_else(|| rest.next()) else {
                return Err(WrongCall::usage(format_args!("--{name} needs a value")));
            };
            *value = Some(given);
        }
        Ok(Some(options))
    }

    fn into_command(self, collection: Collection) -> Result<StoreCommand, WrongCall> {
        match (collection, self.words.as_slice()) {
            (Collection::Waiting, ["count"]) => {
                self.only("count", &[])?;
                Ok(StoreCommand::Count)
            }
            (_, ["ls"]) => {
                let allowed = match collection {
                    Collection::Waiting => &["pipeline", "limit", "after", "json"][..],
                    Collection::Dead => &[
                        "pipeline",
                        "device",
                        "reason",
                        "older-than",
                        "newer-than",
                        "limit",
                        "after",
                        "json",
                    ],
                };
                self.only("ls", allowed)?;
                Ok(StoreCommand::List(self.list(collection)?))
            }
            (_, ["show", name]) => {
                self.only("show", &["json", "raw"])?;
                let form = match (self.json, self.raw) {
                    (true, true) => return Err(WrongCall::usage("--json or --raw, not both")),
                    (true, false) => Form::Json,
                    (false, true) => Form::Raw,
                    (false, false) => Form::Page,
                };
                Ok(StoreCommand::Show(ShowOptions {
                    collection,
                    name: object_name(name)?,
                    form,
                }))
            }
            (Collection::Waiting, ["import"]) => {
                self.only("import", &["from", "keep", "dry-run"])?;
                Ok(StoreCommand::Import(ImportRequest {
                    from: self.from.map(str::parse).transpose().map_err(WrongCall::usage)?,
                    dry_run: self.dry_run,
                    keep: self.keep,
                }))
            }
            (Collection::Waiting, ["copy"]) => {
                self.only("copy", &["from", "to"])?;
                let address = |name, text: Option<&str>| {
                    let text = text.ok_or_else(|| WrongCall::usage(format_args!("copy needs --{name}")))?;
                    text.parse().map_err(WrongCall::usage)
                };
                Ok(StoreCommand::Copy(Box::new(CopyRequest {
                    from: address("from", self.from)?,
                    to: address("to", self.to)?,
                })))
            }
            (Collection::Waiting, ["check"]) => {
                self.only("check", &[])?;
                Ok(StoreCommand::Check)
            }
            (Collection::Waiting, ["backup", file]) => {
                self.only("backup", &[])?;
                Ok(StoreCommand::Backup(PathBuf::from(file)))
            }
            (Collection::Waiting, ["backup", ..]) => Err(WrongCall::usage("backup needs one file")),
            (_, ["show"]) => Err(WrongCall::usage("show needs the id of an object")),
            (_, []) => Err(WrongCall::usage("which command?")),
            (_, words) => Err(WrongCall::usage(format_args!(
                "unknown command '{}'",
                words.join(" ")
            ))),
        }
    }

    /// A command about the error collection alone; none for those that there are of both.
    fn dead(&self) -> Result<Option<DeadCommand>, WrongCall> {
        let allowing = |more: &[&'static str]| [&WHICH[..], more].concat();
        let Some((verb, objects)) = self.words.split_first() else {
            return Ok(None);
        };
        Ok(Some(match (*verb, objects) {
            ("count", []) => {
                self.only("count", &allowing(&["json"]))?;
                DeadCommand::Count {
                    which: self.which(&[])?,
                    json: self.json,
                }
            }
            ("redrive" | "purge", _) => {
                self.only(verb, &allowing(&["all", "dry-run", "rate", "wait", "json"]))?;
                let which = self.which(objects)?;
                if which == Which::default() && !self.all {
                    return Err(WrongCall::usage(format_args!(
                        "{verb} which objects? Name ids, say which by options, or --all"
                    )));
                }
                if which != Which::default() && self.all {
                    return Err(WrongCall::usage("--all or some of them, not both"));
                }
                DeadCommand::Run(RunOptions {
                    action: match *verb {
                        "purge" => ErrorAction::Purge,
                        _ => ErrorAction::Redrive,
                    },
                    which,
                    rate: self.rate.map(|text| number("rate", text)).transpose()?,
                    wait: self.wait.map(wait).transpose()?,
                    dry_run: self.dry_run,
                    json: self.json,
                })
            }
            ("export", _) => {
                self.only("export", &allowing(&["to"]))?;
                DeadCommand::Export {
                    which: self.which(objects)?,
                    to: self.to.map(PathBuf::from),
                }
            }
            ("import", [file]) => {
                self.only("import", &[])?;
                DeadCommand::Import(PathBuf::from(file))
            }
            ("import", _) => return Err(WrongCall::usage("import needs one file")),
            _ => return Ok(None),
        }))
    }

    fn which(&self, objects: &[&str]) -> Result<Which, WrongCall> {
        let moment = |option: &str, text: Option<&str>| {
            text.map(|text| {
                let moment = match duration(text) {
                    Some(age) => Some(Moment::Ago(age)),
                    None => text::parse_time(text).map(Moment::At),
                };
                moment.ok_or_else(|| {
                    WrongCall::usage(format_args!(
                        "--{option} needs an age such as 90s, 15m or 12h, or a time such as 2026-11-22T18:42:12.345Z, not \
                         '{text}'"
                    ))
                })
            })
            .transpose()
        };
        let objects: Result<_, _> = objects.iter().map(|name| object_name(name)).collect();
        let pipeline = self.pipeline.map(PipelineId::try_new).transpose();
        let reason = self.reason.map(ErrorReason::from_name).transpose();
        Ok(Which {
            objects: objects?,
            pipeline: pipeline.map_err(WrongCall::usage)?,
            device: self.device.map(str::to_owned),
            reason: reason.map_err(WrongCall::usage)?,
            older_than: moment("older-than", self.older_than)?,
            newer_than: moment("newer-than", self.newer_than)?,
        })
    }

    /// Refuses what is given and means nothing to this command.
    fn only(&self, verb: &str, allowed: &[&str]) -> Result<(), WrongCall> {
        let given = [
            ("pipeline", self.pipeline.is_some()),
            ("device", self.device.is_some()),
            ("reason", self.reason.is_some()),
            ("older-than", self.older_than.is_some()),
            ("newer-than", self.newer_than.is_some()),
            ("rate", self.rate.is_some()),
            ("wait", self.wait.is_some()),
            ("to", self.to.is_some()),
            ("from", self.from.is_some()),
            ("keep", self.keep),
            ("all", self.all),
            ("dry-run", self.dry_run),
            ("limit", self.limit.is_some()),
            ("after", self.after.is_some()),
            ("json", self.json),
            ("raw", self.raw),
        ];
        match given
            .iter()
            .find(|(name, given)| *given && !allowed.contains(name))
        {
            Some((name, _)) => Err(WrongCall::usage(format_args!(
                "--{name} means nothing to '{verb}' here"
            ))),
            None => Ok(()),
        }
    }

    fn list(&self, collection: Collection) -> Result<ListOptions, WrongCall> {
        let limit = match self.limit {
            Some(text) => number("limit", text)?,
            None => DEFAULT_LIMIT,
        };
        Ok(ListOptions {
            collection,
            which: self.which(&[])?,
            limit: Some(limit).filter(|limit| *limit > 0),
            after_seq: self.after.map_or(Ok(0), |text| number("after", text))?,
            json: self.json,
        })
    }
}

fn number<N: std::str::FromStr>(option: &str, text: &str) -> Result<N, WrongCall> {
    text.parse()
        .map_err(|_| WrongCall::usage(format_args!("--{option} needs a number, not '{text}'")))
}

fn duration(text: &str) -> Option<Duration> {
    parse_go_duration(text)
        .ok()
        .and_then(|duration| duration.to_std())
}

fn wait(text: &str) -> Result<Duration, WrongCall> {
    duration(text).ok_or_else(|| {
        WrongCall::usage(format_args!(
            "--wait needs a time such as 30s or 10m, not '{text}'"
        ))
    })
}

/// An id is a UUID; a number in decimal is a place in the order of appending.
fn object_name(text: &str) -> Result<ObjectName, WrongCall> {
    match text.parse() {
        Ok(seq) => Ok(ObjectName::Seq(seq)),
        Err(_) => text.parse().map(ObjectName::Id).map_err(WrongCall::usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, WrongCall> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    fn list(collection: Collection) -> ListOptions {
        ListOptions {
            collection,
            which: Which::default(),
            limit: Some(DEFAULT_LIMIT),
            after_seq: 0,
            json: false,
        }
    }

    #[test]
    fn the_words_name_the_command() {
        assert_eq!(parsed(""), Ok(Command::Run));
        assert_eq!(parsed("settings"), Ok(Command::Settings));
        assert_eq!(parsed("store count"), Ok(Command::Store(StoreCommand::Count)));
        for (words, collection) in [("store ls", Collection::Waiting), ("dead ls", Collection::Dead)] {
            let expected = Command::Store(StoreCommand::List(list(collection)));
            assert_eq!(parsed(words), Ok(expected), "{words}");
        }
    }

    #[test]
    fn options_come_in_any_order_with_one_or_two_dashes_and_with_or_without_equals() {
        let expected = Command::Store(StoreCommand::List(ListOptions {
            which: Which {
                pipeline: Some(PipelineId::try_new("float").unwrap()),
                reason: Some(ErrorReason::TooOld),
                ..Which::default()
            },
            limit: Some(7),
            after_seq: 12,
            json: true,
            ..list(Collection::Dead)
        }));
        for line in [
            "dead ls --pipeline float --reason too_old --limit 7 --after 12 --json",
            "dead -json --limit=7 ls -after=12 --reason=too_old -pipeline float",
        ] {
            assert_eq!(parsed(line).as_ref(), Ok(&expected), "{line}");
        }
    }

    #[test]
    fn what_is_redriven_or_purged_is_said_by_ids_by_options_or_as_all() {
        let run = |which| {
            Ok(Command::Dead(DeadCommand::Run(RunOptions {
                action: ErrorAction::Redrive,
                which,
                rate: None,
                wait: None,
                dry_run: false,
                json: false,
            })))
        };
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(parsed("dead redrive --all"), run(Which::default()));
        assert_eq!(
            parsed(&format!(
                "dead redrive {id} 7 --device pump --older-than 1h30m --newer-than=2026-11-22T18:42:12.345Z"
            )),
            run(Which {
                objects: vec![ObjectName::Id(id.parse().unwrap()), ObjectName::Seq(7)],
                device: Some("pump".to_owned()),
                older_than: Some(Moment::Ago(Duration::from_secs(5_400))),
                newer_than: Some(Moment::At(Timestamp::from_unix_millis(1_795_372_932_345))),
                ..Which::default()
            })
        );
        assert_eq!(
            parsed("dead purge --reason corrupt --rate 5 --dry-run --json"),
            Ok(Command::Dead(DeadCommand::Run(RunOptions {
                action: ErrorAction::Purge,
                which: Which {
                    reason: Some(ErrorReason::Corrupt),
                    ..Which::default()
                },
                rate: NonZeroU32::new(5),
                wait: None,
                dry_run: true,
                json: true,
            })))
        );
    }

    #[test]
    fn a_backlog_is_taken_over_and_a_store_copied_checked_and_backed_up() {
        let store = |command| Ok(Command::Store(command));
        assert_eq!(
            parsed("store import"),
            store(StoreCommand::Import(ImportRequest::default()))
        );
        assert_eq!(
            parsed("store import --from redis://:pw@host --keep --dry-run"),
            store(StoreCommand::Import(ImportRequest {
                from: Some("redis://:pw@host".parse().unwrap()),
                dry_run: true,
                keep: true,
            }))
        );
        assert_eq!(
            parsed("store copy --from a.db --to=postgres://me:pw@host/db"),
            store(StoreCommand::Copy(Box::new(CopyRequest {
                from: "a.db".parse().unwrap(),
                to: "postgres://me:pw@host/db".parse().unwrap(),
            })))
        );
        assert_eq!(parsed("store check"), store(StoreCommand::Check));
        assert_eq!(
            parsed("store backup b.db"),
            store(StoreCommand::Backup(PathBuf::from("b.db")))
        );
    }

    #[test]
    fn limit_zero_is_all() {
        let Ok(Command::Store(StoreCommand::List(options))) = parsed("store ls --limit 0") else {
            panic!("a list was asked for");
        };
        assert_eq!(options.limit, None);
    }

    #[test]
    fn an_object_is_named_by_id_or_number() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        for (text, name) in [
            (id, ObjectName::Id(id.parse().unwrap())),
            ("17", ObjectName::Seq(17)),
        ] {
            let show = |form| {
                Ok(Command::Store(StoreCommand::Show(ShowOptions {
                    collection: Collection::Dead,
                    name,
                    form,
                })))
            };
            assert_eq!(parsed(&format!("dead show {text}")), show(Form::Page));
            assert_eq!(parsed(&format!("dead show {text} --json")), show(Form::Json));
            assert_eq!(parsed(&format!("dead show --raw {text}")), show(Form::Raw));
        }
    }

    #[test]
    fn help_is_given_for_the_commands() {
        for line in ["store --help", "dead ls -h", "store show --help"] {
            assert_eq!(parsed(line), Ok(Command::Help), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_as_one() {
        for line in ["fly", "settings now", "ls"] {
            assert_eq!(
                parsed(line),
                Err(WrongCall::UnknownCommand(line.to_owned())),
                "{line}"
            );
        }
    }

    #[test]
    fn wrong_options_are_named() {
        for (line, problem) in [
            ("store", "which command?"),
            ("store fly", "unknown command 'fly'"),
            ("store purge", "unknown command 'purge'"),
            ("store copy --from a.db", "copy needs --to"),
            ("store backup", "backup needs one file"),
            (
                "store import --from ftp://host",
                "this is no address of a store: it begins with neither redis:// nor postgres://, and a file is given by its path",
            ),
            ("store check --keep", "--keep means nothing to 'check' here"),
            ("dead ls now", "unknown command 'ls now'"),
            ("dead show", "show needs the id of an object"),
            ("dead ls --colour", "unknown option '--colour'"),
            ("dead ls --limit", "--limit needs a value"),
            ("dead ls --limit many", "--limit needs a number, not 'many'"),
            ("dead ls --limit -1", "--limit needs a number, not '-1'"),
            ("dead ls --json=yes", "--json takes no value"),
            ("store ls --reason crashed", "--reason means nothing to 'ls' here"),
            ("store count --json", "--json means nothing to 'count' here"),
            ("dead show 1 --limit 2", "--limit means nothing to 'show' here"),
            ("dead show 1 --raw --json", "--json or --raw, not both"),
            (
                "dead purge",
                "purge which objects? Name ids, say which by options, or --all",
            ),
            ("dead redrive --all --device a", "--all or some of them, not both"),
            ("dead redrive --all --rate 0", "--rate needs a number, not '0'"),
            (
                "dead redrive --older-than yesterday",
                "--older-than needs an age such as 90s, 15m or 12h, or a time such as 2026-11-22T18:42:12.345Z, not 'yesterday'",
            ),
            (
                "dead purge --all --wait long",
                "--wait needs a time such as 30s or 10m, not 'long'",
            ),
            ("dead export --rate 1", "--rate means nothing to 'export' here"),
            ("dead import", "import needs one file"),
            ("store ls --device a", "--device means nothing to 'ls' here"),
            ("dead ls --reason bored", "\"bored\" is not a known error reason"),
            ("dead show x", "invalid stored object id \"x\": it is not a UUID"),
        ] {
            assert_eq!(parsed(line), Err(WrongCall::Usage(problem.to_owned())), "{line}");
        }
    }

    #[test]
    fn every_reason_that_the_usage_names_is_one() {
        let (_, after) = USAGE.split_once("given up for this reason (dead): ").unwrap();
        let (names, _) = after.split_once("--older-than").unwrap();
        let names: Vec<_> = names.split(',').map(str::trim).collect();
        assert_eq!(names.len(), 9);
        for name in names {
            assert_eq!(ErrorReason::from_name(name).map(ErrorReason::as_str), Ok(name));
        }
    }
}
