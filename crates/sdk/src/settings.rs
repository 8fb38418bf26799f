//! The configuration of a service from outside: what the commands beside a service check, show, compare and change.
//!
//! ```text
//! files, environment ─┐
//!                     ├─▶ SettingsView ─┬─▶ check     findings, with line and column
//! provider ───────────┘                 ├─▶ settings  what holds, and where it comes from
//!                                       ├─▶ compare   with defaults, the provider, a running service
//!                                       └─▶ plan_…  ─▶ ChangePlan ─▶ write
//! ```
//!
//! | module | subject |
//! | --- | --- |
//! | `origin` | where a setting stands: file and line, variable, provider |
//! | `check` | everything that is wrong, or means nothing |
//! | `pipelines` | of that, what concerns functions and pipelines |
//! | `compare` | differences, leaf by leaf |
//! | `change` | what is to be written, which of it belongs together, and what speaks against it |
//!
//! Nothing is written but by [`SettingsView::write`]; no key is seeded. Unlike a service, it does not wait for a
//! provider that is away.

mod change;
mod check;
mod compare;
mod origin;
mod pipelines;

use std::{path::Path, sync::Arc};

use edgehold_config::{
    ConfigurationProvider, EditError, EnvironmentError, FileError, Layer, Layers, Origin, Section, Snapshot,
    environment::{self, Environment},
    file::CommonConfig,
    resolve, shown,
    yaml::Document,
};
use edgehold_core::{InvalidId, ServiceKey};

pub use self::{
    change::{Assignment, ChangePlan, PlannedChange, PushOptions},
    check::{CheckReport, Finding, FindingSeverity},
    compare::{Comparison, Counterpart, SettingDifference},
    origin::SettingOrigin,
};
use crate::{
    bootstrap::{self, ConfigurationError},
    files,
    invocation::Invocation,
    logging::with_causes,
    service::{AppService, Requirements},
};

/// Why the settings of a service cannot be looked at or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The service key cannot be one.
    #[error(transparent)]
    ServiceKey(#[from] InvalidId),
    /// The provider cannot be read, or the environment.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// A file cannot be used.
    #[error("{0}")]
    File(String),
    /// The provider did not take the change.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// There is no configuration provider to work with.
    #[error(
        "there is no configuration provider: name it before the command, -cp=consul.http://localhost:8500"
    )]
    NoProvider,
    /// A running service cannot be asked.
    #[error("the running service cannot be asked: {0}")]
    Running(String),
}

impl SettingsError {
    /// Whether somebody else has changed the same setting at that moment: looking again and repeating helps.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Edit(EditError::Conflict { .. }))
    }
}

impl From<EnvironmentError> for SettingsError {
    fn from(error: EnvironmentError) -> Self {
        Self::Configuration(error.into())
    }
}

/// The settings of a service, read once.
pub struct SettingsView {
    invocation: Invocation,
    service_key: ServiceKey,
    requirements: Requirements,
    private: Result<Document, FileProblem>,
    /// None when no common file is named.
    common: Option<Result<CommonConfig, FileProblem>>,
    remote: Option<Remote>,
}

/// Why a file cannot be used.
#[derive(Clone, Debug)]
struct FileProblem {
    /// With its causes.
    message: String,
    /// Line and column, where they are known.
    place: Option<(u64, u64)>,
    is_missing: bool,
}

impl FileProblem {
    fn in_file(&self, file: &str) -> SettingsError {
        SettingsError::File(match self.place {
            Some((line, column)) => format!("{file}:{line}:{column}: {}", self.message),
            None => self.message.clone(),
        })
    }
}

impl From<ConfigurationError> for FileProblem {
    fn from(error: ConfigurationError) -> Self {
        let invalid = match &error {
            ConfigurationError::File(FileError::Invalid { source, .. }) => Some(source),
            _ => None,
        };
        Self {
            message: invalid.map_or_else(|| with_causes(&error), |invalid| invalid.problem().to_owned()),
            place: invalid
                .filter(|invalid| invalid.line > 0)
                .map(|invalid| (invalid.line, invalid.column)),
            is_missing: matches!(error, ConfigurationError::File(FileError::Missing { .. })),
        }
    }
}

/// What a provider holds.
struct Remote {
    provider: Arc<dyn ConfigurationProvider>,
    snapshot: Snapshot,
    is_ready: bool,
}

/// One setting that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownSetting {
    /// Its path.
    pub path: String,
    /// Its text as it may be shown.
    pub text: String,
    /// The same as JSON: numbers and booleans as such; an empty object for the parameters of a function without any.
    pub json: serde_json::Value,
    /// Where it comes from.
    pub origin: SettingOrigin,
}

impl AppService {
    /// Reads the settings of this service: those of the provider, if flags or environment name one, and the files.
    /// `file` stands for the private file in place of what flags say. What [`AppService::with_setup`] would add is not
    /// known.
    ///
    /// # Errors
    /// [`SettingsError`]. Files that cannot be read are findings of [`SettingsView::check`], and errors of what needs
    /// them.
    pub async fn settings(
        self,
        invocation: &Invocation,
        file: Option<&Path>,
    ) -> Result<SettingsView, SettingsError> {
        // TLS clients take the process's provider; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let requirements = self.into_requirements();
        let service_key = ServiceKey::try_new(&invocation.flags.service_key(&requirements.service_key))?;
        let mut invocation = invocation.clone();
        if let Some(file) = file {
            invocation.set_private_file(file);
        }
        let remote = match &invocation.flags.config_provider {
            None => None,
            Some(address) => {
                let (provider, _) = bootstrap::provider(&invocation, &service_key, address)?;
                Some(Remote::load(provider).await?)
            }
        };
        let mut known = Layers::default();
        if let Some(remote) = &remote {
            known.load(remote.snapshot.clone());
        }
        let mut private = None;
        if remote.is_none() && files::private_comes_first(&invocation)? {
            let document = files::read_private(&invocation, &known).await;
            if let Ok(document) = &document {
                known.private = document.layer.clone();
            }
            private = Some(document);
        }
        let common = match remote {
            Some(_) => None,
            None => files::read_common(&invocation, &known).await.transpose(),
        };
        if let Some(Ok(common)) = &common {
            known.all_services = common.all_services.layer.clone();
            known.app_services = common.app_services.layer.clone();
        }
        let private = match private {
            Some(private) => private,
            None => files::read_private(&invocation, &known).await,
        };
        Ok(SettingsView {
            invocation,
            service_key,
            requirements,
            private: private.map_err(Into::into),
            common: common.map(|common| common.map_err(Into::into)),
            remote,
        })
    }
}

impl Remote {
    async fn load(provider: Arc<dyn ConfigurationProvider>) -> Result<Self, ConfigurationError> {
        provider.check_alive().await?;
        Ok(Self {
            is_ready: provider.common_config_ready().await?,
            snapshot: provider.load().await?,
            provider,
        })
    }

    fn section(&self, section: Section) -> Option<&Layer> {
        match section {
            Section::AllServices => self.snapshot.all_services.as_ref(),
            Section::AppServices => self.snapshot.app_services.as_ref(),
            Section::Private => self.snapshot.private.as_ref(),
        }
    }

    fn text(&self, section: Section, path: &str) -> Option<&str> {
        self.section(section)?.get(path)
    }
}

impl SettingsView {
    /// The service these settings are for.
    pub fn service_key(&self) -> &ServiceKey {
        &self.service_key
    }

    /// The configuration provider, for messages; none without one.
    pub fn provider(&self) -> Option<String> {
        self.remote.as_ref().map(|remote| remote.provider.describe())
    }

    /// The private file, for messages.
    pub fn file(&self) -> String {
        let path = self.invocation.flags.private_config_file();
        path.strip_prefix(".").unwrap_or(&path).display().to_string()
    }

    /// Every setting that holds, by ascending path: of a service that starts with the files, or that finds in the
    /// provider what is there now.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn settings(&self) -> Result<Vec<ShownSetting>, SettingsError> {
        let (layers, environment) = self.layers()?;
        let effective = resolve(&layers, None);
        let leaves = effective.configuration.leaves();
        let setting = |path: &str| {
            Some(ShownSetting {
                path: path.to_owned(),
                text: leaves.shown(path)?,
                json: leaves.json(path)?,
                origin: self.origin(leaves.get(path)?.origin(), path, &environment),
            })
        };
        let mut settings: Vec<_> = leaves.iter().filter_map(|(path, _)| setting(path)).collect();
        let functions = effective.configuration.writable.pipeline.functions.iter();
        for (name, _) in functions.filter(|(_, parameters)| parameters.is_empty()) {
            let path = format!("Writable/Pipeline/Functions/{name}/Parameters");
            settings.push(ShownSetting {
                origin: self.origin(Origin::Private, &path, &environment),
                path,
                text: String::new(),
                json: serde_json::json!({}),
            });
        }
        settings.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(settings)
    }

    /// The text of a leaf in one section of the provider, as it may be shown; none when it is not there.
    ///
    /// # Errors
    /// [`SettingsError::NoProvider`].
    pub fn leaf(&self, section: Section, path: &str) -> Result<Option<String>, SettingsError> {
        let remote = self.remote()?;
        Ok(remote.text(section, path).map(|text| shown(path, text)))
    }

    /// The paths in one section of the provider.
    ///
    /// # Errors
    /// [`SettingsError::NoProvider`].
    pub fn paths(&self, section: Section) -> Result<Vec<String>, SettingsError> {
        let leaves = self.remote()?.section(section).into_iter().flat_map(Layer::iter);
        Ok(leaves.map(|(path, _)| path.to_owned()).collect())
    }

    fn remote(&self) -> Result<&Remote, SettingsError> {
        self.remote.as_ref().ok_or(SettingsError::NoProvider)
    }

    fn document(&self) -> Result<&Document, SettingsError> {
        self.private
            .as_ref()
            .map_err(|problem| problem.in_file(&self.file()))
    }

    /// The layers of a service that runs now, and what the environment overrides in them: with a provider nothing.
    fn layers(&self) -> Result<(Layers, Environment), SettingsError> {
        let mut layers = Layers::default();
        let mut environment = Environment::default();
        match &self.remote {
            Some(remote) => layers.load(remote.snapshot.clone()),
            None => {
                self.common_layers(&mut layers)?;
                layers.private = self.document()?.layer.clone();
                environment = environment::overrides(&self.invocation.environment, &layers)?;
                layers.environment = environment.layer.clone();
            }
        }
        self.set_hosts(&mut layers);
        Ok((layers, environment))
    }

    fn common_layers(&self, layers: &mut Layers) -> Result<(), SettingsError> {
        match &self.common {
            None => {}
            Some(Ok(common)) => {
                layers.all_services = common.all_services.layer.clone();
                layers.app_services = common.app_services.layer.clone();
            }
            Some(Err(problem)) => {
                return Err(problem.in_file(&self.common_file().unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// What `-d` and `-rsh` put in place.
    fn set_hosts(&self, layers: &mut Layers) {
        let flags = &self.invocation.flags;
        if let Some(hosts) = &flags.remote_service_hosts {
            layers.set_remote_hosts(hosts);
        } else if flags.dev {
            layers.set_dev_mode(&bootstrap::outbound_address());
        }
    }
}
