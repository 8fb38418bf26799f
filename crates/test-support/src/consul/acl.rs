//! Tokens and their policies, for a server with access control.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Consul;

/// A token.
#[derive(Clone, Debug)]
pub struct AclToken {
    /// What it is called by.
    pub accessor: String,
    /// What gives access.
    pub secret: String,
}

impl Consul {
    /// Sets the rules of a policy, which is made when there is none of this name.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn set_policy(&self, name: &str, rules: &str) -> Result<()> {
        let policies: Vec<Value> = self
            .ask("GET", "/v1/acl/policies", b"")
            .await?
            .succeeded()?
            .json()?;
        let known = policies.iter().find(|policy| policy["Name"] == name);
        let id = known.and_then(|policy| policy["ID"].as_str());
        let target = id.map_or("/v1/acl/policy".to_owned(), |id| format!("/v1/acl/policy/{id}"));
        let body = json!({"ID": id.unwrap_or_default(), "Name": name, "Rules": rules}).to_string();
        self.ask("PUT", &target, body.as_bytes())
            .await?
            .succeeded()
            .map(drop)
    }

    /// A new token with this policy.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn new_token(&self, policy: &str) -> Result<AclToken> {
        let body = json!({"Policies": [{"Name": policy}]}).to_string();
        let token: Value = self
            .ask("PUT", "/v1/acl/token", body.as_bytes())
            .await?
            .succeeded()?
            .json()?;
        let text = |key: &str| {
            token[key]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("a token without {key}"))
        };
        Ok(AclToken {
            accessor: text("AccessorID")?,
            secret: text("SecretID")?,
        })
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn revoke(&self, token: &AclToken) -> Result<()> {
        self.ask("DELETE", &format!("/v1/acl/token/{}", token.accessor), b"")
            .await?
            .succeeded()
            .map(drop)
    }
}
