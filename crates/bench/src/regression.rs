//! What has clearly become worse between two reports: ratios within a run, and memory. Numbers by themselves say more of
//! the machine than of the program, and are not compared.

use serde_json::Value;

/// A rate may fall to so much of what it was, relative to what it is compared with: repeats differ by a factor of two.
const LEAST_OF_A_RATIO: f64 = 0.4;
/// A figure that should be small may grow to so many times what it was.
const MOST_OF_A_FIGURE: f64 = 2.0;
/// Memory may grow to so many times what it was.
const MOST_OF_MEMORY: f64 = 1.25;

/// Compares a report (`Report::to_json`) with one that is taken as the measure, and names what is clearly worse or is not
/// measured any more. Empty is good.
pub fn regressions(measure: &Value, report: &Value) -> Vec<String> {
    let mut worse = Vec::new();
    for rate in list(measure, "rates") {
        let Some(ratios) = rate["ratio_to"].as_object() else {
            continue;
        };
        for (to, was) in ratios {
            let what = format!("{} to {to}", name(rate));
            let is = find(report, "rates", rate).map(|rate| &rate["ratio_to"][to]);
            let bound = |was: f64| was * LEAST_OF_A_RATIO;
            compare(&mut worse, &what, was, is, |is, was| is >= bound(was));
        }
    }
    for memory in list(measure, "memory") {
        let is = find(report, "memory", memory).map(|memory| &memory["resident_bytes"]);
        let within = |is, was| is <= was * MOST_OF_MEMORY;
        compare(&mut worse, name(memory), &memory["resident_bytes"], is, within);
    }
    for figure in list(measure, "figures")
        .iter()
        .filter(|figure| figure["comparable"] == true)
    {
        let is = find(report, "figures", figure).map(|figure| &figure["value"]);
        let within = |is, was| is <= was * MOST_OF_A_FIGURE;
        compare(&mut worse, name(figure), &figure["value"], is, within);
    }
    worse
}

fn compare(
    worse: &mut Vec<String>,
    what: &str,
    was: &Value,
    is: Option<&Value>,
    within: impl Fn(f64, f64) -> bool,
) {
    let Some(was) = was.as_f64() else {
        return;
    };
    match is.and_then(Value::as_f64) {
        None => worse.push(format!("{what}: it was {was:.3} and is not measured")),
        Some(is) if !within(is, was) => worse.push(format!("{what}: it was {was:.3} and is {is:.3}")),
        Some(_) => {}
    }
}

fn list<'a>(report: &'a Value, part: &str) -> &'a [Value] {
    report[part].as_array().map_or(&[], Vec::as_slice)
}

fn name(entry: &Value) -> &str {
    entry["name"].as_str().unwrap_or_default()
}

/// The entry of the same name.
fn find<'a>(report: &'a Value, part: &str, entry: &Value) -> Option<&'a Value> {
    list(report, part).iter().find(|other| name(other) == name(entry))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(ratio: f64, bytes: u64, probes: f64) -> Value {
        json!({
            "rates": [{"name": "service", "ratio_to": {"broker": ratio}}],
            "memory": [{"name": "idle", "resident_bytes": bytes}],
            "figures": [
                {"name": "probes", "value": probes, "comparable": true},
                {"name": "seconds", "value": probes, "comparable": false},
            ],
        })
    }

    #[test]
    fn what_is_about_the_same_is_no_regression() {
        let measure = report(0.4, 20_000_000, 2.0);
        assert_eq!(regressions(&measure, &measure), Vec::<String>::new());
        assert_eq!(
            regressions(&measure, &report(0.2, 24_000_000, 3.9)),
            Vec::<String>::new()
        );
        assert_eq!(
            regressions(&measure, &report(4.0, 1, 0.0)),
            Vec::<String>::new(),
            "better is good"
        );
    }

    #[test]
    fn what_is_clearly_worse_is_named_with_both_numbers() {
        let measure = report(0.4, 20_000_000, 2.0);
        assert_eq!(
            regressions(&measure, &report(0.1, 30_000_000, 5.0)),
            [
                "service to broker: it was 0.400 and is 0.100",
                "idle: it was 20000000.000 and is 30000000.000",
                "probes: it was 2.000 and is 5.000",
            ]
        );
    }

    #[test]
    fn what_is_not_measured_any_more_is_named() {
        let worse = regressions(&report(0.4, 1, 1.0), &json!({}));
        assert_eq!(worse.len(), 3, "{worse:?}");
        assert!(
            worse.iter().all(|line| line.ends_with("is not measured")),
            "{worse:?}"
        );
    }
}
