//! `Encrypt`: AES-256 in CBC mode, then a MAC over it, as base64 text.
//!
//! ```text
//! key  = encryption key (32 bytes) ‖ MAC key (32 bytes), kept as a secret in hex
//! S    = IV (16 random bytes) ‖ AES-256-CBC of the PKCS#7 padded input
//! tag  = first 32 bytes of HMAC-SHA-512 over S ‖ eight zero bytes
//! out  = padded base64 of S ‖ tag
//! ```
//!
//! The eight zero bytes are the length of additional data, which there is none of (contract:
//! messages-and-functions §6.3; the draft AEAD_AES_256_CBC_HMAC_SHA_512 with a shorter tag).

use aes::Aes256;
use bytes::Bytes;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use edgehold_contracts::base64;
use edgehold_core::{
    AppFunction, BoxFuture, BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters,
};
use hex::FromHexError;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::Sources;

/// `Encrypt`, whose `Algorithm` is `aes256`, any case. The secret `SecretName` holds the key under `SecretValueKey`.
///
/// `Key` and `InitVector`, from before EdgeX 3, are accepted beside the secret and do nothing.
pub(crate) fn build(parameters: &Parameters, sources: Sources) -> Result<BuiltFunction, InvalidFunction> {
    let algorithm = parameters.required("Algorithm")?;
    if !algorithm.eq_ignore_ascii_case("aes256") {
        return Err(parameters.invalid("Algorithm", format!("'{algorithm}', which is not 'aes256'")));
    }
    let (name, key) = (parameters.text("SecretName"), parameters.text("SecretValueKey"));
    let (missing, other) = match (name, key) {
        ("", "") => return Err(without_secret(parameters)),
        ("", _) => ("SecretName", "SecretValueKey"),
        (_, "") => ("SecretValueKey", "SecretName"),
        _ => {
            let encrypt = Encrypt {
                secret_name: name.to_owned(),
                secret_value_key: key.to_owned(),
                fill_random: sources.fill_random,
            };
            return Ok(BuiltFunction::with_variant(encrypt, "aes256"));
        }
    };
    Err(parameters.invalid(
        missing,
        format!("empty or missing, and is needed beside '{other}'"),
    ))
}

fn without_secret(parameters: &Parameters) -> InvalidFunction {
    let legacy = ["Key", "InitVector"]
        .into_iter()
        .find(|name| !parameters.text(name).is_empty());
    match legacy {
        Some(name) => parameters.invalid(
            name,
            "no longer usable: store a key of 64 bytes, in hex, as a secret, and name it by 'SecretName' and \
             'SecretValueKey'",
        ),
        None => parameters.invalid(
            "SecretName",
            "empty or missing, and is needed together with 'SecretValueKey'",
        ),
    }
}

/// Gives the encrypted input as base64 bytes; the response becomes `text/plain`. Anything can go in.
struct Encrypt {
    secret_name: String,
    secret_value_key: String,
    fill_random: fn(&mut [u8]),
}

impl AppFunction for Encrypt {
    fn call<'a>(&'a self, ctx: &'a mut Context, data: Data) -> BoxFuture<'a, Result<Flow, FunctionError>> {
        Box::pin(async move {
            let key = self.key(ctx).await?;
            let mut iv = [0; IV_BYTES];
            (self.fill_random)(&mut iv);
            let sealed = seal(&key, &iv, &data.to_bytes(ctx.generation()));
            ctx.set_response_content_type("text/plain");
            Ok(Flow::Continue(Data::Bytes(Bytes::from(base64::encode(&sealed)))))
        })
    }
}

impl Encrypt {
    /// The key of this moment: asked for at each call, so that a rotated one is used at once.
    ///
    /// # Errors
    /// Transient, whatever is wrong with the secret: it can be put right without touching the pipeline.
    async fn key(&self, ctx: &Context) -> Result<Key, FunctionError> {
        let pipeline = ctx.pipeline_id();
        let secret = ctx
            .secrets()
            .value(&self.secret_name, &self.secret_value_key)
            .await;
        let secret = secret.map_err(|e| {
            FunctionError::transient(format!(
                "in pipeline '{pipeline}' the key to encrypt with is not there"
            ))
            .with_source(e)
        })?;
        key_from_hex(secret.expose()).map_err(|e| {
            let (name, value_key) = (&self.secret_name, &self.secret_value_key);
            FunctionError::transient(format!(
                "in pipeline '{pipeline}' the value of key '{value_key}' of secret '{name}' cannot encrypt"
            ))
            .with_source(e)
        })
    }
}

const IV_BYTES: usize = 16;
const KEY_BYTES: usize = 64;
const ENCRYPTION_KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;

/// Both keys, overwritten when dropped.
type Key = Zeroizing<[u8; KEY_BYTES]>;

/// A secret that is no key. Says nothing of what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum InvalidKey {
    #[error("it is not hex, two digits for each byte")]
    NotHex,
    #[error("it is {0} characters of hex instead of {expected}", expected = 2 * KEY_BYTES)]
    WrongLength(usize),
}

fn key_from_hex(text: &str) -> Result<Key, InvalidKey> {
    let mut key = Key::new([0; KEY_BYTES]);
    match hex::decode_to_slice(text, &mut *key) {
        Ok(()) => Ok(key),
        Err(FromHexError::InvalidStringLength) => Err(InvalidKey::WrongLength(text.len())),
        Err(_) => Err(InvalidKey::NotHex),
    }
}

/// IV, ciphertext and tag, as the module says.
fn seal(key: &[u8; KEY_BYTES], iv: &[u8; IV_BYTES], plaintext: &[u8]) -> Vec<u8> {
    let (encryption_key, mac_key) = key.split_at(ENCRYPTION_KEY_BYTES);
    let cipher = cbc::Encryptor::<Aes256>::new_from_slices(encryption_key, iv)
        .expect("32 and 16 bytes are the lengths of AES-256");
    let mut sealed = iv.to_vec();
    sealed.extend(cipher.encrypt_padded_vec::<Pkcs7>(plaintext));
    let mut mac = Hmac::<Sha512>::new_from_slice(mac_key).expect("HMAC takes keys of any length");
    mac.update(&sealed);
    mac.update(&[0; 8]);
    sealed.extend_from_slice(&mac.finalize().into_bytes()[..TAG_BYTES]);
    sealed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_128_digits_of_hex_are_a_key() {
        let hex = "0aFf".repeat(32);
        let key = key_from_hex(&hex).unwrap();
        assert_eq!(key[..3], [0x0a, 0xff, 0x0a]);
        assert_eq!(key_from_hex("").unwrap_err(), InvalidKey::WrongLength(0));
        assert_eq!(key_from_hex("00ff").unwrap_err(), InvalidKey::WrongLength(4));
        assert_eq!(key_from_hex(&"0".repeat(127)).unwrap_err(), InvalidKey::NotHex);
        assert_eq!(key_from_hex(&"0g".repeat(64)).unwrap_err(), InvalidKey::NotHex);
        assert_eq!(key_from_hex(&"é".repeat(64)).unwrap_err(), InvalidKey::NotHex);
    }

    #[test]
    fn the_test_vector_of_the_contract_comes_out() {
        let key: [u8; KEY_BYTES] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        assert_eq!(
            base64::encode(&seal(&key, &[0xAA; IV_BYTES], b"hello")),
            "qqqqqqqqqqqqqqqqqqqqqr+RUgmnVFBDlRpgsVXEOYnE++YYiLlMxWZqjn1DsEYzi0meTV2EM8CNLyo/vQTczQ=="
        );
    }
}
