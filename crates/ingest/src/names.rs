//! Names with dots, on buses that divide levels by dots (Redis, NATS).
//!
//! There the topic of device `pump.1` comes out with a level too many: `…/pump/1/…`. Where it is the topic of an event,
//! the event inside has the names, and they tell which of the slashes were dots. (EdgeX leaves such topics altered.)

use edgehold_contracts::decode_event;
use edgehold_core::Received;

/// Profile, device and source, and the service before them.
const NAMED_LEVELS: usize = 4;

/// The topic as it was before its dots became slashes, as far as that can be told. `topic` has no dots; the base prefix
/// may have them.
pub(crate) fn restored(topic: String, base_prefix: &str, received: &Received) -> String {
    let Some(rest) = topic
        .strip_prefix(&slashed(base_prefix))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    else {
        return topic;
    };
    if let Some(names) = names(rest, received) {
        return format!("{base_prefix}{names}");
    }
    format!("{base_prefix}{rest}")
}

/// What follows the base prefix, when it belongs to an event and has levels too many for one.
fn names(rest: &str, received: &Received) -> Option<String> {
    let (kind, rest) = ["/events/device/", "/events/core/"]
        .iter()
        .find_map(|kind| Some((kind, rest.strip_prefix(kind)?)))?;
    if rest.split('/').count() <= NAMED_LEVELS {
        return None;
    }
    let Received::Message {
        payload,
        content_type,
        ..
    } = received
    else {
        return None;
    };
    let event = decode_event(payload, content_type).ok()?;
    let mut service = rest;
    for name in [&event.source_name, &event.device_name, &event.profile_name] {
        service = service.strip_suffix(&slashed(name))?.strip_suffix('/')?;
    }
    let service = service.replace('/', ".");
    let (profile, device, source) = (&event.profile_name, &event.device_name, &event.source_name);
    Some(format!("{kind}{service}/{profile}/{device}/{source}"))
}

fn slashed(name: &str) -> String {
    name.replace('.', "/")
}

#[cfg(test)]
mod tests {
    use edgehold_core::{CorrelationId, PayloadForm};

    use super::*;

    fn event(profile: &str, device: &str, source: &str) -> Received {
        let id = "5cf0e8ce-8a31-4a30-a4bd-3c2bf5a1ee51";
        let payload = format!(
            r#"{{"apiVersion":"v3","id":"{id}","deviceName":"{device}","profileName":"{profile}","sourceName":"{source}",
            "origin":1,"readings":[{{"id":"{id}","origin":1,"deviceName":"{device}","profileName":"{profile}",
            "resourceName":"r","valueType":"Int32","value":"1"}}]}}"#
        );
        Received::Message {
            payload: payload.into(),
            form: PayloadForm::Bytes,
            content_type: "application/json".to_owned(),
            correlation_id: CorrelationId::new("c"),
        }
    }

    #[track_caller]
    fn check(came: &str, base_prefix: &str, received: &Received, expected: &str) {
        assert_eq!(restored(came.to_owned(), base_prefix, received), expected);
    }

    #[test]
    fn names_with_dots_come_back_by_the_event_inside() {
        let dots = event("p.x", "pump.1", "s.y.z");
        check(
            "edgex/events/device/device/virtual/p/x/pump/1/s/y/z",
            "edgex",
            &dots,
            "edgex/events/device/device.virtual/p.x/pump.1/s.y.z",
        );
        check(
            "my/base/events/core/svc/p/x/pump/1/s/y/z",
            "my.base",
            &dots,
            "my.base/events/core/svc/p.x/pump.1/s.y.z",
        );
    }

    #[test]
    fn what_cannot_be_told_stays_as_it_came() {
        let plain = event("p", "d", "s");
        check(
            "edgex/events/device/svc/p/d/s",
            "edgex",
            &plain,
            "edgex/events/device/svc/p/d/s",
        );
        // Another device's event, no event, and no events' topic.
        check(
            "edgex/events/device/svc/p/e/1/s",
            "edgex",
            &plain,
            "edgex/events/device/svc/p/e/1/s",
        );
        let nothing = Received::Undecodable {
            raw: bytes::Bytes::new(),
            reason: String::new(),
        };
        check(
            "edgex/events/device/svc/p/d/1/s",
            "edgex",
            &nothing,
            "edgex/events/device/svc/p/d/1/s",
        );
        check(
            "my/base/telemetry/a/b/c",
            "my.base",
            &plain,
            "my.base/telemetry/a/b/c",
        );
        check("edgexx/events", "edgex", &plain, "edgexx/events");
    }
}
