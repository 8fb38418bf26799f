//! From a configured function to a callable one: parameters, factories and the registry of names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::AppFunction;

/// Why a function cannot be built from its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidFunction {
    /// No built-in or registered function has this name or a name it begins with.
    #[error("'{name}' is not the name of a known function, nor does it begin with one")]
    UnknownFunction {
        /// The configured name.
        name: String,
    },
    /// A parameter that must be there is not.
    #[error("function '{function}': parameter '{parameter}' is missing")]
    MissingParameter {
        /// The configured function name.
        function: String,
        /// The parameter, in its canonical case.
        parameter: String,
    },
    /// A parameter whose value cannot be used.
    #[error("function '{function}': parameter '{parameter}' is {problem}")]
    InvalidParameter {
        /// The configured function name.
        function: String,
        /// The parameter, in its canonical case.
        parameter: String,
        /// What is wrong with it, for example `'maybe', which is not a boolean`.
        problem: String,
    },
}

/// The parameters of one configured function. Names are matched without regard to case; values are text. `Debug` shows no
/// value: it may be a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    function: String,
    values: BTreeMap<String, String>,
    asked: Asked,
}

/// The names that were asked for: what a factory knows. No part of the value: copies begin anew, and all are equal.
#[derive(Debug, Default)]
struct Asked(Mutex<BTreeSet<String>>);

impl Clone for Asked {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Asked {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Asked {}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parameters")
            .field("function", &self.function)
            .field("names", &self.values.keys())
            .finish_non_exhaustive()
    }
}

impl Parameters {
    /// The parameters of the function configured as `function`.
    pub fn new<K: AsRef<str>, V: Into<String>>(
        function: &str,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let values = values
            .into_iter()
            .map(|(k, v)| (k.as_ref().to_lowercase(), v.into()))
            .collect();
        Self {
            function: function.to_owned(),
            values,
            asked: Asked::default(),
        }
    }

    /// The configured name of the function, for example `HTTPExport2`.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The value as configured, if the parameter is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut asked = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.contains(name) {
            asked.insert(name.to_owned());
        }
        self.values.get(&name.to_lowercase()).map(String::as_str)
    }

    /// The names that have been asked for, in their canonical case: after a function has been built, the parameters that
    /// mattered to it, whether they were there or not.
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The trimmed value of a parameter that must be there; it may be empty.
    ///
    /// # Errors
    /// [`InvalidFunction::MissingParameter`].
    pub fn required(&self, name: &str) -> Result<&str, InvalidFunction> {
        self.get(name)
            .map(str::trim)
            .ok_or_else(|| InvalidFunction::MissingParameter {
                function: self.function.clone(),
                parameter: name.to_owned(),
            })
    }

    /// The trimmed value, or the empty text when the parameter is absent.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).map_or("", str::trim)
    }

    /// A boolean as Go's `ParseBool` reads it; absent is `default`.
    ///
    /// # Errors
    /// [`InvalidFunction::InvalidParameter`] for any other text, the blank one included (contract §6).
    pub fn bool(&self, name: &str, default: bool) -> Result<bool, InvalidFunction> {
        match self.get(name).map(str::trim) {
            None => Ok(default),
            Some(text) => parse_go_bool(text)
                .ok_or_else(|| self.invalid(name, format!("'{text}', which is not a boolean"))),
        }
    }

    /// A value parsed by its own type; absent or blank is `None`.
    ///
    /// # Errors
    /// [`InvalidFunction::InvalidParameter`] with the parser's message.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Option<T>, InvalidFunction> {
        match self.text(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|e| self.invalid(name, format!("'{text}': {e}"))),
        }
    }

    /// A comma list: trimmed, blanks dropped. Absent is an error.
    ///
    /// # Errors
    /// [`InvalidFunction::MissingParameter`].
    pub fn required_list(&self, name: &str) -> Result<Vec<&str>, InvalidFunction> {
        Ok(self
            .required(name)?
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect())
    }

    /// The error for a parameter of this function.
    pub fn invalid(&self, name: &str, problem: impl Into<String>) -> InvalidFunction {
        InvalidFunction::InvalidParameter {
            function: self.function.clone(),
            parameter: name.to_owned(),
            problem: problem.into(),
        }
    }
}

/// Go's `strconv.ParseBool`: `1 t T TRUE true True 0 f F FALSE false False`, nothing else.
pub fn parse_go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A callable function and what of its parameters changes what it does to data.
#[derive(Clone)]
pub struct BuiltFunction {
    /// The function.
    pub function: Arc<dyn AppFunction>,
    /// The method, algorithm or type it was built with (`post`, `gzip`, `xml`), or empty. Part of the pipeline's
    /// version, as no other parameter is: a corrected URL keeps the backlog.
    pub variant: String,
}

impl BuiltFunction {
    /// A function without variants.
    pub fn new(function: impl AppFunction + 'static) -> Self {
        Self {
            function: Arc::new(function),
            variant: String::new(),
        }
    }

    /// A function in one of its variants.
    pub fn with_variant(function: impl AppFunction + 'static, variant: impl Into<String>) -> Self {
        Self {
            function: Arc::new(function),
            variant: variant.into(),
        }
    }
}

impl fmt::Debug for BuiltFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltFunction")
            .field("variant", &self.variant)
            .finish_non_exhaustive()
    }
}

/// Makes functions of one built-in name from parameters. Called at start and for each change of the configuration.
pub trait FunctionFactory: Send + Sync {
    /// Builds one function.
    ///
    /// # Errors
    /// [`InvalidFunction`] names the parameter and what is wrong with it.
    fn build(&self, parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction>;
}

impl<F> FunctionFactory for F
where
    F: Fn(&Parameters) -> Result<BuiltFunction, InvalidFunction> + Send + Sync,
{
    fn build(&self, parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
        self(parameters)
    }
}

/// All function names a service knows, with their factories.
#[derive(Clone, Default)]
pub struct FunctionRegistry {
    factories: BTreeMap<String, Arc<dyn FunctionFactory>>,
}

impl FunctionRegistry {
    /// Adds a function under its built-in name, replacing an earlier one of that name.
    pub fn register(&mut self, built_in: &str, factory: impl FunctionFactory + 'static) {
        self.factories.insert(built_in.to_owned(), Arc::new(factory));
    }

    /// All built-in names, by ascending name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.factories.keys().map(String::as_str)
    }

    /// The built-in name and factory a configured name stands for: the exact name, else the longest registered name
    /// it begins with (`HTTPExport2` is `HTTPExport`). Case-sensitive, as in EdgeX.
    ///
    /// # Errors
    /// [`InvalidFunction::UnknownFunction`].
    pub fn resolve(&self, configured: &str) -> Result<(&str, &Arc<dyn FunctionFactory>), InvalidFunction> {
        self.factories
            .iter()
            .filter(|(name, _)| configured.starts_with(name.as_str()))
            .max_by_key(|(name, _)| name.len())
            .map(|(name, factory)| (name.as_str(), factory))
            .ok_or_else(|| InvalidFunction::UnknownFunction {
                name: configured.to_owned(),
            })
    }
}

impl fmt::Debug for FunctionRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.factories.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Data, Flow, FunctionError, Transform};

    struct Nothing;

    impl Transform for Nothing {
        fn apply(&self, _: &mut Context, data: Data) -> Result<Flow, FunctionError> {
            Ok(Flow::Continue(data))
        }
    }

    #[test]
    fn a_configured_name_stands_for_the_longest_known_beginning() {
        let mut registry = FunctionRegistry::default();
        for name in ["Transform", "TransformXml", "HTTPExport"] {
            registry.register(name, |_: &Parameters| Ok(BuiltFunction::new(Nothing)));
        }
        assert_eq!(registry.resolve("HTTPExport2").unwrap().0, "HTTPExport");
        assert_eq!(registry.resolve("TransformXml2").unwrap().0, "TransformXml");
        assert_eq!(registry.resolve("Transform").unwrap().0, "Transform");
        assert!(registry.resolve("httpexport").is_err());
    }

    #[test]
    fn parameters_are_found_whatever_their_case_and_named_when_wrong() {
        let parameters = Parameters::new(
            "F1",
            [("URL", " http://x "), ("FilterOut", "maybe"), ("Empty", "")],
        );
        assert_eq!(parameters.required("Url").unwrap(), "http://x");
        assert_eq!(
            parameters.bool("FilterOut", false).unwrap_err().to_string(),
            "function 'F1': parameter 'FilterOut' is 'maybe', which is not a boolean"
        );
        assert!(parameters.bool("Empty", false).is_err());
        assert!(parameters.bool("Absent", true).unwrap());
        assert_eq!(
            parameters.required("Method").unwrap_err().to_string(),
            "function 'F1': parameter 'Method' is missing"
        );
    }

    #[test]
    fn what_was_asked_for_is_known_in_its_canonical_case() {
        let parameters = Parameters::new("F1", [("url", "http://x"), ("Ulr", "")]);
        let before = parameters.clone();
        let _ = (
            parameters.text("Url"),
            parameters.text("Method"),
            parameters.text("Url"),
        );
        assert_eq!(Vec::from_iter(parameters.asked()), ["Method", "Url"]);
        assert_eq!(before, parameters, "asking changes nothing");
    }
}
