//! Opens what the pipeline function `Encrypt` seals (`aes256`), following the layout of the contract on its own, so that
//! a fault of ours cannot hide itself in the test that looks for it.

use aes::Aes256;
use anyhow::{Context, Result, ensure};
use base64_simd::STANDARD;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit, block_padding::Pkcs7};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;

const KEY_BYTES: usize = 64;
const TAG_BYTES: usize = 32;
const IV_BYTES: usize = 16;

/// The plaintext of `sealed`: base64 of the initialization vector, the ciphertext (AES-256-CBC) and the first half of the
/// HMAC-SHA512 over both and eight zero bytes. `key` is the secret as EdgeX has it, 64 bytes in hex: 32 of the cipher, 32
/// of the tag.
///
/// # Errors
/// When the key is not such a key, or `sealed` was not sealed with it.
pub fn opened(key: &str, sealed: &[u8]) -> Result<Vec<u8>> {
    let mut keys = [0; KEY_BYTES];
    let decoded = hex::decode_to_slice(key, &mut keys);
    ensure!(decoded.is_ok(), "the key is not 64 bytes in hex");
    let (cipher_key, tag_key) = keys.split_at(KEY_BYTES / 2);

    let sealed = STANDARD.decode_to_vec(sealed).context("it is not base64")?;
    let covered = sealed.len().checked_sub(TAG_BYTES).context("it has no tag")?;
    let (covered, tag) = sealed.split_at(covered);
    let mut mac = Hmac::<Sha512>::new_from_slice(tag_key).context("an HMAC takes any key")?;
    mac.update(covered);
    mac.update(&0_u64.to_be_bytes());
    ensure!(
        mac.verify_truncated_left(tag).is_ok(),
        "the tag does not belong to it"
    );

    let (iv, ciphertext) = covered.split_at_checked(IV_BYTES).context("it has no IV")?;
    cbc::Decryptor::<Aes256>::new_from_slices(cipher_key, iv)
        .context("the lengths are those of AES-256")?
        .decrypt_padded_vec::<Pkcs7>(ciphertext)
        .ok()
        .context("the padding is wrong")
}
