//! Which metrics are reported, and by which name.

use std::collections::BTreeMap;

/// Those that `Writable.Telemetry.Metrics` switches on, or all of them.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a>(Option<&'a BTreeMap<String, bool>>);

impl<'a> Selection<'a> {
    /// As it is configured.
    pub fn new(metrics: &'a BTreeMap<String, bool>) -> Self {
        Self(Some(metrics))
    }

    /// Every metric there is, configured or not.
    pub fn everything() -> Self {
        Self(None)
    }

    /// Whether the metric of this registered name is wanted.
    pub fn wants(&self, registered: &str) -> bool {
        self.0.is_none() || self.configured_name(registered).is_some()
    }

    /// The name by which a metric is reported: the longest of those that are switched on and with which its registered
    /// name begins. None when there is none: it is not reported then. Names that are switched off say nothing, so that
    /// `HttpExport` may be switched on beside the `HttpExportSize` that EdgeX's common configuration switches off. (The
    /// original asks one of the fitting names, any of them.)
    pub fn configured_name(&self, registered: &str) -> Option<&'a str> {
        let fitting = self.switched_on().filter(|name| registered.starts_with(name));
        fitting.max_by_key(|name| name.len())
    }

    /// Whether there is nothing to report, whatever there is.
    pub fn is_empty(&self) -> bool {
        self.switched_on().next().is_none()
    }

    fn switched_on(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let names = self.0.into_iter().flatten().filter(|(_, on)| **on);
        names
            .map(|(name, _)| name.as_str())
            .filter(|name| !name.trim().is_empty())
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
