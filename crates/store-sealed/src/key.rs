//! The keys objects are sealed with: read from a secret, told apart by their ids.
//!
//! The secret has an entry for each key, its id and 64 hexadecimal digits, and, when there is more than one, `active`:
//! the id of the key that new objects are sealed with. A key is rotated by adding another and making it active; the old
//! one stays until nothing sealed with it is left.

use std::collections::BTreeMap;

use edgehold_core::Secret;
use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    hkdf, hmac,
};
use zeroize::Zeroizing;

/// The entry that names the key in use.
const ACTIVE: &str = "active";
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// An id has to fit into one byte's count.
const LONGEST_ID_BYTES: usize = 64;

/// Why a secret is of no use for sealing. Says nothing of what the keys are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKeys {
    /// There is no key in it.
    #[error("it has no key: give it an entry whose value is 64 hexadecimal digits")]
    None,
    /// A key is no key.
    #[error("the key '{id}' is not 64 hexadecimal digits")]
    NotAKey {
        /// Its id.
        id: String,
    },
    /// An id is no id.
    #[error("the id of a key has between 1 and {LONGEST_ID_BYTES} bytes")]
    NotAnId,
    /// Several keys, and nothing says which one counts.
    #[error("it has several keys: its entry 'active' has to say the id of the one in use")]
    NoActive,
    /// The one in use is not there.
    #[error("its entry 'active' says '{id}', and there is no such key")]
    UnknownActive {
        /// What it says.
        id: String,
    },
}

/// What is made of one key.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) cipher: LessSafeKey,
    /// Makes the nonce of what is sealed, so that the same object is sealed to the same bytes.
    pub(crate) nonce: hmac::Key,
}

/// All keys of a secret.
pub(crate) struct Keys {
    keys: BTreeMap<String, Key>,
    active: String,
    /// Makes a tag of a device's name, by which a store finds what belongs together without knowing the name. From the
    /// key whose id comes first, so that it stays the same when another key is made the active one.
    pub(crate) device: hmac::Key,
}

impl Keys {
    pub(crate) fn from_secret(secret: &Secret) -> Result<Self, InvalidKeys> {
        let mut keys = BTreeMap::new();
        let mut device = None;
        for (id, value) in secret.iter().filter(|(id, _)| *id != ACTIVE) {
            if id.is_empty() || id.len() > LONGEST_ID_BYTES {
                return Err(InvalidKeys::NotAnId);
            }
            let mut bytes = Zeroizing::new([0; KEY_BYTES]);
            hex::decode_to_slice(value.expose().trim(), &mut *bytes)
                .map_err(|_| InvalidKeys::NotAKey { id: id.clone() })?;
            device.get_or_insert_with(|| hmac::Key::new(hmac::HMAC_SHA256, &*derive(&bytes, "device")));
            let cipher = UnboundKey::new(&AES_256_GCM, &*derive(&bytes, "aes-256-gcm"));
            let key = Key {
                id: id.clone(),
                cipher: LessSafeKey::new(cipher.expect("it has the length of a key")),
                nonce: hmac::Key::new(hmac::HMAC_SHA256, &*derive(&bytes, "nonce")),
            };
            keys.insert(id.clone(), key);
        }
        let active = match (secret.get(ACTIVE), keys.len()) {
            (_, 0) => return Err(InvalidKeys::None),
            (Some(active), _) => active.expose().trim().to_owned(),
            (None, 1) => keys.keys().next().cloned().unwrap_or_default(),
            (None, _) => return Err(InvalidKeys::NoActive),
        };
        match (keys.contains_key(&active), device) {
            (true, Some(device)) => Ok(Self { keys, active, device }),
            _ => Err(InvalidKeys::UnknownActive { id: active }),
        }
    }

    pub(crate) fn active(&self) -> &Key {
        &self.keys[&self.active]
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Key> {
        self.keys.get(id)
    }
}

/// A key for one purpose, from which neither the key itself nor that for another purpose can be told.
fn derive(key: &[u8; KEY_BYTES], purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"edgehold store at rest");
    let mut derived = Zeroizing::new([0; KEY_BYTES]);
    salt.extract(key)
        .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|material| material.fill(&mut *derived))
        .expect("32 bytes are one block of SHA-256");
    derived
}

#[cfg(test)]
pub(crate) mod tests {
    use edgehold_core::SecretText;

    use super::*;

    pub(crate) fn secret(entries: &[(&str, &str)]) -> Secret {
        let entries = entries.iter();
        entries
            .map(|(name, value)| ((*name).to_owned(), SecretText::new(*value)))
            .collect()
    }

    #[test]
    fn a_secret_that_is_of_no_use_says_why() {
        let (one, two) = ("1a".repeat(32), "2b".repeat(32));
        let keys = |entries: &[(&str, &str)]| {
            Keys::from_secret(&secret(entries)).map(|keys| keys.active().id.clone())
        };
        assert_eq!(keys(&[("k1", &one)]), Ok("k1".to_owned()));
        assert_eq!(
            keys(&[("k1", &one), ("k2", &two), ("active", "k2")]),
            Ok("k2".to_owned())
        );
        assert_eq!(keys(&[]), Err(InvalidKeys::None));
        assert_eq!(keys(&[("active", "k1")]), Err(InvalidKeys::None));
        assert_eq!(keys(&[("k1", &one), ("k2", &two)]), Err(InvalidKeys::NoActive));
        let unknown = keys(&[("k1", &one), ("active", "k3")]);
        assert_eq!(unknown, Err(InvalidKeys::UnknownActive { id: "k3".to_owned() }));
        for wrong in ["", "1a", &format!("{one}00"), &"xy".repeat(32)] {
            let error = keys(&[("k1", wrong)]).unwrap_err();
            assert_eq!(error, InvalidKeys::NotAKey { id: "k1".to_owned() });
            assert!(wrong.is_empty() || !error.to_string().contains(wrong), "{error}");
        }
        assert_eq!(keys(&[("", &one)]), Err(InvalidKeys::NotAnId));
    }
}
