//! The device services that core-metadata knows.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    http::CallError,
    service::{Service, named},
};

/// Device services of core-metadata. Cheap to clone.
///
/// A device service is `{name, baseAddress, adminState, description, labels, properties}`.
#[derive(Clone, Debug)]
pub struct DeviceServiceClient {
    pub(crate) service: Service,
}

impl DeviceServiceClient {
    /// The device service of this name.
    ///
    /// # Errors
    /// Every [`CallError`]; [`CallError::Declined`] with status 404 when there is none.
    pub async fn by_name(&self, name: &str) -> Result<Value, CallError> {
        let segments = ["deviceservice", "name", name];
        named(
            self.service.call(Method::GET, &segments, &[], None).await?,
            "service",
        )
    }

    /// All device services, from `offset` on and at most `limit`.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn all(&self, offset: u32, limit: u32) -> Result<Vec<Value>, CallError> {
        let segments = ["deviceservice", "all"];
        self.service
            .call_for_page(&segments, "services", offset, limit)
            .await
    }

    /// Adds a device service: `POST /api/v3/deviceservice`. Answers its id.
    ///
    /// # Errors
    /// Every [`CallError`]; also [`CallError::Declined`] when the answer as a whole is a success, and that for this service
    /// is not: 409 when there is one of its name.
    pub async fn add(&self, service: &Value) -> Result<String, CallError> {
        let item = json!({ "service": service });
        self.service
            .call_for_one(Method::POST, &["deviceservice"], item)
            .await
    }

    /// Changes those fields of a device service that are there beside its `name`: `PATCH /api/v3/deviceservice`.
    ///
    /// # Errors
    /// As [`Self::add`]; 404 when there is none of this name.
    pub async fn update(&self, changes: &Value) -> Result<(), CallError> {
        let item = json!({ "service": changes });
        let answer = self.service.call_for_one(Method::PATCH, &["deviceservice"], item);
        answer.await.map(drop)
    }

    /// Removes the device service of this name.
    ///
    /// # Errors
    /// As [`Self::by_name`].
    pub async fn delete(&self, name: &str) -> Result<(), CallError> {
        let segments = ["deviceservice", "name", name];
        let answer = self.service.call::<Value>(Method::DELETE, &segments, &[], None);
        answer.await.map(drop)
    }
}
