//! Who is told of notifications.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    http::CallError,
    service::{Service, named},
};

/// Subscriptions to notifications, by support-notifications. Cheap to clone.
///
/// A subscription is `{name, receiver, channels: [{type: "REST", host, port, path, httpMethod} | {type: "EMAIL",
/// recipients}], categories, labels, description, resendLimit, resendInterval, adminState}`.
#[derive(Clone, Debug)]
pub struct SubscriptionClient {
    pub(crate) service: Service,
}

/// Whose subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribedTo<'a> {
    /// All there are.
    Anything,
    /// Those to a category.
    Category(&'a str),
    /// Those to a label.
    Label(&'a str),
    /// Those of a receiver.
    Receiver(&'a str),
}

impl SubscriptionClient {
    /// Adds a subscription: `POST /api/v3/subscription`. Answers its id.
    ///
    /// # Errors
    /// Every [`CallError`]; also [`CallError::Declined`] when the answer as a whole is a success, and that for this
    /// subscription is not: 409 when there is one of its name.
    pub async fn add(&self, subscription: &Value) -> Result<String, CallError> {
        let item = json!({ "subscription": subscription });
        self.service
            .call_for_one(Method::POST, &["subscription"], item)
            .await
    }

    /// Changes those fields of a subscription that are there beside its `name`: `PATCH /api/v3/subscription`.
    ///
    /// # Errors
    /// As [`Self::add`]; 404 when there is none of this name.
    pub async fn update(&self, changes: &Value) -> Result<(), CallError> {
        let item = json!({ "subscription": changes });
        let answer = self.service.call_for_one(Method::PATCH, &["subscription"], item);
        answer.await.map(drop)
    }

    /// The subscription of this name.
    ///
    /// # Errors
    /// Every [`CallError`]; [`CallError::Declined`] with status 404 when there is none.
    pub async fn by_name(&self, name: &str) -> Result<Value, CallError> {
        let segments = ["subscription", "name", name];
        named(
            self.service.call(Method::GET, &segments, &[], None).await?,
            "subscription",
        )
    }

    /// The subscriptions to this, from `offset` on and at most `limit`.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn find(&self, to: SubscribedTo<'_>, offset: u32, limit: u32) -> Result<Vec<Value>, CallError> {
        let segments = match &to {
            SubscribedTo::Anything => vec!["subscription", "all"],
            SubscribedTo::Category(name) => vec!["subscription", "category", name],
            SubscribedTo::Label(name) => vec!["subscription", "label", name],
            SubscribedTo::Receiver(name) => vec!["subscription", "receiver", name],
        };
        self.service
            .call_for_page(&segments, "subscriptions", offset, limit)
            .await
    }

    /// Removes the subscription of this name.
    ///
    /// # Errors
    /// As [`Self::by_name`].
    pub async fn delete(&self, name: &str) -> Result<(), CallError> {
        let segments = ["subscription", "name", name];
        let answer = self.service.call::<Value>(Method::DELETE, &segments, &[], None);
        answer.await.map(drop)
    }
}
