//! Which metrics are reported, and by which name.

use std::collections::BTreeMap;

/// `Writable.Telemetry.Metrics`.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a>(&'a BTreeMap<String, bool>);

impl<'a> Selection<'a> {
    /// As it is configured.
    pub fn new(metrics: &'a BTreeMap<String, bool>) -> Self {
        Self(metrics)
    }

    /// The name by which a metric is reported: the longest of those that are switched on and with which its registered
    /// name begins. None when there is none: it is not reported then. Names that are switched off say nothing, so that
    /// `HttpExport` may be switched on beside the `HttpExportSize` that EdgeX's common configuration switches off. (The
    /// original asks one of the fitting names, any of them.)
    pub fn configured_name(&self, registered: &str) -> Option<&'a str> {
        let switched_on = self
            .0
            .iter()
            .filter(|(_, on)| **on)
            .map(|(name, _)| name.as_str());
        switched_on
            .filter(|name| !name.trim().is_empty() && registered.starts_with(name))
            .max_by_key(|name| name.len())
    }

    /// Whether nothing is reported, whatever there is.
    pub fn is_empty(&self) -> bool {
        !self.0.iter().any(|(name, on)| *on && !name.trim().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_for(metrics: &[(&str, bool)], registered: &str) -> Option<String> {
        let metrics = metrics
            .iter()
            .map(|(name, on)| ((*name).to_owned(), *on))
            .collect();
        let selection = Selection::new(&metrics);
        selection.configured_name(registered).map(str::to_owned)
    }

    #[test]
    fn a_metric_is_reported_by_the_longest_name_that_is_switched_on() {
        let size = "HttpExportSize-http://sink/in";
        for (metrics, name) in [
            (&[] as &[_], None),
            (&[("HttpExportSize", false)], None),
            (&[("HttpExportErrors", true)], None),
            (&[("HttpExportSize", true)], Some("HttpExportSize")),
            (
                &[("HttpExportSize-http://sink", true)],
                Some("HttpExportSize-http://sink"),
            ),
            (
                &[("HttpExport", true), ("HttpExportSize", true)],
                Some("HttpExportSize"),
            ),
            // As the common configuration has it, which names every metric.
            (
                &[("HttpExport", true), ("HttpExportSize", false)],
                Some("HttpExport"),
            ),
            (&[("", true)], None),
        ] {
            assert_eq!(name_for(metrics, size).as_deref(), name, "{metrics:?}");
        }
    }
}
