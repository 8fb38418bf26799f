//! Where a setting comes from, as exactly as it is known.

use std::fmt;

use edgehold_config::{Origin, Section, environment::Environment, yaml::Place};

use super::SettingsView;

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SettingOrigin {
    /// The layer: `default`, `all-services`, `app-services`, `private`, `environment`, `command line`.
    pub layer: &'static str,
    /// The file, when it is in one.
    pub file: Option<String>,
    /// Line and column there, from 1, when they are known.
    pub place: Option<(u64, u64)>,
    /// The environment variable.
    pub variable: Option<String>,
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.layer)?;
        if let Some(variable) = &self.variable {
            write!(f, " {variable}")?;
        }
        if let Some(file) = &self.file {
            write!(f, " {file}")?;
            if let Some((line, _)) = self.place {
                write!(f, ":{line}")?;
            }
        }
        Ok(())
    }
}

/// Whether the key of a setting is looked for, or its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Key,
    Value,
}

impl SettingsView {
    /// Where the value of a setting stands that comes from this layer.
    pub(super) fn origin(&self, layer: Origin, path: &str, environment: &Environment) -> SettingOrigin {
        self.origin_of(Part::Value, layer, path, environment)
    }

    /// Where a setting stands that comes from this layer. What the private layer has and the provider has not is about
    /// to be seeded: it stands in the environment or in the file.
    pub(super) fn origin_of(
        &self,
        part: Part,
        layer: Origin,
        path: &str,
        environment: &Environment,
    ) -> SettingOrigin {
        let mut origin = SettingOrigin {
            layer: name(layer),
            file: None,
            place: None,
            variable: None,
        };
        let overridden = || {
            let applied = &environment.applied;
            let of = applied
                .iter()
                .find(|applied| applied.paths.iter().any(|of| of == path));
            of.map(|applied| applied.variable.clone())
        };
        let is_held = |section| {
            let remote = self.remote.as_ref();
            remote.is_some_and(|remote| remote.text(section, path).is_some())
        };
        let place = |places: &edgehold_config::yaml::Places| {
            let place: Option<Place> = match part {
                Part::Key => places.key(path),
                Part::Value => places.value(path),
            };
            place.map(|place| (place.line, place.column))
        };
        match layer {
            Origin::Environment => origin.variable = overridden(),
            Origin::Private if is_held(Section::Private) => {}
            Origin::Private => match (&self.remote, overridden()) {
                (Some(_), Some(variable)) => origin.variable = Some(variable),
                _ => {
                    if let Ok(document) = &self.private {
                        origin.place = place(&document.places);
                        origin.file = Some(self.file());
                    }
                }
            },
            Origin::AllServices | Origin::AppServices => {
                if let Some(Ok(common)) = &self.common {
                    let document = match layer {
                        Origin::AllServices => &common.all_services,
                        _ => &common.app_services,
                    };
                    origin.place = place(&document.places);
                    origin.file = self.common_file();
                }
            }
            _ => {}
        }
        origin
    }

    /// The common file, for messages.
    pub(super) fn common_file(&self) -> Option<String> {
        let path = self.invocation.flags.common_config.as_ref()?;
        Some(path.display().to_string())
    }
}

fn name(layer: Origin) -> &'static str {
    match layer {
        Origin::Default => "default",
        Origin::AllServices => "all-services",
        Origin::AppServices => "app-services",
        Origin::Environment => "environment",
        Origin::CommandLine => "command line",
        Origin::LastGood => "last good value",
        _ => "private",
    }
}
