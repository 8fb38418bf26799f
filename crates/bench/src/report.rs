//! The findings of a run, as a table to read and as JSON to keep.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use crate::{distribution::Distribution, process::Resident};

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What the numbers have to be read with: cores, load, sizes.
    pub conditions: Vec<String>,
    /// Distributions of durations.
    pub latencies: Vec<Latency>,
    /// Rates.
    pub rates: Vec<Rate>,
    /// Memory of the service.
    pub memory: Vec<Memory>,
    /// Whatever else is one number.
    pub figures: Vec<Figure>,
}

/// How long something took, many times.
#[derive(Clone, Debug)]
pub struct Latency {
    /// What was measured, from where to where.
    pub name: String,
    /// The samples.
    pub distribution: Distribution,
    /// How many times the effect never came within the time it was given.
    pub missed: usize,
    /// The goal for p99, if there is one.
    pub goal_p99: Option<Duration>,
}

/// How fast something went.
#[derive(Clone, Debug)]
pub struct Rate {
    /// What went.
    pub name: String,
    /// How many were sent.
    pub sent: usize,
    /// How many came through.
    pub arrived: usize,
    /// From the first to the last.
    pub elapsed: Duration,
    /// CPU time of the service alone; `None` where it had no part.
    pub cpu: Option<Duration>,
    /// Names of other rates that this one is compared with.
    pub compared_with: Vec<String>,
}

/// What the service needed.
#[derive(Clone, Debug)]
pub struct Memory {
    /// When it was looked at.
    pub name: String,
    /// What it needed.
    pub resident: Resident,
    /// The goal for what is resident, in bytes, if there is one.
    pub goal_bytes: Option<u64>,
}

/// One number.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: String,
    /// The number; the smaller, the better.
    pub value: f64,
    /// The goal, in words.
    pub goal: Option<String>,
    /// Whether it means the same on another machine.
    pub comparable: bool,
}

impl Rate {
    /// How many came through in a second.
    pub fn per_second(&self) -> f64 {
        count(self.arrived) / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// CPU seconds of the service for a thousand that came through.
    pub fn cpu_seconds_per_thousand(&self) -> Option<f64> {
        let cpu = self.cpu.filter(|_| self.arrived > 0)?;
        Some(cpu.as_secs_f64() * 1_000.0 / count(self.arrived))
    }
}

impl Report {
    fn ratios<'a>(&'a self, rate: &'a Rate) -> impl Iterator<Item = (&'a str, f64)> {
        rate.compared_with.iter().filter_map(|name| {
            let other = self.rates.iter().find(|other| other.name == *name)?;
            Some((other.name.as_str(), rate.per_second() / other.per_second()))
        })
    }

    /// All of it, with times in milliseconds and sizes in bytes.
    pub fn to_json(&self) -> Value {
        let latencies = self.latencies.iter().map(|latency| {
            let mut value = latency.distribution.to_json();
            value["name"] = latency.name.clone().into();
            value["missed"] = latency.missed.into();
            value["goal_p99_ms"] = latency.goal_p99.map(millis).into();
            value
        });
        let rates = self.rates.iter().map(|rate| {
            let ratios: serde_json::Map<String, Value> = self
                .ratios(rate)
                .map(|(name, ratio)| (name.to_owned(), ratio.into()))
                .collect();
            json!({
                "name": rate.name,
                "sent": rate.sent,
                "arrived": rate.arrived,
                "elapsed_ms": millis(rate.elapsed),
                "per_second": rate.per_second(),
                "cpu_seconds_per_thousand": rate.cpu_seconds_per_thousand(),
                "ratio_to": ratios,
            })
        });
        let memory = self.memory.iter().map(|memory| {
            json!({
                "name": memory.name,
                "resident_bytes": memory.resident.now,
                "peak_bytes": memory.resident.peak,
                "anonymous_bytes": memory.resident.anonymous,
                "goal_bytes": memory.goal_bytes,
            })
        });
        let figures = self.figures.iter().map(|figure| {
            json!({
                "name": figure.name,
                "value": figure.value,
                "goal": figure.goal,
                "comparable": figure.comparable,
            })
        });
        json!({
            "conditions": self.conditions,
            "latencies": latencies.collect::<Vec<_>>(),
            "rates": rates.collect::<Vec<_>>(),
            "memory": memory.collect::<Vec<_>>(),
            "figures": figures.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nLatency, ms{:>51}  {:>7} {:>7} {:>7} {:>7}  goal",
            "samples", "p50", "p90", "p99", "max"
        )?;
        for latency in &self.latencies {
            let distribution = &latency.distribution;
            write!(f, "  {:<53}{:>7}", latency.name, distribution.count())?;
            for value in [50, 90, 99].map(|percent| distribution.percentile(percent)) {
                write!(f, " {:>7}", in_millis(value))?;
            }
            write!(f, " {:>7}", in_millis(distribution.max()))?;
            if let Some(goal) = latency.goal_p99 {
                write!(f, "  p99 < {} ms", goal.as_millis())?;
            }
            if latency.missed > 0 {
                write!(f, "  NO EFFECT IN {} CASES", latency.missed)?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "\nThroughput{:>43} {:>9} {:>22}",
            "arrived", "events/s", "CPU s per 1,000 events"
        )?;
        for rate in &self.rates {
            let cpu = rate
                .cpu_seconds_per_thousand()
                .map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.5}"));
            write!(
                f,
                "  {:<44}{:>7} {:>9.0} {cpu:>22}",
                rate.name,
                rate.arrived,
                rate.per_second()
            )?;
            for (name, ratio) in self.ratios(rate) {
                match ratio < 2.0 {
                    true => write!(f, "  {:.0} % of {name}", ratio * 100.0)?,
                    false => write!(f, "  {ratio:.1} times {name}")?,
                }
            }
            if rate.arrived < rate.sent {
                write!(
                    f,
                    "  {} OF {} DID NOT ARRIVE",
                    rate.sent - rate.arrived,
                    rate.sent
                )?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "\nMemory, MiB{:>34} {:>9} {:>17}",
            "resident", "at most", "of it no file's"
        )?;
        for Memory {
            name,
            resident,
            goal_bytes,
        } in &self.memory
        {
            let [now, peak, anonymous] = [resident.now, resident.peak, resident.anonymous].map(mebibytes);
            write!(f, "  {name:<36}{now:>7} {peak:>9} {anonymous:>17}")?;
            match goal_bytes {
                Some(goal) => writeln!(f, "  at most {}", mebibytes(*goal))?,
                None => writeln!(f)?,
            }
        }
        writeln!(f, "\nOther")?;
        for figure in &self.figures {
            write!(f, "  {:<68} {:>9.2}", figure.name, figure.value)?;
            match &figure.goal {
                Some(goal) => writeln!(f, "  {goal}")?,
                None => writeln!(f)?,
            }
        }
        writeln!(f, "\nAs measured, once, on this machine:")?;
        for condition in &self.conditions {
            writeln!(f, "  {condition}")?;
        }
        Ok(())
    }
}

/// Exact up to 2^32, which is more than is ever sent.
fn count(items: usize) -> f64 {
    f64::from(u32::try_from(items).unwrap_or(u32::MAX))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn in_millis(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| format!("{:.1}", millis(duration)))
}

/// With one decimal.
fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(name: &str, arrived: usize, compared_with: &[&str]) -> Rate {
        Rate {
            name: name.to_owned(),
            sent: 100,
            arrived,
            elapsed: Duration::from_secs(1),
            cpu: Some(Duration::from_millis(10)),
            compared_with: compared_with.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn what_did_not_arrive_is_told_and_not_counted() {
        let rates = vec![rate("service", 50, &["broker"]), rate("broker", 100, &[])];
        let report = Report {
            rates,
            ..Report::default()
        };

        let text = report.to_string();
        assert!(text.contains("50 OF 100 DID NOT ARRIVE"), "{text}");
        assert!(text.contains("50 % of broker"), "{text}");
        let json = report.to_json();
        assert_eq!(json["rates"][0]["per_second"], 50.0);
        assert_eq!(json["rates"][0]["cpu_seconds_per_thousand"], 0.2);
        assert_eq!(json["rates"][0]["ratio_to"]["broker"], 0.5);
    }

    #[test]
    fn a_setting_without_effect_is_called_out() {
        let latency = Latency {
            name: "x".to_owned(),
            distribution: Distribution::default(),
            missed: 2,
            goal_p99: Some(Duration::from_millis(50)),
        };
        let text = Report {
            latencies: vec![latency],
            ..Report::default()
        }
        .to_string();
        assert!(text.contains("p99 < 50 ms  NO EFFECT IN 2 CASES"), "{text}");
    }
}
