//! A stored object as one JSON object: what scripts read. The keys of [`edgehold::record`], and two that save them work.

use edgehold::{StoredObject, record};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    #[serde(flatten)]
    object: record::Record<'a>,
    payload_bytes: usize,
    /// The payload as text; `null` when it is none.
    payload_text: Option<&'a str>,
}

impl<'a> Record<'a> {
    pub(super) fn of(object: &'a StoredObject) -> Self {
        Self {
            object: object.into(),
            payload_bytes: object.payload.len(),
            payload_text: std::str::from_utf8(&object.payload).ok(),
        }
    }
}
