//! The access tokens that a configuration provider or registry asks for.

use std::fmt;

use edgehold_core::{BoxFuture, SecretText};

use crate::{EditError, ProviderError};

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

/// An error that may say that access was denied.
pub trait MayBeDenied: From<ProviderError> + fmt::Display {
    /// Whether it says so.
    fn is_denied(&self) -> bool;
}

impl MayBeDenied for ProviderError {
    fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }
}

impl MayBeDenied for EditError {
    fn is_denied(&self) -> bool {
        matches!(self, Self::Provider(error) if error.is_denied())
    }
}

/// Makes calls with the token there is, and once more with a fresh one when access is denied. `calls` begins them.
///
/// # Errors
/// What the last calls answered, or why there is no token or no beginning.
pub async fn with_token<T, E, F>(
    tokens: &dyn TokenSource,
    calls: impl Fn(Option<&SecretText>) -> Result<F, ProviderError>,
) -> Result<T, E>
where
    E: MayBeDenied,
    F: Future<Output = Result<T, E>>,
{
    let token = tokens.token().await?;
    match calls(token.as_ref())?.await {
        Err(error) if error.is_denied() => match tokens.renew(token.as_ref()).await? {
            Some(fresh) => {
                tracing::info!("{error}; trying again with a fresh token");
                calls(Some(&fresh))?.await
            }
            None => Err(error),
        },
        result => result,
    }
}
