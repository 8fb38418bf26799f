//! The words behind `config`: which verb, which options, and whether they make sense together.

use std::path::PathBuf;

use edgehold::{Counterpart, PushOptions, Section};

/// A call of `config`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConfigCommand {
    pub(super) verb: Verb,
    /// The private file in place of the one that flags name.
    pub(super) file: Option<PathBuf>,
    pub(super) json: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verb {
    Check {
        /// Whether warnings are as bad as errors.
        strict: bool,
    },
    Show {
        /// Only what is below this, or this.
        prefix: String,
        origin: bool,
    },
    Diff {
        /// None: with the provider if there is one, else with the defaults.
        with: Option<Counterpart>,
    },
    Push {
        options: PushOptions,
        writing: Writing,
        /// Whether leaves may be removed without asking.
        yes: bool,
    },
    Get {
        key: String,
        /// None: what holds.
        section: Option<Section>,
    },
    Set {
        /// Keys and values; the value `-` is read from standard input.
        assignments: Vec<(String, String)>,
        section: Section,
        writing: Writing,
    },
    Unset {
        keys: Vec<String>,
        section: Section,
        /// Whether a key may be a folder.
        recursive: bool,
        writing: Writing,
    },
}

/// How a change is made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Writing {
    /// Only say what would be written.
    pub(super) dry_run: bool,
    /// Whatever speaks against it.
    pub(super) force: bool,
}

/// The words before it is known which of them make sense together.
#[derive(Default)]
struct Words<'a> {
    plain: Vec<&'a str>,
    given: Vec<&'static str>,
    file: Option<&'a str>,
    common: Option<&'a str>,
    running: Option<&'a str>,
}

/// Options without a value.
const SWITCHES: [&str; 11] = [
    "json",
    "strict",
    "origin",
    "defaults",
    "overwrite",
    "prune",
    "yes",
    "dry-run",
    "force",
    "recursive",
    "private",
];

impl ConfigCommand {
    /// Reads the words behind `config`; none when help is asked for.
    ///
    /// # Errors
    /// What is wrong with the call.
    pub(crate) fn parse(words: &[&str]) -> Result<Option<Self>, String> {
        let Some(words) = Words::read(words)? else {
            return Ok(None);
        };
        let Some((verb, plain)) = words.plain.split_first() else {
            return Err("config what?".to_owned());
        };
        words.only(verb)?;
        let is = |switch: &str| words.given.contains(&switch);
        let writing = Writing {
            dry_run: is("dry-run"),
            force: is("force"),
        };
        let mut file = words.file.map(PathBuf::from);
        let mut positional_file = || match (plain, &file) {
            ([], _) => Ok(()),
            ([one], None) => {
                file = Some(PathBuf::from(one));
                Ok(())
            }
            ([one], Some(_)) | ([_, one, ..], _) => Err(format!("'{one}' is too much")),
        };
        let verb = match *verb {
            "check" => {
                positional_file()?;
                Verb::Check { strict: is("strict") }
            }
            "show" => Verb::Show {
                prefix: match plain {
                    [] => String::new(),
                    [prefix] => key_path(prefix),
                    [_, more, ..] => return Err(format!("'{more}' is too much")),
                },
                origin: is("origin"),
            },
            "diff" => {
                positional_file()?;
                let with = match (is("defaults"), is("running")) {
                    (true, true) => return Err("--defaults or --running, not both".to_owned()),
                    (true, false) => Some(Counterpart::Defaults),
                    (false, true) => Some(Counterpart::Running(words.running.map(str::to_owned))),
                    (false, false) => None,
                };
                Verb::Diff { with }
            }
            "push" => {
                positional_file()?;
                Verb::Push {
                    options: PushOptions {
                        overwrite: is("overwrite"),
                        prune: is("prune"),
                    },
                    writing,
                    yes: is("yes"),
                }
            }
            "get" => match plain {
                [key] => Verb::Get {
                    key: key_path(key),
                    section: match words.common {
                        Some(_) => Some(words.section()?),
                        None => is("private").then_some(Section::Private),
                    },
                },
                [] => return Err("get needs a key, for example Writable/LogLevel".to_owned()),
                [_, more, ..] => return Err(format!("'{more}' is too much")),
            },
            "set" if plain.is_empty() => {
                return Err("set needs KEY=VALUE, for example Writable/LogLevel=DEBUG".to_owned());
            }
            "set" => Verb::Set {
                assignments: plain
                    .iter()
                    .map(|word| assignment(word))
                    .collect::<Result<_, _>>()?,
                section: words.section()?,
                writing,
            },
            "unset" if plain.is_empty() => {
                return Err("unset needs a key, for example Writable/LogLevel".to_owned());
            }
            "unset" => Verb::Unset {
                keys: plain.iter().map(|key| key_path(key)).collect(),
                section: words.section()?,
                recursive: is("recursive"),
                writing,
            },
            other => return Err(format!("unknown command 'config {other}'")),
        };
        if let Verb::Set { assignments, .. } = &verb
            && assignments.iter().filter(|(_, value)| value == "-").count() > 1
        {
            return Err("only one value can be read from standard input".to_owned());
        }
        Ok(Some(Self {
            verb,
            file,
            json: is("json"),
        }))
    }
}

impl<'a> Words<'a> {
    /// None when help is asked for.
    fn read(words: &[&'a str]) -> Result<Option<Self>, String> {
        let mut read = Self::default();
        let mut rest = words.iter().copied();
        while let Some(word) = rest.next() {
            let Some(option) = word.strip_prefix('-').filter(|option| !option.is_empty()) else {
                read.plain.push(word);
                continue;
            };
            let option = option.strip_prefix('-').unwrap_or(option);
            let (name, given) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            if let Some(switch) = SWITCHES.into_iter().find(|switch| *switch == name) {
                if given.is_some() {
                    return Err(format!("--{name} takes no value"));
                }
                read.given.push(switch);
                continue;
            }
            match name {
                "h" | "help" => return Ok(None),
                // Its value is optional, so it stands behind an equals sign.
                "running" => {
                    read.given.push("running");
                    read.running = given;
                }
                "file" | "common" => {
                    let needed = || format!("--{name} needs a value");
                    let value = given.or_else(|| rest.next()).ok_or_else(needed)?;
                    if name == "file" {
                        read.given.push("file");
                        read.file = Some(value);
                    } else {
                        read.given.push("common");
                        read.common = Some(value);
                    }
                }
                _ => return Err(format!("unknown option '{word}'")),
            }
        }
        Ok(Some(read))
    }

    /// Refuses what is given and means nothing to this verb.
    fn only(&self, verb: &str) -> Result<(), String> {
        let allowed: &[&str] = match verb {
            "check" => &["file", "strict", "json"],
            "show" => &["file", "origin", "json"],
            "diff" => &["file", "defaults", "running", "json"],
            "push" => &["file", "overwrite", "prune", "yes", "dry-run", "force", "json"],
            "get" => &["file", "common", "private", "json"],
            "set" => &["common", "dry-run", "force", "json"],
            "unset" => &["common", "recursive", "dry-run", "force", "json"],
            _ => return Ok(()),
        };
        match self.given.iter().find(|given| !allowed.contains(given)) {
            Some(given) => Err(format!("--{given} means nothing to 'config {verb}'")),
            None => Ok(()),
        }
    }

    fn section(&self) -> Result<Section, String> {
        match self.common {
            None => Ok(Section::Private),
            Some("all-services") => Ok(Section::AllServices),
            Some("app-services") => Ok(Section::AppServices),
            Some(other) => Err(format!("--common is all-services or app-services, not '{other}'")),
        }
    }
}

/// A key as it was written: with slashes, or with dots where there is no slash.
fn key_path(text: &str) -> String {
    match text.contains('/') {
        true => text.trim_matches('/').to_owned(),
        false => text.replace('.', "/"),
    }
}

fn assignment(word: &str) -> Result<(String, String), String> {
    match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key_path(key), value.to_owned())),
        _ => Err(format!("'{word}' is not KEY=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<ConfigCommand>, String> {
        ConfigCommand::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[track_caller]
    fn verb(line: &str) -> Verb {
        parsed(line).unwrap().unwrap().verb
    }

    #[test]
    fn a_file_is_an_option_or_stands_by_itself() {
        for line in [
            "check c.yaml --json",
            "--json check --file c.yaml",
            "check -json -file=c.yaml",
        ] {
            let expected = ConfigCommand {
                verb: Verb::Check { strict: false },
                file: Some("c.yaml".into()),
                json: true,
            };
            assert_eq!(parsed(line), Ok(Some(expected)), "{line}");
        }
        assert_eq!(parsed("push --help"), Ok(None));
    }

    #[test]
    fn keys_have_slashes_or_dots_and_values_anything() {
        let expected = Verb::Set {
            assignments: [
                ("Writable/LogLevel", "DEBUG"),
                ("Writable/Pipeline/Functions/A.b/Parameters/Url", "http://h/?a=b"),
                ("Service/StartupMsg", ""),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
            section: Section::AppServices,
            writing: Writing {
                dry_run: true,
                force: false,
            },
        };
        let line = "set Writable.LogLevel=DEBUG Writable/Pipeline/Functions/A.b/Parameters/Url=http://h/?a=b \
                    Service.StartupMsg= --common app-services --dry-run";
        assert_eq!(verb(line), expected);
    }

    #[test]
    fn a_running_service_may_have_an_address() {
        for (line, with) in [
            ("diff", None),
            ("diff --defaults", Some(Counterpart::Defaults)),
            ("diff --running", Some(Counterpart::Running(None))),
            (
                "diff --running=h:1",
                Some(Counterpart::Running(Some("h:1".to_owned()))),
            ),
        ] {
            assert_eq!(verb(line), Verb::Diff { with }, "{line}");
        }
    }

    #[test]
    fn a_wrong_call_is_told_by_what_is_wrong() {
        for (line, problem) in [
            ("", "config what?"),
            ("chek", "unknown command 'config chek'"),
            ("check a b", "'b' is too much"),
            ("check --file a b", "'b' is too much"),
            ("check --force", "--force means nothing to 'config check'"),
            ("check --file", "--file needs a value"),
            ("check --json=1", "--json takes no value"),
            ("show --colour", "unknown option '--colour'"),
            ("diff --defaults --running", "not both"),
            ("get", "get needs a key"),
            ("set", "set needs KEY=VALUE"),
            ("set LogLevel", "'LogLevel' is not KEY=VALUE"),
            (
                "set a=1 --common core",
                "--common is all-services or app-services, not 'core'",
            ),
            ("set a=- b=-", "only one value"),
            ("unset", "unset needs a key"),
        ] {
            let told = parsed(line).unwrap_err();
            assert!(told.contains(problem), "{line}: {told}");
        }
    }
}
