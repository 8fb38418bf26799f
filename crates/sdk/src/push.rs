//! Pushing events to core-data: over the message bus it listens to, or by its REST interface.
//! (EdgeX: `PushToCore` of the SDK before version 3, which there is to be written by hand since.)

use edgehold_clients::EventClient;
use edgehold_contracts::{AddEventRequest, ContentType};
use edgehold_core::{AppFunction, BoxFuture, Context, Data, Destination, Fault, Flow, FunctionError, Unsent};
use uuid::Uuid;

use crate::publishing::Publisher;

/// The way to core-data.
pub(crate) enum Way {
    /// As a device service publishes: to `events/device/<service key>/<profile>/<device>/<source>`.
    Bus(Publisher),
    /// `POST /api/v3/event/…`.
    Rest(EventClient),
}

/// Hands events and requests to add them to core-data, and hands them on unchanged.
pub(crate) struct PushToCoreData {
    pub(crate) way: Way,
    /// What cannot be pushed now is kept for a later attempt.
    pub(crate) persist_on_error: bool,
    /// `Service.EnableNameFieldEscape`.
    pub(crate) escape_names: bool,
}

/// What every topic of pushed events has before the service key.
const EVENTS: &str = "events/device";

impl AppFunction for PushToCoreData {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            if self.came_from_here(ctx) {
                // Subscribed to what it publishes itself, it would never end.
                return Ok(Flow::Stop);
            }
            let pushed = match request(&data) {
                Ok(request) => self.push(ctx, &request).await,
                Err(error) => Err(error),
            };
            match pushed {
                Ok(()) => Ok(Flow::Continue(data)),
                Err(error) => {
                    if self.persist_on_error {
                        ctx.set_retry_input(&data);
                    }
                    Err(error)
                }
            }
        })
    }
}

impl PushToCoreData {
    async fn push(&self, ctx: &mut Context, request: &AddEventRequest) -> Result<(), FunctionError> {
        let unsent = match self.persist_on_error {
            true => Unsent::Kept,
            false => Unsent::Lost,
        };
        let destination = match &self.way {
            Way::Bus(_) => Destination::new("message-bus"),
            Way::Rest(client) => Destination::new(&client.to_string()),
        };
        ctx.approach(destination, unsent).await?;
        match &self.way {
            Way::Bus(publisher) => {
                let topic = self.topic(ctx, request);
                let content_type = match request.event.has_binary_reading() {
                    true => ContentType::Cbor,
                    false => ContentType::Json,
                };
                let data = Data::AddEventRequest(request.clone().into());
                let published = publisher.publish_with_topic(&topic, &data, content_type.as_str());
                published.await.map_err(|error| {
                    FunctionError::new(error.class(), "cannot push the event to core-data")
                        .with_fault(Fault::Destination)
                        .with_source(error)
                })
            }
            Way::Rest(client) => {
                let added = client.add(ctx.service_key().as_str(), request).await;
                added.map(drop).map_err(|error| {
                    FunctionError::new(
                        error.class(),
                        format!("cannot push the event to core-data at {client}"),
                    )
                    .with_source(error)
                })
            }
        }
    }

    fn topic(&self, ctx: &Context, request: &AddEventRequest) -> String {
        let event = &request.event;
        let levels = [
            ctx.service_key().as_str(),
            &event.profile_name,
            &event.device_name,
            &event.source_name,
        ];
        let levels = levels.map(|name| match self.escape_names {
            true => escape(name),
            false => name.to_owned(),
        });
        format!("{EVENTS}/{}", levels.join("/"))
    }

    fn came_from_here(&self, ctx: &Context) -> bool {
        let own = match self.escape_names {
            true => escape(ctx.service_key().as_str()),
            false => ctx.service_key().as_str().to_owned(),
        };
        let topic = ctx.value(Context::RECEIVED_TOPIC).unwrap_or_default();
        topic.contains(&format!("/{EVENTS}/{own}/"))
    }
}

fn request(data: &Data) -> Result<AddEventRequest, FunctionError> {
    match data {
        Data::AddEventRequest(request) => Ok((**request).clone()),
        Data::Event(event) => Ok(AddEventRequest::new(Uuid::new_v4(), (**event).clone())),
        other => Err(FunctionError::permanent(format!(
            "only an event can be pushed to core-data, not data of kind '{}'",
            other.kind().as_str()
        ))),
    }
}

/// A name as EdgeX escapes it for a level of a topic: everything but ASCII letters and digits is percent-encoded, which is
/// Go's `PathEscape` with `+ - . _ ~` encoded as well, and what that leaves as it is (`$ & : = @`).
fn escape(name: &str) -> String {
    use std::fmt::Write as _;

    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'$' | b'&' | b':' | b'=' | b'@' => {
                escaped.push(char::from(byte));
            }
            byte => {
                // Writing to a text does not fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_edgex_does() {
        assert_eq!(escape("pump-1.a_b~c+d/e f"), "pump%2D1%2Ea%5Fb%7Ec%2Bd%2Fe%20f");
        assert_eq!(escape("a$&:=@b"), "a$&:=@b");
        assert_eq!(escape("泵"), "%E6%B3%B5");
    }
}
