//! The core services as functions use them: events of core-data, devices and resources of core-metadata, commands of
//! core-command, notifications of support-notifications.
//!
//! Shapes are EdgeX's API v3. What this crate has no type for comes as JSON.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use edgehold_config::Client as Address;
use edgehold_contracts::{AddEventRequest, BaseResponse, ContentType, Event, Generation, json};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    DeviceServiceClient, ReadingClient, SubscriptionClient,
    http::CallError,
    service::{Content, Service},
};

/// The core services that `Clients` names.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    events: Option<EventClient>,
    readings: Option<ReadingClient>,
    metadata: Option<MetadataClient>,
    device_services: Option<DeviceServiceClient>,
    commands: Option<CommandClient>,
    notifications: Option<NotificationClient>,
    subscriptions: Option<SubscriptionClient>,
}

impl Clients {
    /// Clients for whatever of `core-data`, `core-metadata`, `core-command` and `support-notifications` has an address.
    /// Each call ends within `limit`. Connects to nothing yet.
    ///
    /// # Errors
    /// [`CallError::Address`] for the first address that is none.
    pub fn new(
        addresses: &BTreeMap<String, Address>,
        generation: Generation,
        limit: Duration,
    ) -> Result<Self, CallError> {
        let service = |name: &str| {
            let address = addresses.get(name).filter(|a| !a.host.is_empty() && a.port > 0);
            address
                .map(|address| Service::new(name, address, limit))
                .transpose()
        };
        let data = service("core-data")?;
        let metadata = service("core-metadata")?;
        let notifications = service("support-notifications")?;
        Ok(Self {
            readings: data.clone().map(|service| ReadingClient { service }),
            events: data.map(|service| EventClient { service, generation }),
            device_services: metadata.clone().map(|service| DeviceServiceClient { service }),
            metadata: metadata.map(|service| MetadataClient {
                service,
                resources: Arc::default(),
            }),
            commands: service("core-command")?.map(|service| CommandClient { service }),
            subscriptions: notifications
                .clone()
                .map(|service| SubscriptionClient { service }),
            notifications: notifications.map(|service| NotificationClient { service }),
        })
    }

    /// Events of core-data; none when `Clients/core-data` is not configured. (EdgeX: `EventClient`.)
    pub fn events(&self) -> Option<&EventClient> {
        self.events.as_ref()
    }

    /// Readings of core-data; none when `Clients/core-data` is not configured. (EdgeX: `ReadingClient`.)
    pub fn readings(&self) -> Option<&ReadingClient> {
        self.readings.as_ref()
    }

    /// Device services; none when `Clients/core-metadata` is not configured. (EdgeX: `DeviceServiceClient`.)
    pub fn device_services(&self) -> Option<&DeviceServiceClient> {
        self.device_services.as_ref()
    }

    /// Subscriptions to notifications; none when `Clients/support-notifications` is not configured.
    /// (EdgeX: `SubscriptionClient`.)
    pub fn subscriptions(&self) -> Option<&SubscriptionClient> {
        self.subscriptions.as_ref()
    }

    /// Devices, profiles and resources; none when `Clients/core-metadata` is not configured.
    /// (EdgeX: `DeviceClient`, `DeviceProfileClient`.)
    pub fn metadata(&self) -> Option<&MetadataClient> {
        self.metadata.as_ref()
    }

    /// Commands to devices; none when `Clients/core-command` is not configured. (EdgeX: `CommandClient`.)
    pub fn commands(&self) -> Option<&CommandClient> {
        self.commands.as_ref()
    }

    /// Notifications; none when `Clients/support-notifications` is not configured. (EdgeX: `NotificationClient`.)
    pub fn notifications(&self) -> Option<&NotificationClient> {
        self.notifications.as_ref()
    }
}

/// Events of core-data. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventClient {
    service: Service,
    generation: Generation,
}

#[derive(Deserialize)]
struct Id {
    #[serde(default)]
    id: String,
}

impl EventClient {
    /// Adds an event: `POST /api/v3/event/<service>/<profile>/<device>/<source>`, as CBOR when a reading is binary.
    /// Answers the id that it has in core-data. Cancel-safe in that nothing is sent after the call is dropped.
    ///
    /// # Errors
    /// Every [`CallError`]; an event that core-data has already is [`CallError::Declined`] with status 409.
    pub async fn add(&self, service_name: &str, request: &AddEventRequest) -> Result<String, CallError> {
        let event = &request.event;
        let (body, content_type) = request.encode(self.generation);
        let segments = [
            "event",
            service_name,
            &event.profile_name,
            &event.device_name,
            &event.source_name,
        ];
        let content = Content {
            content_type: content_type.as_str(),
            body,
        };
        let answer: Id = self
            .service
            .call(Method::POST, &segments, &[], Some(content))
            .await?;
        Ok(answer.id)
    }

    /// The event with this id.
    ///
    /// # Errors
    /// Every [`CallError`]; [`CallError::Declined`] with status 404 when there is none.
    pub async fn by_id(&self, id: &str) -> Result<Event, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            event: Value,
        }
        let answer: Answer = self
            .service
            .call(Method::GET, &["event", "id", id], &[], None)
            .await?;
        event(&answer.event)
    }

    /// Events of a device, the newest first.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn by_device(&self, device: &str, offset: u32, limit: u32) -> Result<Vec<Event>, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            events: Vec<Value>,
        }
        let (offset, limit) = (offset.to_string(), limit.to_string());
        let query = [("offset", offset.as_str()), ("limit", limit.as_str())];
        let segments = ["event", "device", "name", device];
        let answer: Answer = self.service.call(Method::GET, &segments, &query, None).await?;
        answer.events.iter().map(event).collect()
    }
}

/// `http://localhost:59880`.
impl fmt::Display for EventClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.service.fmt(f)
    }
}

fn event(value: &Value) -> Result<Event, CallError> {
    let wrong = |reason: String| CallError::NotUnderstood { reason };
    let bytes = json::to_vec(value).map_err(|error| wrong(error.to_string()))?;
    Event::decode(&bytes, ContentType::Json).map_err(|error| wrong(error.to_string()))
}

/// Devices, profiles and resources of core-metadata. Cheap to clone; clones share what is remembered.
#[derive(Clone, Debug)]
pub struct MetadataClient {
    service: Service,
    resources: Arc<Mutex<HashMap<(String, String), Remembered>>>,
}

#[derive(Clone, Debug)]
struct Remembered {
    resource: Arc<DeviceResource>,
    until: Instant,
}

/// How long a resource is believed to be what it was.
const BELIEVED: Duration = Duration::from_secs(60);
/// Past so many all are forgotten.
const MOST_REMEMBERED: usize = 4096;

/// A resource of a device profile. What has no field is dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub struct DeviceResource {
    /// `name`.
    pub name: String,
    /// `description`.
    pub description: String,
    /// `isHidden`: not to be read by a command.
    pub is_hidden: bool,
    /// `properties`.
    pub properties: ResourceProperties,
    /// `attributes`: what its device service needs.
    pub attributes: serde_json::Map<String, Value>,
    /// `tags`.
    pub tags: serde_json::Map<String, Value>,
}

/// What the values of a resource are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceProperties {
    /// `valueType`, for example `Int32`.
    pub value_type: String,
    /// `readWrite`: `R`, `W` or `RW`.
    pub read_write: String,
    /// `units`, for example `degreesC`.
    pub units: String,
    /// `mediaType` of a binary value.
    pub media_type: String,
    /// `defaultValue`.
    pub default_value: String,
    /// `minimum`, `maximum`, `scale`, `offset` and whatever else there is.
    #[serde(flatten)]
    pub others: serde_json::Map<String, Value>,
}

impl MetadataClient {
    /// A resource of a profile, remembered for a minute. (EdgeX: `GetDeviceResource`, which remembers for ever.)
    ///
    /// # Errors
    /// Every [`CallError`]; [`CallError::Declined`] with status 404 when there is none, which is not remembered.
    pub async fn resource(&self, profile: &str, resource: &str) -> Result<Arc<DeviceResource>, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            resource: DeviceResource,
        }
        let key = (profile.to_owned(), resource.to_owned());
        let now = Instant::now();
        let remembered = self.remembered().get(&key).cloned();
        if let Some(remembered) = remembered.filter(|remembered| now < remembered.until) {
            return Ok(remembered.resource);
        }
        let segments = ["deviceresource", "profile", profile, "resource", resource];
        let answer: Answer = self.service.call(Method::GET, &segments, &[], None).await?;
        let resource = Arc::new(answer.resource);
        let mut resources = self.remembered();
        if resources.len() >= MOST_REMEMBERED {
            resources.clear();
        }
        let remembered = Remembered {
            resource: resource.clone(),
            until: now + BELIEVED,
        };
        resources.insert(key, remembered);
        Ok(resource)
    }

    /// A device, as core-metadata shows it: `{name, adminState, operatingState, serviceName, profileName, ...}`.
    ///
    /// # Errors
    /// Every [`CallError`]; [`CallError::Declined`] with status 404 when there is none.
    pub async fn device(&self, name: &str) -> Result<Value, CallError> {
        let mut answer: Value = self
            .service
            .call(Method::GET, &["device", "name", name], &[], None)
            .await?;
        Ok(answer["device"].take())
    }

    /// A device profile, as core-metadata shows it: `{name, deviceResources, deviceCommands, ...}`.
    ///
    /// # Errors
    /// Every [`CallError`]; [`CallError::Declined`] with status 404 when there is none.
    pub async fn profile(&self, name: &str) -> Result<Value, CallError> {
        let segments = ["deviceprofile", "name", name];
        let mut answer: Value = self.service.call(Method::GET, &segments, &[], None).await?;
        Ok(answer["profile"].take())
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Remembered>> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands to devices by core-command. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CommandClient {
    service: Service,
}

impl CommandClient {
    /// Reads from a device: `GET /api/v3/device/name/<device>/<command>`. With `push_event` the event goes to core-data
    /// as well.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn get(&self, device: &str, command: &str, push_event: bool) -> Result<Event, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            event: Value,
        }
        let push_event = if push_event { "true" } else { "false" };
        let query = [("ds-pushevent", push_event), ("ds-returnevent", "true")];
        let segments = ["device", "name", device, command];
        let answer: Answer = self.service.call(Method::GET, &segments, &query, None).await?;
        event(&answer.event)
    }

    /// Writes to a device: `PUT /api/v3/device/name/<device>/<command>` with values by resource name.
    ///
    /// # Errors
    /// Every [`CallError`].
    pub async fn set(
        &self,
        device: &str,
        command: &str,
        settings: &BTreeMap<String, Value>,
    ) -> Result<(), CallError> {
        let content = json_content(settings)?;
        let segments = ["device", "name", device, command];
        let answer = self
            .service
            .call::<BaseResponse>(Method::PUT, &segments, &[], Some(content));
        answer.await.map(drop)
    }
}

/// Notifications by support-notifications. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NotificationClient {
    service: Service,
}

/// A notification to whoever has subscribed to its category or labels; one of the two is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// `category`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub category: String,
    /// `labels`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// `content`: what is to be read.
    pub content: String,
    /// `contentType`, for example `text/plain`.
    pub content_type: String,
    /// `sender`, usually the service key.
    pub sender: String,
    /// `severity`.
    pub severity: Severity,
}

/// How urgent a notification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// `MINOR`
    Minor,
    /// `NORMAL`
    Normal,
    /// `CRITICAL`
    Critical,
}

impl NotificationClient {
    /// Sends a notification: `POST /api/v3/notification`. Answers its id.
    ///
    /// # Errors
    /// Every [`CallError`]; also [`CallError::Declined`] when the answer as a whole is a success, and that for this
    /// notification is not.
    pub async fn send(&self, notification: &Notification) -> Result<String, CallError> {
        let notification = serde_json::to_value(notification).map_err(|error| CallError::NotUnderstood {
            reason: error.to_string(),
        })?;
        let item = json!({ "notification": notification });
        self.service
            .call_for_one(Method::POST, &["notification"], item)
            .await
    }
}

fn json_content<T: Serialize + ?Sized>(value: &T) -> Result<Content, CallError> {
    let body = json::to_vec(value).map_err(|error| CallError::NotUnderstood {
        reason: error.to_string(),
    })?;
    Ok(Content {
        content_type: "application/json",
        body,
    })
}
