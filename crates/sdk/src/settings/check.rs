//! Everything that is wrong in a configuration, or means nothing, each with where it stands.
//!
//! An error keeps a service from starting, or from using what was written. A warning is likely a mistake: something has
//! another effect than whoever wrote it may think. A note is worth knowing.

use std::{
    fmt,
    pin::pin,
    task::{Context, Poll, Waker},
};

use edgehold_config::{
    Configuration, Effective, Layers, Origin, REDACTED, differing_overrides,
    environment::{self, Environment, similar_variable},
    resolve, schema,
    secrets::InsecureSecretProvider,
    shown,
};
use edgehold_store::StoreError;
use tokio::sync::watch;

use super::{
    FileProblem, SettingsView,
    origin::{Part, SettingOrigin},
};
use crate::{store::sealing, trigger};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSeverity {
    /// The service does not start, or does not use what was written.
    Error,
    /// Likely a mistake.
    Warning,
    /// Worth knowing.
    Note,
}

impl FindingSeverity {
    /// In lower case: `error`, `warning`, `note`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something worth saying about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: FindingSeverity,
    /// Where it stands.
    pub origin: SettingOrigin,
    /// The setting it is about; none when it is about a whole file or a variable.
    pub key: Option<String>,
    /// What is to be said.
    pub message: String,
    /// What may have been meant.
    pub suggestion: Option<String>,
}

impl Finding {
    pub(super) fn new(severity: FindingSeverity, origin: SettingOrigin, message: impl Into<String>) -> Self {
        Self {
            severity,
            origin,
            key: None,
            message: message.into(),
            suggestion: None,
        }
    }

    pub(super) fn of_key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    pub(super) fn meant(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }
}

/// As compilers print it: `file:line:column: error: what`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = &self.origin;
        match (&origin.variable, &origin.file, origin.place) {
            (Some(variable), _, _) => write!(f, "environment {variable}: ")?,
            (None, Some(file), Some((line, column))) => write!(f, "{file}:{line}:{column}: ")?,
            (None, Some(file), None) => write!(f, "{file}: ")?,
            (None, None, _) if origin.layer == "default" => {}
            (None, None, _) => write!(f, "{}: ", origin.layer)?,
        }
        write!(f, "{}: ", self.severity.as_str())?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean '{suggestion}'?"),
            None => Ok(()),
        }
    }
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// All findings, in the order of their places.
    pub findings: Vec<Finding>,
    /// The ids of the pipelines that can be built.
    pub pipelines: Vec<String>,
    /// What a start would write into the provider: paths and texts as they may be shown. None without a provider.
    pub seeds: Option<Vec<(String, String)>>,
}

impl CheckReport {
    /// How many findings there are of a severity.
    pub fn count(&self, severity: FindingSeverity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }
}

impl SettingsView {
    /// Finds everything that is wrong. With a provider: in what a service would have that starts now, which seeds what
    /// the provider lacks; nothing is written.
    pub fn check(&self) -> CheckReport {
        let mut findings = Vec::new();
        self.check_invocation(&mut findings);
        self.check_files(&mut findings);
        let mut layers = Layers::default();
        match &self.remote {
            Some(remote) => layers.load(remote.snapshot.clone()),
            // What cannot be read has been told.
            None => _ = self.common_layers(&mut layers),
        }
        let file = self.private.as_ref().ok().map(|document| document.layer.clone());
        let held = layers.private;
        layers.private = file.clone().unwrap_or_default();
        let environment = self.check_environment(&layers, &mut findings);

        let mut seeds = None;
        if let Some(remote) = &self.remote {
            let overwrites = self.invocation.flags.overwrite;
            let wanted = environment::seed(&layers.private, &environment.layer);
            let missing: Vec<(String, String)> = wanted
                .iter()
                .filter(|(path, text)| match held.get(path) {
                    None => true,
                    Some(held) => overwrites && held != *text,
                })
                .map(|(path, text)| (path.to_owned(), text.to_owned()))
                .collect();
            layers.private = held;
            for (path, text) in &missing {
                layers.private.insert(path, text);
            }
            let shown = |(path, text): (String, String)| {
                let text = shown(&path, &text);
                (path, text)
            };
            seeds = Some(missing.into_iter().map(shown).collect());
            self.check_common(remote.is_ready, &layers, &mut findings);
        } else {
            layers.environment = environment.layer.clone();
        }
        self.set_hosts(&mut layers);
        let effective = resolve(&layers, None);
        if self.remote.is_some() {
            self.check_overrides(&environment, &effective, &mut findings);
        }
        // Without a private file there is nothing to say of what it should hold.
        let is_known = self.remote.is_some() || file.is_some();
        let pipelines = match is_known {
            true => self.examine(&layers, &effective, &environment, &mut findings),
            false => Vec::new(),
        };
        sort(&mut findings);
        CheckReport {
            findings,
            pipelines,
            seeds,
        }
    }

    /// What is wrong in these layers; answers the pipelines that can be built.
    pub(super) fn examine(
        &self,
        layers: &Layers,
        effective: &Effective,
        environment: &Environment,
        findings: &mut Vec<Finding>,
    ) -> Vec<String> {
        for rejection in &effective.rejected {
            let origin = self.origin(rejection.section, &rejection.key, environment);
            let message = match rejection.value.as_str() {
                "" | REDACTED => rejection.reason.clone(),
                value => format!("'{value}' cannot be used: {}", rejection.reason),
            };
            findings.push(Finding::new(FindingSeverity::Error, origin, message).of_key(&rejection.key));
        }
        for adjustment in &effective.adjusted {
            let origin = self.origin(adjustment.section, &adjustment.key, environment);
            let message = format!("'{}': {}", adjustment.value, adjustment.reason);
            findings.push(Finding::new(FindingSeverity::Warning, origin, message).of_key(&adjustment.key));
        }
        for unknown in &effective.unknown {
            let origin = self.origin_of(Part::Key, unknown.section, &unknown.key, environment);
            let severity = match unknown.similar {
                Some(_) => FindingSeverity::Warning,
                None => FindingSeverity::Note,
            };
            let finding = Finding::new(severity, origin, "this is no setting, nothing reads it");
            findings.push(finding.of_key(&unknown.key).meant(unknown.similar.clone()));
        }
        for (path, leaf) in effective.configuration.leaves().iter() {
            let Some(setting) = schema::find(path) else {
                continue;
            };
            if setting.ignores(leaf.text()) && leaf.origin() != Origin::Default {
                let origin = self.origin_of(Part::Key, leaf.origin(), path, environment);
                let message = format!("it is accepted and has no effect: {}", setting.meaning);
                findings.push(Finding::new(FindingSeverity::Note, origin, message).of_key(path));
            }
        }
        self.check_trigger_and_store(effective, environment, findings);
        self.check_pipelines(layers, effective, environment, findings)
    }

    fn check_invocation(&self, findings: &mut Vec<Finding>) {
        let flags = &self.invocation.flags;
        let warnings = flags
            .warnings
            .iter()
            .map(|text| (FindingSeverity::Warning, text.clone()));
        let idle = flags.not_in_effect.iter();
        let idle = idle.map(|name| {
            (
                FindingSeverity::Note,
                format!("{name} is accepted, but has no effect yet"),
            )
        });
        for (severity, message) in warnings.chain(idle) {
            findings.push(Finding::new(severity, nowhere("default"), message));
        }
    }

    fn check_files(&self, findings: &mut Vec<Finding>) {
        let finding = |severity, layer, file: Option<String>, problem: &FileProblem| {
            let origin = SettingOrigin {
                file,
                place: problem.place,
                ..nowhere(layer)
            };
            Finding::new(severity, origin, &problem.message)
        };
        if let Err(problem) = &self.private {
            let held = self
                .remote
                .as_ref()
                .and_then(|remote| remote.snapshot.private.as_ref());
            let finding = match held {
                // As a service does: it goes on with what the provider has.
                Some(_) if problem.is_missing => {
                    let origin = nowhere("private");
                    let message = format!(
                        "there is no file {}: a service goes on with the private settings of the provider alone",
                        self.file()
                    );
                    Finding::new(FindingSeverity::Note, origin, message)
                }
                _ if problem.is_missing => finding(FindingSeverity::Error, "default", None, problem),
                _ => finding(FindingSeverity::Error, "private", Some(self.file()), problem),
            };
            findings.push(finding);
        }
        if let Some(Err(problem)) = &self.common {
            let file = self.common_file().filter(|_| !problem.is_missing);
            findings.push(finding(FindingSeverity::Error, "default", file, problem));
        }
    }

    fn check_environment(&self, layers: &Layers, findings: &mut Vec<Finding>) -> Environment {
        let variables = &self.invocation.environment;
        let of_variable = |name: &str| SettingOrigin {
            variable: Some(name.to_owned()),
            ..nowhere("environment")
        };
        let found = match environment::overrides(variables, layers) {
            Ok(found) => found,
            Err(error) => {
                for (variable, problem) in error.problems() {
                    findings.push(Finding::new(
                        FindingSeverity::Error,
                        of_variable(variable),
                        problem,
                    ));
                }
                let bad: Vec<&str> = error.problems().map(|(variable, _)| variable).collect();
                let good = variables.iter().filter(|(name, _)| !bad.contains(&name.as_str()));
                let good = good.map(|(name, text)| (name.clone(), text.clone())).collect();
                environment::overrides(&good, layers).unwrap_or_default()
            }
        };
        for variable in &found.without_effect {
            let message = "it looks like an override, but names no setting";
            let finding = Finding::new(FindingSeverity::Warning, of_variable(variable), message);
            findings.push(finding.meant(similar_variable(variable, layers)));
        }
        found
    }

    /// Overrides that would not hold, because the provider has another value.
    fn check_overrides(&self, environment: &Environment, effective: &Effective, findings: &mut Vec<Finding>) {
        for difference in differing_overrides(&environment.layer, effective) {
            let origin = self.origin(Origin::Environment, &difference.path, environment);
            let held = difference.effective.as_deref().unwrap_or_default();
            let message = format!(
                "'{}' would have no effect: the provider holds '{held}'; change it there, or start once with --overwrite",
                difference.environment
            );
            findings.push(Finding::new(FindingSeverity::Warning, origin, message).of_key(&difference.path));
        }
    }

    fn check_common(&self, is_ready: bool, layers: &Layers, findings: &mut Vec<Finding>) {
        const BOOTSTRAPPER: &str = "has core-common-config-bootstrapper run?";
        for (layer, is_empty) in [
            ("all-services", layers.all_services.is_empty()),
            ("app-services", layers.app_services.is_empty()),
        ] {
            if is_empty {
                let message = format!("the provider has no keys of it; {BOOTSTRAPPER}");
                findings.push(Finding::new(FindingSeverity::Error, nowhere(layer), message));
            }
        }
        if !is_ready {
            let message = format!("IsCommonConfigReady is not true, so no service starts; {BOOTSTRAPPER}");
            findings.push(Finding::new(
                FindingSeverity::Error,
                nowhere("all-services"),
                message,
            ));
        }
    }

    fn check_trigger_and_store(
        &self,
        effective: &Effective,
        environment: &Environment,
        findings: &mut Vec<Finding>,
    ) {
        const BUILT_IN: [&str; 5] = ["", "sqlite", "memory", "postgres", "redisdb"];
        let configuration = &effective.configuration;
        let mut find = |key: &str, message: String| {
            let leaf = configuration.leaves().get(key);
            let origin = leaf.map_or(Origin::Default, edgehold_config::Leaf::origin);
            let origin = self.origin(origin, key, environment);
            findings.push(Finding::new(FindingSeverity::Error, origin, message).of_key(key));
        };
        let needed = &self.requirements;
        let whole = self.remote.is_some() || self.common.is_some();
        if !needed.has_trigger
            && !needed.custom_triggers.knows(&configuration.trigger.kind)
            && let Some((key, problem)) = trigger::problem(configuration, whole)
        {
            find(key, problem);
        }
        let kind = configuration.database.kind.to_lowercase();
        if configuration.writable.store_and_forward.enabled
            && !BUILT_IN.contains(&kind.as_str())
            && needed.stores.get(&kind).is_none()
        {
            find("Database/Type", format!("'{kind}' is no store that is known"));
        }
        if configuration.writable.store_and_forward.enabled
            && let Some(problem) = sealing_problem(configuration)
        {
            let leaf = configuration.leaves().get("Database/Encryption");
            let origin = leaf.map_or(Origin::Default, edgehold_config::Leaf::origin);
            let origin = self.origin(origin, "Database/Encryption", environment);
            let name = &configuration.database.encryption_secret_name;
            let mut secrets = configuration.writable.insecure_secrets.values();
            let has_secret = secrets.any(|secret| secret.secret_name == *name);
            // The common configuration, which was not given, may have the secret.
            let severity = match whole || has_secret {
                true => FindingSeverity::Error,
                false => FindingSeverity::Warning,
            };
            findings.push(Finding::new(severity, origin, problem));
        }
    }
}

/// Why objects cannot be sealed as the settings want it.
fn sealing_problem(configuration: &Configuration) -> Option<String> {
    let (_, writable) = watch::channel(configuration.writable.clone());
    let secrets = InsecureSecretProvider::new(writable);
    let sealing = sealing(&configuration.database);
    // What is in the configuration is there at once.
    match pin!(sealing.check(&secrets)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending | Poll::Ready(Ok(())) => None,
        Poll::Ready(Err(StoreError::Unavailable { reason, .. })) => Some(reason),
        Poll::Ready(Err(error)) => Some(error.to_string()),
    }
}

/// A place of which no more is known than the layer.
pub(super) fn nowhere(layer: &'static str) -> SettingOrigin {
    SettingOrigin {
        layer,
        file: None,
        place: None,
        variable: None,
    }
}

/// By file and line, then by what is said.
pub(super) fn sort(findings: &mut Vec<Finding>) {
    findings.sort_by(|one, other| {
        let place = |finding: &Finding| (finding.origin.file.clone(), finding.origin.place);
        let rest = |finding: &Finding| (finding.severity, finding.origin.clone(), finding.key.clone());
        (place(one), rest(one)).cmp(&(place(other), rest(other)))
    });
    findings.dedup();
}
