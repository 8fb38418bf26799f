//! The CBOR form of the envelope: a map with the JSON key names whose payload is a byte string or a nested item.

use std::collections::{BTreeMap, TryReserveError};

use bytes::Bytes;
use cbor4ii::core::dec::Decode;
use cbor4ii::core::enc::{Encode, Error, Write};
use cbor4ii::core::utils::{BufWriter, SliceReader};
use cbor4ii::core::{RawValue, types};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{EnvelopeError, EnvelopeKey, MessageEnvelope, Payload, query_params, text_payload};
use crate::cbor;
use crate::codec::{DecodeError, Key};
use crate::content_type::ContentType;
use crate::json::{self, Sorted};

/// Major types of CBOR, the upper three bits of an item's first byte.
const BYTE_STRING: u8 = 2;
const TEXT: u8 = 3;

/// `null` and `undefined`.
const NULLS: [u8; 2] = [0xf6, 0xf7];

pub(super) fn from_cbor(message: &[u8]) -> Result<MessageEnvelope, DecodeError> {
    // First as a whole: what follows may then take it for well-formed.
    cbor::from_slice::<IgnoredAny>(message)?;
    let entries = types::Map::<Vec<(RawValue<'_>, RawValue<'_>)>>::decode(&mut SliceReader::new(message))
        .map_err(|_| DecodeError::Shape("cbor: a message envelope is a map".to_owned()))?
        .0;
    let mut envelope = MessageEnvelope::default();
    for (key, item) in entries {
        let Key::Known(key) = cbor::from_slice(key.as_bytes())? else {
            continue;
        };
        let item = item.as_bytes();
        match key {
            EnvelopeKey::ApiVersion => envelope.api_version = field(item)?,
            EnvelopeKey::ReceivedTopic => envelope.received_topic = field(item)?,
            EnvelopeKey::CorrelationId => envelope.correlation_id = field(item)?,
            EnvelopeKey::RequestId => envelope.request_id = field(item)?,
            EnvelopeKey::ErrorCode => envelope.error_code = field(item)?,
            EnvelopeKey::ContentType => envelope.content_type = field(item)?,
            EnvelopeKey::QueryParams => envelope.query_params = query_params(field(item)?),
            EnvelopeKey::Payload => envelope.payload = payload(item)?,
        }
    }
    Ok(envelope)
}

fn field<T: DeserializeOwned + Default>(item: &[u8]) -> Result<T, DecodeError> {
    Ok(cbor::from_slice::<Option<T>>(item)?.unwrap_or_default())
}

fn payload(item: &[u8]) -> Result<Payload, DecodeError> {
    Ok(match item.first() {
        None => Payload::Empty,
        Some(first) if NULLS.contains(first) => Payload::Empty,
        Some(first) if first >> 5 == BYTE_STRING => {
            let types::Bytes(bytes) = types::Bytes::<Vec<u8>>::decode(&mut SliceReader::new(item))
                .map_err(|error| DecodeError::Syntax(format!("cbor: {error:?}")))?;
            Payload::Bytes(bytes.into())
        }
        Some(first) if first >> 5 == TEXT => text_payload(cbor::from_slice(item)?),
        Some(_) => Payload::Cbor(Bytes::copy_from_slice(item)),
    })
}

pub(super) fn to_cbor(envelope: &MessageEnvelope) -> Result<Vec<u8>, EnvelopeError> {
    // JSON becomes CBOR before anything is written, so that what follows cannot fail.
    let nested = match &envelope.payload {
        Payload::Json(raw) => {
            let value = json::from_slice(raw.get().as_bytes()).map_err(|_| EnvelopeError::PayloadNotCbor)?;
            Some(cbor::to_vec(&Sorted(&value)).map_err(|_| EnvelopeError::PayloadNotCbor)?)
        }
        _ => None,
    };
    Ok(write(envelope, nested.as_deref()).expect("writing to a vector fails only without memory"))
}

fn write(envelope: &MessageEnvelope, nested: Option<&[u8]>) -> Result<Vec<u8>, Error<TryReserveError>> {
    let content_type = match nested {
        Some(_) => ContentType::Cbor.as_str(),
        None => &envelope.content_type,
    };
    let mut out = BufWriter::new(Vec::with_capacity(512));
    let with_params = !envelope.query_params.is_empty();
    types::Map::bounded(7 + usize::from(with_params), &mut out)?;
    text_entry("apiVersion", &envelope.api_version, &mut out)?;
    text_entry("receivedTopic", &envelope.received_topic, &mut out)?;
    text_entry("correlationID", &envelope.correlation_id, &mut out)?;
    text_entry("requestID", &envelope.request_id, &mut out)?;
    "errorCode".encode(&mut out)?;
    envelope.error_code.encode(&mut out)?;
    "payload".encode(&mut out)?;
    match (&envelope.payload, nested) {
        (_, Some(item)) => out.push(item).map_err(Error::Write)?,
        (Payload::Cbor(item), None) => out.push(item).map_err(Error::Write)?,
        (Payload::Bytes(bytes), None) => types::Bytes(bytes.as_ref()).encode(&mut out)?,
        (Payload::Text(text), None) => text.as_str().encode(&mut out)?,
        (Payload::Empty | Payload::Json(_), None) => types::Null.encode(&mut out)?,
    }
    text_entry("contentType", content_type, &mut out)?;
    if with_params {
        "queryParams".encode(&mut out)?;
        write_params(&envelope.query_params, &mut out)?;
    }
    Ok(out.into_inner())
}

fn text_entry(key: &str, text: &str, out: &mut BufWriter) -> Result<(), Error<TryReserveError>> {
    key.encode(out)?;
    text.encode(out)
}

fn write_params(
    params: &BTreeMap<String, String>,
    out: &mut BufWriter,
) -> Result<(), Error<TryReserveError>> {
    types::Map::bounded(params.len(), out)?;
    params
        .iter()
        .try_for_each(|(name, value)| text_entry(name, value, out))
}
