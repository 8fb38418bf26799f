//! One sealed piece of data: compressed if that makes it smaller, encrypted if there is a key, and always with a proof
//! that it has not changed.
//!
//! ```text
//! ┌──────┬─────────┬───────┬─────────────────────────────┬──────────────────────────────┐
//! │ 0xED │ version │ flags │ key id: length, text; nonce │ ciphertext and its tag (16)  │  encrypted
//! ├──────┼─────────┼───────┼─────────────────────────────┼──────────────────────────────┤
//! │ 0xED │ version │ flags │              digest, 8 bytes│ data                         │  not encrypted
//! └──────┴─────────┴───────┴─────────────────────────────┴──────────────────────────────┘
//! ```
//!
//! The nonce is a keyed hash of what is encrypted, and of what it is (the place): the same piece is sealed to the same
//! bytes, so that writing it again is recognised, and no two pieces share a nonce.

use std::cell::RefCell;

use ring::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce},
    digest, hmac,
};
use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe,
};

use crate::key::{Key, Keys};

const MAGIC: u8 = 0xED;
const VERSION: u8 = 1;
const COMPRESSED: u8 = 1;
const ENCRYPTED: u8 = 2;
/// Bytes of the digest of what is not encrypted: against damage, not against an attacker.
const DIGEST_BYTES: usize = 8;
/// Little is gained with less.
const SHORTEST_COMPRESSED_BYTES: usize = 256;
/// The fastest of zstd's usual levels: text becomes half or a third.
const LEVEL: i32 = 1;
/// What is shorter than this is compressed with [`SHORT_LEVEL`].
const SHORT_BYTES: usize = 4_096;
/// Without a code for single letters: making it takes most of the time for an event, and saves it a fifth.
const SHORT_LEVEL: i32 = -1;

thread_local! {
    /// Making one costs more than what it does to a message. None if there was no memory for it: then nothing is compressed.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// Why a sealed piece cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unopened {
    /// The key is not there (any more).
    #[error("it is encrypted with the key '{id}', which is not among those of the secret")]
    NoKey {
        /// The id of the key.
        id: String,
    },
    /// It is encrypted, and there are no keys at all.
    #[error("it is encrypted, and there is no secret with keys (Database/EncryptionSecretName)")]
    NoKeys,
    /// It was changed, or belongs to another object.
    #[error("it fails its integrity check")]
    Changed,
    /// A newer build has written it.
    #[error("it has the form {found}, this build knows up to {VERSION}; use a newer build")]
    Newer {
        /// The form found.
        found: u8,
    },
}

/// Data, smaller if it can be.
fn compressed(data: &[u8]) -> Option<Vec<u8>> {
    if data.len() < SHORTEST_COMPRESSED_BYTES {
        return None;
    }
    let level = if data.len() < SHORT_BYTES {
        SHORT_LEVEL
    } else {
        LEVEL
    };
    let compressed = COMPRESSOR.with_borrow_mut(|compressor| {
        let compressor = compressor.as_mut()?;
        compressor.set_compression_level(level).ok()?;
        compressor.compress(data).ok()
    });
    compressed.filter(|compressed| compressed.len() < data.len())
}

/// Seals `data`, which stands at `place`.
pub(crate) fn seal(data: &[u8], place: &[u8], keys: Option<&Keys>, compression: bool) -> Vec<u8> {
    let compressed = if compression { compressed(data) } else { None };
    let mut flags = if compressed.is_some() { COMPRESSED } else { 0 };
    let body = compressed.as_deref().unwrap_or(data);
    let Some(keys) = keys else {
        let header = [MAGIC, VERSION, flags];
        let digest = digest_of(&header, place, body);
        return [&header[..], &digest, body].concat();
    };
    flags |= ENCRYPTED;
    let key = keys.active();
    let id_bytes = u8::try_from(key.id.len()).expect("an id of a key is short");
    let header_bytes = 4 + key.id.len();
    let mut frame = Vec::with_capacity(header_bytes + NONCE_LEN + body.len() + AES_256_GCM.tag_len());
    frame.extend_from_slice(&[MAGIC, VERSION, flags, id_bytes]);
    frame.extend_from_slice(key.id.as_bytes());
    let nonce = nonce_of(key, &frame, place, body);
    let aad = Aad::from(about(&frame, place));
    frame.extend_from_slice(nonce.as_ref());
    frame.extend_from_slice(body);
    let tag = key
        .cipher
        .seal_in_place_separate_tag(nonce, aad, &mut frame[header_bytes + NONCE_LEN..])
        .expect("no piece of data is as long as what AES-GCM refuses");
    frame.extend_from_slice(tag.as_ref());
    frame
}

/// Opens what [`seal`] made at the same place.
pub(crate) fn open(frame: &[u8], place: &[u8], keys: Option<&Keys>) -> Result<Vec<u8>, Unopened> {
    let [MAGIC, version, flags, rest @ ..] = frame else {
        return Err(Unopened::Changed);
    };
    if *version != VERSION {
        return Err(Unopened::Newer { found: *version });
    }
    let body = match flags & ENCRYPTED != 0 {
        true => decrypt(frame, rest, place, keys)?,
        false => {
            let (digest, body) = rest.split_at_checked(DIGEST_BYTES).ok_or(Unopened::Changed)?;
            if digest != digest_of(&frame[..3], place, body) {
                return Err(Unopened::Changed);
            }
            body.to_vec()
        }
    };
    if flags & COMPRESSED == 0 {
        return Ok(body);
    }
    // It has proved to be what was written, so its length can be believed.
    let length = zstd_safe::get_frame_content_size(&body).ok().flatten();
    let length = length.and_then(|length| usize::try_from(length).ok());
    let length = length.ok_or(Unopened::Changed)?;
    let decompressed =
        match DECOMPRESSOR.with_borrow_mut(|kept| kept.as_mut().map(|one| one.decompress(&body, length))) {
            Some(decompressed) => decompressed,
            None => zstd::bulk::decompress(&body, length),
        };
    decompressed.map_err(|_| Unopened::Changed)
}

fn decrypt(frame: &[u8], rest: &[u8], place: &[u8], keys: Option<&Keys>) -> Result<Vec<u8>, Unopened> {
    let (id_bytes, rest) = rest.split_first().ok_or(Unopened::Changed)?;
    let id_bytes = usize::from(*id_bytes);
    let (id, rest) = rest.split_at_checked(id_bytes).ok_or(Unopened::Changed)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unopened::Changed)?;
    let id = std::str::from_utf8(id).map_err(|_| Unopened::Changed)?;
    let key = keys
        .ok_or(Unopened::NoKeys)?
        .get(id)
        .ok_or_else(|| Unopened::NoKey { id: id.to_owned() })?;
    let aad = Aad::from(about(&frame[..4 + id_bytes], place));
    let mut body = rest.to_vec();
    let length = key
        .cipher
        .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut body)
        .map_err(|_| Unopened::Changed)?
        .len();
    body.truncate(length);
    Ok(body)
}

/// What is proved along with the data.
fn about(header: &[u8], place: &[u8]) -> Vec<u8> {
    [header, place].concat()
}

fn nonce_of(key: &Key, header: &[u8], place: &[u8], body: &[u8]) -> Nonce {
    let mut hash = hmac::Context::with_key(&key.nonce);
    hash.update(&place.len().to_be_bytes());
    hash.update(place);
    hash.update(header);
    hash.update(body);
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&hash.sign().as_ref()[..NONCE_LEN]);
    Nonce::assume_unique_for_key(nonce)
}

fn digest_of(header: &[u8], place: &[u8], body: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(header);
    hash.update(place);
    hash.update(body);
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&hash.finish().as_ref()[..DIGEST_BYTES]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::secret;

    fn keys(entries: &[(&str, &str)]) -> Keys {
        Keys::from_secret(&secret(entries)).unwrap()
    }

    fn one_key() -> Keys {
        keys(&[("k1", &"1a".repeat(32))])
    }

    fn pieces() -> Vec<Vec<u8>> {
        let text = br#"{"deviceName":"pump-1","readings":[{"value":"7"},{"value":"7"},{"value":"7"}]}"#;
        vec![
            Vec::new(),
            vec![0],
            text.to_vec(),
            text.repeat(1000),
            (0..=255).collect(),
        ]
    }

    #[test]
    fn what_was_sealed_opens_at_its_place_and_nowhere_else() {
        let one_key = one_key();
        for keys in [None, Some(&one_key)] {
            for compression in [false, true] {
                for piece in pieces() {
                    let frame = seal(&piece, b"here", keys, compression);
                    assert_eq!(open(&frame, b"here", keys), Ok(piece.clone()));
                    assert_eq!(open(&frame, b"there", keys), Err(Unopened::Changed));
                    assert_eq!(
                        seal(&piece, b"here", keys, compression),
                        frame,
                        "always the same bytes"
                    );
                }
            }
        }
    }

    #[test]
    fn what_repeats_becomes_smaller_and_what_does_not_stays() {
        let pieces = pieces();
        assert!(seal(&pieces[3], b"", None, true).len() < pieces[3].len() / 20);
        assert_eq!(
            seal(&pieces[4], b"", None, true).len(),
            pieces[4].len() + 3 + DIGEST_BYTES
        );
    }

    #[test]
    fn an_event_is_compressed_fast_and_what_was_compressed_harder_opens() {
        // given an event, and what a version that always used the level for long pieces made of it
        let reading = |value: u64| {
            let id = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!(r#"{{"id":"{id:016x}","deviceName":"pump-1","valueType":"Uint64","value":"{value}"}}"#)
        };
        let event = (1..=9).map(reading).collect::<String>().into_bytes();
        let harder = Compressor::new(LEVEL).unwrap().compress(&event).unwrap();
        let mut kept = vec![MAGIC, VERSION, COMPRESSED];
        kept.extend_from_slice(&digest_of(&kept, b"here", &harder));
        kept.extend_from_slice(&harder);
        // then both open, and both are smaller
        let frame = seal(&event, b"here", None, true);
        assert_ne!(frame, kept);
        for frame in [frame, kept] {
            assert!(
                frame.len() < event.len() / 2,
                "{} of {}",
                frame.len(),
                event.len()
            );
            assert_eq!(open(&frame, b"here", None), Ok(event.clone()));
        }
    }

    #[test]
    fn every_single_change_is_noticed() {
        let one_key = one_key();
        for keys in [None, Some(&one_key)] {
            let piece = &pieces()[2];
            let frame = seal(piece, b"here", keys, true);
            for place in 0..frame.len() {
                for bit in [1, 0x80] {
                    let mut changed = frame.clone();
                    changed[place] ^= bit;
                    open(&changed, b"here", keys).expect_err("a changed byte");
                }
                open(&frame[..place], b"here", keys).expect_err("a cut frame");
            }
        }
    }

    #[test]
    fn what_is_encrypted_shows_nothing_and_needs_its_key() {
        let piece = &pieces()[2];
        let old = keys(&[("k1", &"1a".repeat(32))]);
        let both = keys(&[
            ("k1", &"1a".repeat(32)),
            ("k2", &"2b".repeat(32)),
            ("active", "k2"),
        ]);
        let new = keys(&[("k2", &"2b".repeat(32))]);
        let sealed_with_old = seal(piece, b"", Some(&old), false);
        let shows = |text: &[u8]| sealed_with_old.windows(text.len()).any(|part| part == text);
        assert!(shows(b"k1") && !shows(b"pump") && !shows(b"read"));
        // After a rotation the old one still opens, and what is new is sealed with the new key.
        assert_eq!(open(&sealed_with_old, b"", Some(&both)).as_ref(), Ok(piece));
        let sealed_with_both = seal(piece, b"", Some(&both), false);
        assert_eq!(open(&sealed_with_both, b"", Some(&new)).as_ref(), Ok(piece));
        // Without the key it is said which one is missing.
        let error = open(&sealed_with_old, b"", Some(&new)).unwrap_err();
        assert_eq!(error, Unopened::NoKey { id: "k1".to_owned() });
        assert_eq!(open(&sealed_with_old, b"", None), Err(Unopened::NoKeys));
        let other = keys(&[("k1", &"ff".repeat(32))]);
        assert_eq!(open(&sealed_with_old, b"", Some(&other)), Err(Unopened::Changed));
    }

    #[test]
    fn a_newer_form_is_named() {
        let mut frame = seal(b"x", b"", None, false);
        frame[1] = 9;
        assert_eq!(open(&frame, b"", None), Err(Unopened::Newer { found: 9 }));
    }
}
