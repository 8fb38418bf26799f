//! Instruments for measuring `edgehold` from outside: load, a sink, what the kernel knows of a process, numbers and
//! their report.
//!
//! Owns how something is measured. What is measured, and against which servers, is in `benches/measure`, which
//! `make bench` runs. No measurement judges: a goal is printed beside a number, never asserted, because the machine and
//! whatever else runs on it are part of every number. [`regression`] compares two reports, and only what a machine does
//! not change much: ratios within a run, and memory.

pub mod disk;
pub mod distribution;
pub mod events;
pub mod http_load;
pub mod process;
pub mod regression;
pub mod report;
pub mod sink;
pub mod source;
