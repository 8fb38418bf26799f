//! `Encrypt` against the decryption of the tests, which is not made of its parts.

use bytes::Bytes;
use edgehold_contracts::{Generation, base64};
use edgehold_core::{Data, ErrorClass, InvalidFunction};
use edgehold_test_support::aes256::opened;
use proptest::prelude::*;

use super::{Given, KEY, OneSecret, apply, build, context, context_with, continued, event, function};

const PARAMETERS: Given = &[
    ("Algorithm", "AES256"),
    ("SecretName", "aes"),
    ("SecretValueKey", "key"),
];

/// The plaintext of what `Encrypt` gives.
#[track_caller]
pub(super) fn decrypted(body: &[u8]) -> Vec<u8> {
    opened(KEY, body).expect("encrypted with the recorded key")
}

fn encrypted(generation: Generation, data: Data) -> Bytes {
    let encrypt = function("Encrypt", PARAMETERS);
    match continued(apply(&*encrypt, &mut context(generation), data)) {
        Data::Bytes(bytes) => bytes,
        other => panic!("not bytes: {other:?}"),
    }
}

#[test]
fn what_is_encrypted_is_the_bytes_an_export_would_send_and_answers_in_plain_text() {
    for generation in [Generation::V3, Generation::V4] {
        for data in [
            Data::Event(event()),
            Data::Text("a text".to_owned()),
            Data::Bytes(Bytes::from_static(b"\x00\xff")),
            Data::Json(serde_json::json!({"a": 1})),
        ] {
            let mut ctx = context(generation);
            let encrypt = function("Encrypt", PARAMETERS);
            let output = continued(apply(&*encrypt, &mut ctx, data.clone()));
            assert_eq!(decrypted(&output.to_bytes(generation)), data.to_bytes(generation));
            assert_eq!(ctx.response_content_type(), "text/plain");
        }
    }
}

#[test]
fn the_initialization_vector_is_the_random_bytes_it_is_given() {
    let sealed = base64::decode(&encrypted(Generation::V4, Data::Text(String::new()))).unwrap();
    assert_eq!(sealed[..16], [0xAA; 16]);
}

#[test]
fn a_secret_that_is_missing_or_no_key_fails_for_now_without_showing_itself() {
    let missing_key: Given = &[
        ("Algorithm", "aes256"),
        ("SecretName", "aes"),
        ("SecretValueKey", "other"),
    ];
    let unknown: Given = &[
        ("Algorithm", "aes256"),
        ("SecretName", "none"),
        ("SecretValueKey", "key"),
    ];
    for (parameters, secret, reason) in [
        (missing_key, KEY, "has no key other"),
        (unknown, KEY, "no secret named 'none'"),
        (PARAMETERS, "", "it is 0 characters"),
        (PARAMETERS, "5eC237", "it is 6 characters"),
        (PARAMETERS, "5eC237-", "it is not hex"),
    ] {
        let mut ctx = context_with(Generation::V4, OneSecret(secret));
        let input = Data::Text("kept".to_owned());
        let error = apply(&*function("Encrypt", parameters), &mut ctx, input).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient, "{reason}");
        let chain = error.chain();
        assert!(chain.contains(reason) && !chain.contains("5eC237"), "{chain}");
        assert!(chain.contains("'default-pipeline'"), "{chain}");
        assert_eq!(ctx.response_content_type(), "");
    }
}

fn refusal(parameters: Given) -> Option<InvalidFunction> {
    build("Encrypt", parameters).err()
}

#[test]
fn secret_name_and_key_are_both_needed_and_old_keys_are_refused_with_what_to_do() {
    const AES: (&str, &str) = ("Algorithm", "aes256");
    for (parameters, named, words) in [
        (&[AES] as Given, "SecretName", "SecretValueKey"),
        (&[AES, ("SecretName", "aes")], "SecretValueKey", "SecretName"),
        (&[AES, ("SecretValueKey", "key")], "SecretName", "SecretValueKey"),
        (
            &[AES, ("SecretName", " "), ("SecretValueKey", "key")],
            "SecretName",
            "SecretValueKey",
        ),
        (
            &[AES, ("Key", "aquq2398"), ("InitVector", "iv")],
            "Key",
            "SecretName",
        ),
        (&[AES, ("InitVector", "aquq2398")], "InitVector", "SecretName"),
        (
            &[AES, ("Key", "aquq2398"), ("SecretName", "aes")],
            "SecretValueKey",
            "SecretName",
        ),
        (&[("Algorithm", "aes128")], "Algorithm", "'aes128'"),
    ] {
        let error = refusal(parameters).expect("it is refused");
        assert!(
            matches!(&error, InvalidFunction::InvalidParameter { parameter, .. } if parameter == named),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains(words) && !text.contains("aquq2398"), "{text}");
    }
    assert!(matches!(
        refusal(&[]),
        Some(InvalidFunction::MissingParameter { parameter, .. }) if parameter == "Algorithm"
    ));
}

#[test]
fn an_old_key_beside_the_secret_does_nothing() {
    let parameters = [
        PARAMETERS,
        &[
            ("Key", "aquq2398"),
            ("InitVector", "123456789012345678901234567890"),
        ],
    ];
    let built = build("Encrypt", &parameters.concat()).unwrap();
    assert_eq!(built.variant, "aes256");
    let output = continued(apply(
        &*built.function,
        &mut context(Generation::V3),
        Data::Text("text".to_owned()),
    ));
    assert_eq!(decrypted(&output.to_bytes(Generation::V3)), b"text");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_comes_back_and_has_the_length_of_its_blocks(
        plaintext in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        let body = encrypted(Generation::V4, Data::Bytes(plaintext.clone().into()));
        prop_assert_eq!(decrypted(&body), plaintext.clone());
        let sealed = base64::decode(&body).unwrap();
        prop_assert_eq!(sealed.len(), 16 + (plaintext.len() / 16 + 1) * 16 + 32);
    }

    #[test]
    fn a_changed_bit_is_found(
        plaintext in proptest::collection::vec(any::<u8>(), 0..100),
        at in any::<proptest::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut sealed = base64::decode(&encrypted(Generation::V4, Data::Bytes(plaintext.into()))).unwrap();
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        prop_assert!(opened(KEY, &base64::encode(&sealed).into_bytes()).is_err());
    }
}
