//! The words after the flags: which command they ask for, and its options.
//!
//! Flags stand before the command and are EdgeX's; options stand behind it and are read here. One or two dashes,
//! `--name value` or `--name=value`, in any order with the id.

use edgehold::{ErrorReason, ObjectName, ObjectState, PipelineId};

use crate::{config_command::ConfigCommand, pipeline_command::PipelineTest};

/// How to call the commands.
pub(crate) const USAGE: &str = "Usage: edgehold [flags] store ls [options]         what waits for another attempt
       edgehold [flags] store show ID [options]    one of it, whole
       edgehold [flags] store count                how many wait: a number and nothing else
       edgehold [flags] dead ls [options]          the error collection: what was given up
       edgehold [flags] dead show ID [options]     one of it, whole
       edgehold [flags] pipeline test ...          pipelines on a message: 'edgehold pipeline --help'
       edgehold [flags] config ...                 the configuration: 'edgehold config --help'
       edgehold settings                           every setting, as a Markdown table

Beside the running service or without it; nothing is changed. The flags are those of the service (--configProvider,
--configDir, --profile, --data-dir, ...: 'edgehold --help') and say whose store it is. ID is the id or the SEQ of an
object; by SEQ it is found faster.

Options:
  --pipeline ID    only objects of this pipeline (ls)
  --reason NAME    only objects given up for this reason (dead ls): retries_exceeded, pipeline_changed,
                   pipeline_removed, permanent_error, too_old, capacity, undecodable, crashed, corrupt
  --limit N        at most so many, oldest first; 0 = all; default 50 (ls)
  --after SEQ      only objects behind this one: the next page (ls)
  --json           for scripts: one JSON object a line; times in milliseconds since 1970, payload in base64, and
                   as payloadText too when it is UTF-8 (ls, show)
  --raw            the bytes of the payload and nothing else (show)
  -h, --help       this text

Exit code: 0, 1 when there is no such object or the store cannot be read, 2 for a wrong call.
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
    pub(crate) pipeline: Option<PipelineId>,
    pub(crate) reason: Option<ErrorReason>,
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
    options.into_command(collection).map(Command::Store)
}

/// The words behind `store` or `dead`, before it is known which of them make sense together.
#[derive(Default)]
struct Options<'a> {
    /// What is not an option: the verb and its object.
    words: Vec<&'a str>,
    pipeline: Option<&'a str>,
    reason: Option<&'a str>,
    limit: Option<&'a str>,
    after: Option<&'a str>,
    json: bool,
    raw: bool,
}

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
                "reason" => &mut options.reason,
                "limit" => &mut options.limit,
                "after" => &mut options.after,
                "json" | "raw" | "h" | "help" if given.is_some() => {
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
                    Collection::Dead => &["pipeline", "reason", "limit", "after", "json"],
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
            (_, ["show"]) => Err(WrongCall::usage("show needs the id of an object")),
            (_, []) => Err(WrongCall::usage("which command?")),
            (_, words) => Err(WrongCall::usage(format_args!(
                "unknown command '{}'",
                words.join(" ")
            ))),
        }
    }

    /// Refuses what is given and means nothing to this command.
    fn only(&self, verb: &str, allowed: &[&str]) -> Result<(), WrongCall> {
        let given = [
            ("pipeline", self.pipeline.is_some()),
            ("reason", self.reason.is_some()),
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
            pipeline: self
                .pipeline
                .map(PipelineId::try_new)
                .transpose()
                .map_err(WrongCall::usage)?,
            reason: self
                .reason
                .map(ErrorReason::from_name)
                .transpose()
                .map_err(WrongCall::usage)?,
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
            pipeline: None,
            reason: None,
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
            pipeline: Some(PipelineId::try_new("float").unwrap()),
            reason: Some(ErrorReason::TooOld),
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
            ("dead count", "unknown command 'count'"),
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
            ("dead ls --reason bored", "\"bored\" is not a known error reason"),
            ("dead show x", "invalid stored object id \"x\": it is not a UUID"),
        ] {
            assert_eq!(parsed(line), Err(WrongCall::Usage(problem.to_owned())), "{line}");
        }
    }

    #[test]
    fn every_reason_that_the_usage_names_is_one() {
        let (_, after) = USAGE.split_once("given up for this reason (dead ls): ").unwrap();
        let (names, _) = after.split_once("--limit").unwrap();
        let names: Vec<_> = names.split(',').map(str::trim).collect();
        assert_eq!(names.len(), 9);
        for name in names {
            assert_eq!(ErrorReason::from_name(name).map(ErrorReason::as_str), Ok(name));
        }
    }
}
