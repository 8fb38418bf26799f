//! Sealing and opening one object.
//!
//! Hidden are the payload, the context values, and topic and content type of a whole delivery. A store still sees what it
//! finds its way by: ids, pipeline, version, state, times, destination, the texts of errors, the size of the payload, and
//! of a device's name a tag that tells one device from another.

use std::collections::BTreeMap;

use bytes::Bytes;
use edgehold_core::{Context, StoredInput, StoredObject, StoredObjectId, retry::Progress};
use edgehold_store::semantics;
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::{
    frame::{self, Unopened},
    key::Keys,
};

/// With what objects are sealed at this moment.
#[derive(Clone, Copy)]
pub(crate) struct Seal<'a> {
    /// What is opened with; what is sealed with too, if that is asked for.
    pub(crate) keys: Option<&'a Keys>,
    pub(crate) encryption: bool,
    pub(crate) compression: bool,
}

/// What stands beside the payload.
#[derive(Deserialize)]
struct Hidden {
    context: BTreeMap<String, String>,
    topic: String,
    content_type: String,
}

/// A [`Hidden`] to be hidden.
#[derive(Serialize)]
struct Shown<'a> {
    context: &'a BTreeMap<String, String>,
    topic: &'a str,
    content_type: &'a str,
}

/// Bytes of a device's tag: enough that no two devices of a plant share one.
const TAG_BYTES: usize = 16;

impl Seal<'_> {
    /// Whether objects are kept as they are.
    pub(crate) fn is_none(&self) -> bool {
        !self.encryption && !self.compression
    }

    fn keys_to_seal(&self) -> Option<&Keys> {
        self.keys.filter(|_| self.encryption)
    }

    pub(crate) fn seal(&self, object: &StoredObject) -> StoredObject {
        let mut sealed = object.clone();
        let (topic, content_type) = match &mut sealed.input {
            StoredInput::Delivery {
                content_type, topic, ..
            } => (std::mem::take(topic), std::mem::take(content_type)),
            StoredInput::Bytes { .. } => Default::default(),
        };
        let shown = Shown {
            context: &object.context,
            topic: &topic,
            content_type: &content_type,
        };
        (sealed.context, sealed.payload) = self.hide(object.id, &shown, &object.payload);
        sealed
    }

    /// What an attempt that has moved on leaves behind.
    pub(crate) fn seal_progress(&self, id: StoredObjectId, progress: &Progress) -> Progress {
        let shown = Shown {
            context: &progress.context,
            topic: "",
            content_type: "",
        };
        let (context, payload) = self.hide(id, &shown, &progress.payload);
        Progress {
            context,
            payload,
            ..progress.clone()
        }
    }

    fn hide(
        &self,
        id: StoredObjectId,
        shown: &Shown<'_>,
        payload: &Bytes,
    ) -> (BTreeMap<String, String>, Bytes) {
        let (keys, compression) = (self.keys_to_seal(), self.compression);
        let beside = serde_json::to_vec(shown).expect("texts are always JSON");
        let beside = frame::seal(&beside, &place(id, BESIDE), keys, compression);
        let mut context = BTreeMap::from([(
            semantics::SEAL.to_owned(),
            semantics::seal_text(payload.len(), &beside),
        )]);
        if let Some(device) = semantics::device_in(shown.context) {
            context.insert(Context::DEVICE_NAME.to_owned(), self.device(device));
        }
        let payload = frame::seal(payload, &place(id, PAYLOAD), keys, compression);
        (context, payload.into())
    }

    /// What a store knows a device by.
    pub(crate) fn device(&self, name: &str) -> String {
        match self.keys_to_seal() {
            None => name.to_owned(),
            Some(keys) => {
                let mut tag = [0; 2 * TAG_BYTES];
                let signed = hmac::sign(&keys.device, name.as_bytes());
                hex::encode_to_slice(&signed.as_ref()[..TAG_BYTES], &mut tag).expect("a byte is two digits");
                String::from_utf8_lossy(&tag).into_owned()
            }
        }
    }

    /// An object as it was before it was sealed. One that never was, comes back as it is.
    pub(crate) fn open(&self, object: &mut StoredObject) -> Result<(), Unopened> {
        let Some(seal) = object.context.get(semantics::SEAL) else {
            return Ok(());
        };
        let (_, beside) = semantics::read_seal(seal).ok_or(Unopened::Changed)?;
        let beside = frame::open(&beside, &place(object.id, BESIDE), self.keys)?;
        let payload = frame::open(&object.payload, &place(object.id, PAYLOAD), self.keys)?;
        let hidden: Hidden = serde_json::from_slice(&beside).map_err(|_| Unopened::Changed)?;
        if let StoredInput::Delivery {
            content_type, topic, ..
        } = &mut object.input
        {
            (*content_type, *topic) = (hidden.content_type, hidden.topic);
        }
        object.context = hidden.context;
        object.payload = payload.into();
        Ok(())
    }
}

const PAYLOAD: u8 = 1;
const BESIDE: u8 = 2;

/// Says whose piece it is and which: nothing sealed can be moved to another object.
fn place(id: StoredObjectId, part: u8) -> [u8; 17] {
    let mut place = [part; 17];
    place[..16].copy_from_slice(id.as_uuid().as_bytes());
    place
}
