//! The seam through which those who run and send tell what they do, for whoever counts it.
//!
//! Owns what can be told. Names of metrics, and what is made of the numbers, belong to whoever implements it.

use std::time::Duration;

use crate::PipelineId;

/// Where an export goes, as it may be shown: no password is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportTarget<'a> {
    /// A request.
    Http {
        /// Its URL.
        url: &'a str,
    },
    /// A message to a broker.
    Mqtt {
        /// The broker as it is configured.
        address: &'a str,
        /// The topic of this message.
        topic: &'a str,
    },
}

/// Is told of what happens, as it happens.
///
/// Contract: every call returns at once; it is made on the way of each message.
pub trait Observer: Send + Sync {
    /// A delivery begins its run in this pipeline.
    fn run_started(&self, pipeline_id: &PipelineId);

    /// A run that was begun by a delivery has ended, whichever way, after this time: until its data has left, is dropped,
    /// is stored or waits in a batch.
    fn run_ended(&self, pipeline_id: &PipelineId, took: Duration);

    /// A function of this pipeline has failed, at the first attempt or a later one.
    fn attempt_failed(&self, pipeline_id: &PipelineId);

    /// So many bytes were sent and taken.
    fn exported(&self, target: ExportTarget<'_>, bytes: usize);

    /// What was sent was not taken, or could not be sent.
    fn export_failed(&self, target: ExportTarget<'_>);
}

/// Nobody counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn run_started(&self, _: &PipelineId) {}

    fn run_ended(&self, _: &PipelineId, _: Duration) {}

    fn attempt_failed(&self, _: &PipelineId) {}

    fn exported(&self, _: ExportTarget<'_>, _: usize) {}

    fn export_failed(&self, _: ExportTarget<'_>) {}
}
