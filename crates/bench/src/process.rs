//! What the kernel knows of a process: its CPU time and its memory, from `/proc` (Linux).

use std::time::Duration;

use anyhow::{Context, Result};

/// Clock ticks a second in `/proc/<pid>/stat`: part of the kernel's interface, the same on every architecture.
const TICKS_PER_SECOND: u32 = 100;

/// CPU time of all threads so far, user and system. Steps of 10 ms.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = read(pid, "stat")?;
    cpu_time_of(&stat).with_context(|| format!("the CPU time of process {pid} cannot be read"))
}

/// `stat`: `pid (name) state …`, where the name may hold anything; user and system time are the 12th and 13th field
/// behind it.
fn cpu_time_of(stat: &str) -> Option<Duration> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(Duration::from_secs((ticks()? + ticks()?).into()) / TICKS_PER_SECOND)
}

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// All that is resident (`VmRSS`).
    pub now: u64,
    /// All that was, at most (`VmHWM`).
    pub peak: u64,
    /// What belongs to the process alone: heap and stacks (`RssAnon`). The rest is pages of files, above all of the
    /// program itself, which the kernel can drop at any time.
    pub anonymous: u64,
}

/// Memory in use.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: u32) -> Result<Resident> {
    let status = read(pid, "status")?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    };
    let resident = || {
        Some(Resident {
            now: field("VmRSS:")?,
            peak: field("VmHWM:")?,
            anonymous: field("RssAnon:")?,
        })
    };
    resident().with_context(|| format!("the memory of process {pid} cannot be read"))
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_bracket_hides_nothing() {
        let stat = "12 (a) b) S 1 1 1 0 -1 4194560 900 0 0 0 150 50 0 0 20 0";
        assert_eq!(cpu_time_of(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory(std::process::id()).unwrap();
        assert!(0 < memory.anonymous && memory.anonymous < memory.now && memory.now <= memory.peak);
    }
}
