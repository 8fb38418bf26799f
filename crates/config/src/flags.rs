//! The command line and the environment variables beside it: arguments in, values out.
//!
//! The flags, variables and their precedence (variable, then flag, then default) are EdgeX's. Better than there: `-cp URL`
//! with a space works, a mistake is an error instead of help with exit code 0, and nothing is ignored in silence.
//! Reading arguments and environment, printing and ending the process are the caller's.

mod provider_url;
mod usage;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use edgehold_core::parse_go_bool;
pub use provider_url::{InvalidProviderUrl, ProviderKind, ProviderUrl};
pub use usage::usage;

use crate::{duration::parse_go_duration, file::as_uri, redact::without_passwords};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "made once in the life of a process")]
pub enum Parsed {
    /// Print [`usage`] and end with success.
    Help,
    /// Go on with these.
    Run {
        /// The flags.
        flags: Flags,
        /// The words behind the flags, for a command such as `store count`. They are not looked at.
        command: Vec<String>,
    },
}

/// A command line that cannot be followed. The process ends with a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlagError {
    /// No flag has this name.
    #[error("unknown flag {flag}")]
    Unknown {
        /// The flag as written, without its value.
        flag: String,
    },
    /// A flag that needs a value stands at the end.
    #[error("flag {flag} needs a value")]
    MissingValue {
        /// The flag as written.
        flag: String,
    },
    /// A value that cannot be used.
    #[error("{name}='{value}' cannot be used: {problem}")]
    InvalidValue {
        /// The flag or variable.
        name: String,
        /// Its value, passwords hidden.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Everything the command line and the variables beside it say.
#[derive(Clone, Debug, PartialEq)]
pub struct Flags {
    /// `-cp`: the configuration provider; none = from files.
    pub config_provider: Option<ProviderUrl>,
    /// `-cc`: file or URI of the common configuration, read only without a provider.
    pub common_config: Option<PathBuf>,
    /// `-o`: write the private file over what the provider has.
    pub overwrite: bool,
    /// `-cf`: name or URI of the private file.
    pub config_file: String,
    /// `-p`: sub-folder of the configuration folder; fills `<profile>` in the service key.
    pub profile: String,
    /// `-cd`: the configuration folder.
    pub config_dir: PathBuf,
    /// `-r`: register, and look other services up in the registry.
    pub registry: bool,
    /// `-d`: hybrid mode.
    pub dev: bool,
    /// `-rsh`: remote mode.
    pub remote_service_hosts: Option<RemoteServiceHosts>,
    /// `-s`: do not compare versions with core-metadata.
    pub skip_version_check: bool,
    /// `-sk`: replaces the built-in service key; may contain `<profile>`. See [`Flags::service_key`].
    pub service_key_override: Option<String>,
    /// `--data-dir`: the folder for the store and the spool.
    pub data_dir: PathBuf,
    /// Whether secrets come from a secret store (`EDGEX_SECURITY_SECRET_STORE` is not `false`).
    pub secure: bool,
    /// How long the start may take (`EDGEX_STARTUP_DURATION`).
    pub startup_duration: Duration,
    /// The pause between two tries at start (`EDGEX_STARTUP_INTERVAL`).
    pub startup_interval: Duration,
    /// How long reading a file from a URI may take (`EDGEX_FILE_URI_TIMEOUT`).
    pub file_uri_timeout: Duration,
    /// Database of the PostgreSQL store (`EDGEX_DBNAME`).
    pub db_name: String,
    /// Whether JSON payloads of message envelopes stand in base64 in EdgeX 4 too (`EDGEX_MSG_BASE64_PAYLOAD` is exactly
    /// `true`).
    pub base64_payload: bool,
    /// The major version of EdgeX as `EDGEHOLD_GENERATION` says it: 3 or 4. See [`Flags::generation`].
    pub generation_override: Option<u8>,
    /// The form of log lines (`EDGEHOLD_LOG_FORMAT`).
    pub log_format: LogFormat,
    /// What may be done over REST beyond EdgeX's own routes (`EDGEHOLD_ADMIN`).
    pub admin: Admin,
    /// What was ignored and why, for warnings.
    pub warnings: Vec<String>,
    /// Flags and variables that were given and are accepted, but have no effect yet, for warnings.
    pub not_in_effect: Vec<&'static str>,
}

/// `-rsh`: three hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteServiceHosts {
    /// Under which others reach this service.
    pub local: String,
    /// Where core services and message bus are.
    pub core: String,
    /// What to listen at.
    pub bind: String,
}

/// What may be done over REST beyond EdgeX's own routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admin {
    /// Nothing: the routes do not exist.
    Off,
    /// Looking.
    #[default]
    Read,
    /// Looking and changing.
    Write,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` pairs, as EdgeX services write them.
    #[default]
    Logfmt,
    /// A JSON object for each line.
    Json,
}

/// What a flag takes.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    /// Nothing, or `=` and a boolean.
    Bool,
    /// A text, behind `=` or a space.
    Text,
    /// Nothing, or the URL of a provider behind `=` or a space.
    ProviderUrl,
}

/// A flag: short name, long name, what it takes.
type Flag = (&'static str, &'static str, Takes);

const FLAGS: [Flag; 12] = [
    ("cp", "configProvider", Takes::ProviderUrl),
    ("cc", "commonConfig", Takes::Text),
    ("o", "overwrite", Takes::Bool),
    ("cf", "configFile", Takes::Text),
    ("p", "profile", Takes::Text),
    ("cd", "configDir", Takes::Text),
    ("r", "registry", Takes::Bool),
    ("d", "dev", Takes::Bool),
    ("rsh", "remoteServiceHosts", Takes::Text),
    ("s", "skipVersionCheck", Takes::Bool),
    ("sk", "serviceKey", Takes::Text),
    ("data-dir", "data-dir", Takes::Text),
];

/// What is accepted and has no effect yet. Whoever gives one its effect takes it off this list.
const NOT_IN_EFFECT: [&str; 1] = ["EDGEX_DISABLE_JWT_VALIDATION"];

const NONE: &str = "none";
const STARTUP_DURATION: Duration = Duration::from_secs(60);
const STARTUP_INTERVAL: Duration = Duration::from_secs(1);
const FILE_URI_TIMEOUT: Duration = Duration::from_secs(15);

impl Flags {
    /// Reads arguments (without the program's name) and the environment.
    ///
    /// # Errors
    /// [`FlagError`] names the flag or variable.
    pub fn parse(arguments: &[String], environment: &BTreeMap<String, String>) -> Result<Parsed, FlagError> {
        let given = Given::read(arguments.iter().cloned())?;
        if given.help {
            return Ok(Parsed::Help);
        }
        let command = given.command.clone();
        let sources = Sources {
            given,
            environment,
            warnings: Vec::new(),
        };
        Ok(Parsed::Run {
            flags: Self::assemble(sources)?,
            command,
        })
    }

    fn assemble(mut from: Sources<'_>) -> Result<Self, FlagError> {
        let generation_override = generation(from.variable("EDGEHOLD_GENERATION"))?;
        let remote_service_hosts = match from.text("rsh", "EDGEX_REMOTE_SERVICE_HOSTS") {
            None => None,
            Some(hosts) => Some(remote_service_hosts(&hosts)?),
        };
        let mut config_provider = match from.text("cp", "EDGEX_CONFIG_PROVIDER") {
            Some(url) if url == NONE => None,
            Some(url) => Some(ProviderUrl::parse(&url).map_err(|error| invalid("-cp", &url, error))?),
            None => from
                .given
                .default_provider
                .then(|| ProviderUrl::default_of(generation_override)),
        };
        if let (Some(url), Some(hosts)) = (&mut config_provider, &remote_service_hosts) {
            url.host.clone_from(&hosts.core);
        }
        let overwrite = from.flag("o")?;
        let registry = from.flag("r")?;
        Ok(Self {
            config_provider,
            common_config: from.text("cc", "EDGEX_COMMON_CONFIG").map(PathBuf::from),
            overwrite: from.switch("EDGEX_OVERWRITE_CONFIG").unwrap_or(overwrite),
            config_file: from.text_or("cf", "EDGEX_CONFIG_FILE", "configuration.yaml"),
            profile: from.text_or("p", "EDGEX_PROFILE", ""),
            config_dir: from.text_or("cd", "EDGEX_CONFIG_DIR", "./res").into(),
            // Only the exact word enables; any other one disables, also against the flag.
            registry: from
                .variable("EDGEX_USE_REGISTRY")
                .map_or(registry, |text| text == "true"),
            dev: from.flag("d")?,
            remote_service_hosts,
            skip_version_check: from.flag("s")?,
            service_key_override: from.text("sk", "EDGEX_SERVICE_KEY"),
            data_dir: from.text_or("data-dir", "EDGEHOLD_DATA_DIR", "./data").into(),
            secure: from.variable("EDGEX_SECURITY_SECRET_STORE") != Some("false"),
            startup_duration: from.duration("EDGEX_STARTUP_DURATION", whole_seconds, STARTUP_DURATION),
            startup_interval: from.duration("EDGEX_STARTUP_INTERVAL", whole_seconds, STARTUP_INTERVAL),
            file_uri_timeout: from.duration("EDGEX_FILE_URI_TIMEOUT", go_duration, FILE_URI_TIMEOUT),
            db_name: from.variable("EDGEX_DBNAME").unwrap_or("edgex_db").to_owned(),
            base64_payload: from.variable("EDGEX_MSG_BASE64_PAYLOAD") == Some("true"),
            generation_override,
            log_format: log_format(from.variable("EDGEHOLD_LOG_FORMAT"))?,
            admin: admin(from.variable("EDGEHOLD_ADMIN"))?,
            not_in_effect: NOT_IN_EFFECT
                .into_iter()
                .filter(|name| from.is_given(name))
                .collect(),
            warnings: from.warnings,
        })
    }

    /// The major version of EdgeX to be compatible with, 3 or 4: what `EDGEHOLD_GENERATION` says, else what the
    /// provider implies (Consul 3, Keeper 4), else 4.
    pub fn generation(&self) -> u8 {
        let by_provider = || {
            self.config_provider
                .as_ref()
                .map(|address| address.kind.generation())
        };
        self.generation_override.or_else(by_provider).unwrap_or(4)
    }

    /// Where the private configuration is: `<config dir>/<profile>/<config file>`, or the URI given instead
    /// ([`crate::file::as_uri`]).
    pub fn private_config_file(&self) -> PathBuf {
        let file = PathBuf::from(&self.config_file);
        if as_uri(&file).is_some() {
            file
        } else {
            self.config_dir.join(&self.profile).join(file)
        }
    }

    /// The key of this service: what `EDGEX_SERVICE_KEY` or `-sk` says, else `built_in` (for the configurable service
    /// `app-<profile>`), with its first `<profile>` replaced by the profile.
    pub fn service_key(&self, built_in: &str) -> String {
        let key = self.service_key_override.as_deref().unwrap_or(built_in);
        key.replacen("<profile>", &self.profile, 1)
    }
}

/// What stands on the command line, by short name, before variables and defaults.
#[derive(Default)]
struct Given {
    values: BTreeMap<&'static str, String>,
    /// `-cp` without a URL.
    default_provider: bool,
    command: Vec<String>,
    help: bool,
}

impl Given {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, FlagError> {
        let mut given = Self::default();
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix('-').filter(|name| !name.is_empty()) else {
                given.command.push(argument);
                break;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            if name.is_empty() {
                break;
            }
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            if matches!(name, "h" | "help") {
                given.help = true;
                continue;
            }
            let is_it = |(short, long, _): &Flag| name == *short || name == *long;
            let Some((flag, _, takes)) = FLAGS.into_iter().find(is_it) else {
                let flag = argument.split('=').next().unwrap_or_default().to_owned();
                return Err(FlagError::Unknown { flag });
            };
            let value = match (takes, value) {
                (_, Some(value)) => Some(value),
                (Takes::Bool, None) => Some("true".to_owned()),
                (Takes::Text, None) => match arguments.next() {
                    None => return Err(FlagError::MissingValue { flag: argument }),
                    value => value,
                },
                // What follows may be another flag or a command; only what looks like a value is taken for one.
                (Takes::ProviderUrl, None) => {
                    arguments.next_if(|next| next == NONE || (next.contains("://") && !next.starts_with('-')))
                }
            };
            if takes == Takes::ProviderUrl {
                given.default_provider = value.is_none();
            }
            match value {
                Some(value) => given.values.insert(flag, value),
                None => given.values.remove(flag),
            };
        }
        given.command.extend(arguments);
        Ok(given)
    }
}

/// The command line and the variables that win over it.
struct Sources<'a> {
    given: Given,
    environment: &'a BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl<'a> Sources<'a> {
    /// A variable; an empty one counts as unset, as in EdgeX.
    fn variable(&self, name: &str) -> Option<&'a str> {
        self.environment
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// Whether a flag (`-s`) or variable is there at all.
    fn is_given(&self, name: &str) -> bool {
        match name.strip_prefix('-') {
            Some(flag) => self.given.values.contains_key(flag),
            None => self.variable(name).is_some(),
        }
    }

    fn text(&self, flag: &str, variable: &str) -> Option<String> {
        let given = || {
            self.given
                .values
                .get(flag)
                .map(String::as_str)
                .filter(|text| !text.is_empty())
        };
        self.variable(variable).or_else(given).map(str::to_owned)
    }

    fn text_or(&self, flag: &str, variable: &str, default: &str) -> String {
        self.text(flag, variable).unwrap_or_else(|| default.to_owned())
    }

    fn flag(&self, flag: &str) -> Result<bool, FlagError> {
        let Some(text) = self.given.values.get(flag) else {
            return Ok(false);
        };
        parse_go_bool(text).ok_or_else(|| invalid(&format!("-{flag}"), text, "it is not a boolean"))
    }

    fn switch(&mut self, variable: &str) -> Option<bool> {
        let text = self.variable(variable)?;
        let value = parse_go_bool(text);
        if value.is_none() {
            self.warnings.push(format!(
                "{variable}='{text}' is not a boolean and counts as false"
            ));
        }
        Some(value.unwrap_or(false))
    }

    fn duration(
        &mut self,
        variable: &str,
        parse: fn(&str) -> Option<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(text) = self.variable(variable) else {
            return default;
        };
        parse(text).unwrap_or_else(|| {
            self.warnings.push(format!(
                "{variable}='{text}' is not a duration above zero; {default:?} is used"
            ));
            default
        })
    }
}

fn invalid(name: &str, value: &str, problem: impl ToString) -> FlagError {
    FlagError::InvalidValue {
        name: name.to_owned(),
        value: without_passwords(value),
        problem: problem.to_string(),
    }
}

fn generation(text: Option<&str>) -> Result<Option<u8>, FlagError> {
    match text {
        None => Ok(None),
        Some("3") => Ok(Some(3)),
        Some("4") => Ok(Some(4)),
        Some(other) => Err(invalid("EDGEHOLD_GENERATION", other, "it is neither 3 nor 4")),
    }
}

fn log_format(text: Option<&str>) -> Result<LogFormat, FlagError> {
    match text {
        None | Some("logfmt") => Ok(LogFormat::Logfmt),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(invalid(
            "EDGEHOLD_LOG_FORMAT",
            other,
            "it is neither logfmt nor json",
        )),
    }
}

fn admin(text: Option<&str>) -> Result<Admin, FlagError> {
    match text {
        Some("off") => Ok(Admin::Off),
        None | Some("read") => Ok(Admin::Read),
        Some("write") => Ok(Admin::Write),
        Some(other) => Err(invalid("EDGEHOLD_ADMIN", other, "it is none of off, read, write")),
    }
}

fn remote_service_hosts(text: &str) -> Result<RemoteServiceHosts, FlagError> {
    let hosts: Vec<_> = text.split(',').map(str::trim).collect();
    match hosts[..] {
        [local, core, bind] if hosts.iter().all(|host| !host.is_empty()) => Ok(RemoteServiceHosts {
            local: local.to_owned(),
            core: core.to_owned(),
            bind: bind.to_owned(),
        }),
        _ => Err(invalid(
            "-rsh",
            text,
            "it is not three hosts separated by commas: local,remote,bind",
        )),
    }
}

fn whole_seconds(text: &str) -> Option<Duration> {
    text.trim()
        .parse()
        .ok()
        .filter(|secs| *secs > 0)
        .map(Duration::from_secs)
}

fn go_duration(text: &str) -> Option<Duration> {
    parse_go_duration(text)
        .ok()?
        .to_std()
        .filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests;
