//! NATS in operator mode: an operator, an account and its users, who show JWTs instead of passwords.

use anyhow::{Result, anyhow};
use base64_simd::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with one account. Its servers let in whoever has a file of [`Self::credentials`].
pub struct NatsOperator {
    operator: KeyPair,
    account: KeyPair,
}

impl NatsOperator {
    /// A new one, whom no server knows yet.
    #[expect(clippy::new_without_default, reason = "it is not the same twice")]
    pub fn new() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            account: KeyPair::new_account(),
        }
    }

    /// What a server has to be configured with.
    ///
    /// # Errors
    /// When a JWT cannot be signed.
    pub fn server_config(&self) -> Result<String> {
        let own = json!({ "type": "operator", "version": 2 });
        let operator = jwt(&self.operator, &self.operator, "operator", own)?;
        let limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1 });
        let all = json!({ "limits": limits, "default_permissions": { "pub": {}, "sub": {} }, "type": "account",
            "version": 2 });
        let account = jwt(&self.operator, &self.account, "account", all)?;
        Ok(format!(
            "operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {account} }}",
            self.account.public_key()
        ))
    }

    /// The text of a credentials file for a new user.
    ///
    /// # Errors
    /// When a JWT cannot be signed.
    pub fn credentials(&self) -> Result<String> {
        let user = KeyPair::new_user();
        let rights = json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
        let jwt = jwt(&self.account, &user, "user", rights)?;
        let seed = user.seed().map_err(|error| anyhow!("no seed: {error}"))?;
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n\
             {seed}\n------END USER NKEY SEED------\n"
        ))
    }
}

/// A JWT about `subject`, signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, claims: Value) -> Result<String> {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({ "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": claims });
    let encode = |value: &[u8]| URL_SAFE_NO_PAD.encode_to_string(value);
    let signed = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(body.to_string().as_bytes())
    );
    let signature = issuer
        .sign(signed.as_bytes())
        .map_err(|error| anyhow!("no signature: {error}"))?;
    Ok(format!("{signed}.{}", encode(&signature)))
}
