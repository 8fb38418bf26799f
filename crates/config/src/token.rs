//! The access tokens that a configuration provider or registry asks for.

use edgehold_core::{BoxFuture, SecretText};

use crate::ProviderError;

/// Where access tokens come from: the environment, a file, or in secure mode the secret store.
///
/// Contract:
/// - `token` is asked before every call, so it is cheap: a token is fetched once and kept until it is refused.
/// - `renew` answers a token other than the refused one, or none when there is no other. Several callers may be refused
///   the same token at the same time; the first of them has it replaced, the others are given the new one.
/// - Both may be repeated. Dropping a future cancels the call. No error and no `Debug` shows a token.
pub trait TokenSource: Send + Sync {
    /// The token to use; none when there is to be none.
    ///
    /// # Errors
    /// [`ProviderError`] when it cannot be had now.
    fn token(&self) -> BoxFuture<'_, Result<Option<SecretText>, ProviderError>>;

    /// Another token in the place of `refused`.
    ///
    /// # Errors
    /// [`ProviderError`] when it cannot be had now.
    fn renew<'a>(
        &'a self,
        refused: Option<&'a SecretText>,
    ) -> BoxFuture<'a, Result<Option<SecretText>, ProviderError>>;
}

/// One token for ever, or none.
///
/// ```
/// use edgehold_config::{FixedToken, TokenSource};
/// use edgehold_core::SecretText;
///
/// let tokens: Box<dyn TokenSource> = Box::new(FixedToken(Some(SecretText::new("0a6b3a4e"))));
/// ```
#[derive(Clone, Debug, Default)]
pub struct FixedToken(pub Option<SecretText>);

impl TokenSource for FixedToken {
    fn token(&self) -> BoxFuture<'_, Result<Option<SecretText>, ProviderError>> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn renew<'a>(
        &'a self,
        _: Option<&'a SecretText>,
    ) -> BoxFuture<'a, Result<Option<SecretText>, ProviderError>> {
        Box::pin(async { Ok(None) })
    }
}
