//! Configuration files: what is in them, and the one place of this crate that opens any; [`FileProvider`] follows them.

mod provider;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::yaml::{self, Document};

pub use provider::{FileProvider, FileSource};

/// The two layers of a common configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommonConfig {
    /// Common settings of all services.
    pub all_services: Document,
    /// Common settings of application services.
    pub app_services: Document,
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is not there.
    #[error("configuration file {} does not exist; name its folder with -cd, its profile with -p, its name with -cf (common configuration: -cc)", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is not a file but an address; whoever can fetch it hands its text to [`parse_private`] or [`parse_common`].
    #[error("configuration at {uri} cannot be read as a file; fetch it and name the file")]
    Uri {
        /// The address.
        uri: String,
    },
    /// It is there and cannot be read.
    #[error("configuration file {} cannot be read", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is not the YAML it should be.
    #[error("configuration file {file} is not valid YAML")]
    Invalid {
        /// Its path or URI.
        file: String,
        /// Where and what.
        #[source]
        source: yaml::InvalidYaml,
    },
    /// A common configuration file without one of its two sections.
    #[error(
        "common configuration file {file} has no section '{section}'; it needs 'all-services' and 'app-services' at the top"
    )]
    MissingSection {
        /// Its path or URI.
        file: String,
        /// The section.
        section: &'static str,
    },
}

/// Reads a private configuration file.
///
/// # Errors
/// [`FileError`].
pub fn read_private(path: impl AsRef<Path>) -> Result<Document, FileError> {
    let path = path.as_ref();
    parse_private(&read(path)?, &path.display().to_string())
}

/// Reads a common configuration file.
///
/// # Errors
/// [`FileError`].
pub fn read_common(path: impl AsRef<Path>) -> Result<CommonConfig, FileError> {
    let path = path.as_ref();
    parse_common(&read(path)?, &path.display().to_string())
}

/// What a private configuration says. `file` is its path or URI, for errors.
///
/// # Errors
/// [`FileError::Invalid`].
pub fn parse_private(text: &str, file: &str) -> Result<Document, FileError> {
    yaml::read(text).map_err(|source| FileError::Invalid {
        file: file.to_owned(),
        source,
    })
}

/// The two layers of a common configuration; sections for other kinds of services are left out. `file` is its path or
/// URI, for errors.
///
/// # Errors
/// [`FileError::Invalid`], [`FileError::MissingSection`].
pub fn parse_common(text: &str, file: &str) -> Result<CommonConfig, FileError> {
    let all = parse_private(text, file)?;
    let section = |section: &'static str| {
        // A section that is there and empty is there all the same.
        let document = all.below(section);
        document.ok_or_else(|| FileError::MissingSection {
            file: file.to_owned(),
            section,
        })
    };
    Ok(CommonConfig {
        all_services: section("all-services")?,
        app_services: section("app-services")?,
    })
}

/// The http or https address that a path is instead of a file.
pub fn as_uri(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let is_uri = |scheme: &str| {
        text.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    (is_uri("http://") || is_uri("https://")).then_some(text)
}

fn read(path: &Path) -> Result<String, FileError> {
    if let Some(uri) = as_uri(path) {
        return Err(FileError::Uri { uri: uri.to_owned() });
    }
    fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing {
            path: path.to_owned(),
        },
        _ => FileError::Unreadable {
            path: path.to_owned(),
            source,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_missing_file_is_named_with_what_to_do() {
        let error = read_private("no/such/configuration.yaml").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("no/such/configuration.yaml") && text.contains("-cd"),
            "{text}"
        );
        let error = read_common("HTTPS://h/configuration.yaml").unwrap_err();
        assert!(matches!(error, FileError::Uri { .. }), "{error}");
    }

    #[test]
    fn a_mistake_is_named_with_file_and_line() {
        let error = parse_private("Writable:\n  A: 1\n  A: 2\n", "res/x.yaml").unwrap_err();
        assert!(error.to_string().contains("res/x.yaml"), "{error}");
        assert!(
            error
                .source()
                .unwrap()
                .to_string()
                .starts_with("line 3, column 3: "),
            "{:?}",
            error.source()
        );
    }

    #[test]
    fn common_sections_are_told_apart() {
        let common = parse_common(
            "all-services: {A: 1}\napp-services: {A: 2}\ndevice-services: {A: 3}",
            "c",
        )
        .unwrap();
        assert_eq!(common.all_services.layer.get("A"), Some("1"));
        assert_eq!(common.app_services.layer.get("A"), Some("2"));
        let place = common.app_services.places.value("A").unwrap();
        assert_eq!((place.line, place.column), (2, 19));
    }

    #[test]
    fn a_common_section_may_be_empty_but_not_absent() {
        let common = parse_common("all-services: {A: 1}\napp-services:", "c").unwrap();
        assert!(common.app_services.layer.is_empty());
        let error = parse_common("all-services: {A: 1}", "c").unwrap_err();
        assert!(
            matches!(
                error,
                FileError::MissingSection {
                    section: "app-services",
                    ..
                }
            ),
            "{error}"
        );
        assert!(parse_common("all-services-x: {A: 1}\napp-services: {A: 1}", "c").is_err());
    }
}
