//! As whom to connect, and whom to believe: from an address, `AuthMode`, a secret and certificates in settings or files
//! to credentials and TLS.
//!
//! Owns the rules of EdgeX, which differ between the message bus and every other connection ([`Rules`]). What they come
//! to is asked for again before each attempt to connect ([`Identity::security`]), so that a secret or a file that was
//! renewed counts from the next connection on.
//!
//! Where it differs from EdgeX: `SkipCertVerify` works on every encrypted connection, not only where a certificate is
//! configured too; `AuthMode` may be written in any case; `mqtts` is as good as `ssl`.

use std::{fmt, str::FromStr, sync::Arc};

use edgehold_core::{Secret, SecretError, SecretProvider, SecretText};

use crate::{BrokerAddress, ClientCertificate, Credentials, TlsSettings, Trust};

/// How a client proves who it is (EdgeX `AuthMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// `none`: not by a secret.
    #[default]
    None,
    /// `usernamepassword`
    UsernamePassword,
    /// `clientcert`
    ClientCert,
    /// `cacert`: not at all; the secret only says whom to believe.
    CaCert,
}

/// A text that is no `AuthMode`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("AuthMode '{0}' is none of none, usernamepassword, clientcert and cacert")]
pub struct InvalidAuthMode(String);

impl FromStr for AuthMode {
    type Err = InvalidAuthMode;

    /// In any case; empty is `none`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_ascii_lowercase().as_str() {
            "" | "none" => Ok(Self::None),
            "usernamepassword" => Ok(Self::UsernamePassword),
            "clientcert" => Ok(Self::ClientCert),
            "cacert" => Ok(Self::CaCert),
            _ => Err(InvalidAuthMode(text.to_owned())),
        }
    }
}

impl fmt::Display for AuthMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::UsernamePassword => "usernamepassword",
            Self::ClientCert => "clientcert",
            Self::CaCert => "cacert",
        })
    }
}

/// A text in PEM, as itself or in a file. The text wins. Both empty: none.
#[derive(Clone, Debug, Default)]
pub struct PemSetting {
    /// The text.
    pub block: SecretText,
    /// The path of the file.
    pub file: String,
}

impl PemSetting {
    async fn read(&self, setting: &'static str) -> Result<Option<SecretText>, IdentityError> {
        if !self.block.expose().trim().is_empty() {
            return Ok(Some(self.block.clone()));
        }
        if self.file.is_empty() {
            return Ok(None);
        }
        match tokio::fs::read_to_string(&self.file).await {
            Ok(text) => Ok(Some(SecretText::new(text))),
            Err(source) => Err(IdentityError::File {
                setting,
                path: self.file.clone(),
                source,
            }),
        }
    }
}

/// What the message bus's own options say (EdgeX `MessageBus.Optional`). The secret wins over all of it.
#[derive(Clone, Debug, Default)]
pub struct BusOptions {
    /// `Username`
    pub username: String,
    /// `Password`
    pub password: SecretText,
    /// `CertPEMBlock`, `CertFile`
    pub certificate: PemSetting,
    /// `KeyPEMBlock`, `KeyFile`
    pub key: PemSetting,
    /// `CaPEMBlock`, `CaFile`
    pub authorities: PemSetting,
}

/// Whose rules hold.
#[derive(Clone, Debug)]
pub enum Rules {
    /// Those of the message bus: options beside the secret; user name and password count with `usernamepassword` alone,
    /// and may be missing there, which means none.
    MessageBus(Box<BusOptions>),
    /// Those of external MQTT, as trigger or as destination: the secret's user name counts whenever there is one, and
    /// must be there with `usernamepassword`.
    External,
}

/// What the settings say about one connection.
#[derive(Clone)]
pub struct Identity {
    /// Where the connection goes: whether it is encrypted, and the credentials in the address, which win over all
    /// others.
    pub address: BrokerAddress,
    /// How to prove who we are.
    pub auth_mode: AuthMode,
    /// The secret with `username`, `password`, `clientcert`, `clientkey`, `cacert`. Not asked for with `none`.
    pub secret_name: String,
    /// Whether any certificate of the broker will do (`SkipCertVerify`, `SkipVerify`).
    pub skip_verify: bool,
    /// Whose rules hold.
    pub rules: Rules,
    /// Where secrets come from.
    pub secrets: Arc<dyn SecretProvider>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("address", &self.address)
            .field("auth_mode", &self.auth_mode)
            .field("secret_name", &self.secret_name)
            .field("skip_verify", &self.skip_verify)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// What an [`Identity`] comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// User name and password.
    pub credentials: Option<Credentials>,
    /// Encryption.
    pub tls: Option<TlsSettings>,
}

/// Why an [`Identity`] comes to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The secret is not to be had.
    #[error("the secret of the connection cannot be read")]
    Secret(#[from] SecretError),
    /// The secret lacks what the mode needs.
    #[error("AuthMode '{mode}' needs '{key}' in the secret '{secret_name}'")]
    Missing {
        /// The mode.
        mode: AuthMode,
        /// What it needs.
        key: &'static str,
        /// The secret.
        secret_name: String,
    },
    /// A file cannot be read.
    #[error("{setting} '{path}' cannot be read")]
    File {
        /// `CertFile`, `KeyFile` or `CaFile`.
        setting: &'static str,
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate without its key, or the other way round.
    #[error("a client certificate needs both a certificate and a key; the {missing} is missing")]
    HalfACertificate {
        /// `certificate` or `key`.
        missing: &'static str,
    },
}

/// The PEM texts of the bus's options, read.
#[derive(Debug, Default)]
struct OptionTexts {
    certificate: Option<SecretText>,
    key: Option<SecretText>,
    authorities: Option<SecretText>,
}

impl Identity {
    /// Credentials and TLS as secret and files have them now. Cancel-safe.
    ///
    /// # Errors
    /// [`IdentityError`]. Whether the PEM texts hold what they should is not looked at here.
    pub async fn security(&self) -> Result<Security, IdentityError> {
        let texts = match &self.rules {
            Rules::External => OptionTexts::default(),
            Rules::MessageBus(options) => OptionTexts {
                certificate: options.certificate.read("CertFile").await?,
                key: options.key.read("KeyFile").await?,
                authorities: options.authorities.read("CaFile").await?,
            },
        };
        let secret = match self.auth_mode {
            AuthMode::None => Secret::new(),
            _ => self.secrets.secret(&self.secret_name).await?,
        };
        self.combine(texts, secret)
    }

    /// Things that are configured and have no effect, or one that should not be overlooked: a sentence for each.
    pub fn remarks(&self) -> Vec<&'static str> {
        let mut remarks = Vec::new();
        let encrypted = self.address.encrypted;
        let certificates = matches!(self.auth_mode, AuthMode::ClientCert | AuthMode::CaCert);
        if !encrypted && certificates {
            remarks.push("certificates have no effect: the scheme asks for no encryption (use ssl)");
        }
        if encrypted && self.skip_verify {
            remarks.push("the broker's certificate is not verified: anybody can pass for the broker");
        }
        remarks
    }

    /// The rules themselves.
    fn combine(&self, texts: OptionTexts, mut secret: Secret) -> Result<Security, IdentityError> {
        let mut take = |key| {
            let text: Option<SecretText> = secret.remove(key);
            text.filter(|text| !text.expose().is_empty())
        };
        let needed = |text: Option<SecretText>, key| {
            text.ok_or_else(|| IdentityError::Missing {
                mode: self.auth_mode,
                key,
                secret_name: self.secret_name.clone(),
            })
        };
        let username = take("username");
        let password = take("password");
        let of_secret = match (&self.rules, self.auth_mode) {
            (Rules::External, AuthMode::UsernamePassword) => {
                Some((needed(username, "username")?, needed(password, "password")?))
            }
            (Rules::External, _) | (_, AuthMode::UsernamePassword) => {
                username.map(|username| (username, password.unwrap_or_default()))
            }
            _ => None,
        };
        let of_secret = of_secret.map(|(username, password)| Credentials {
            username: username.expose().to_owned(),
            password,
        });
        let of_options = match &self.rules {
            Rules::MessageBus(options) if !options.username.is_empty() => Some(Credentials {
                username: options.username.clone(),
                password: options.password.clone(),
            }),
            _ => None,
        };

        let authorities = match self.auth_mode {
            AuthMode::CaCert => Some(needed(take("cacert"), "cacert")?),
            _ => take("cacert").or(texts.authorities),
        };
        let (certificate, key) = match self.auth_mode {
            AuthMode::ClientCert => (
                Some(needed(take("clientcert"), "clientcert")?),
                Some(needed(take("clientkey"), "clientkey")?),
            ),
            _ => (texts.certificate, texts.key),
        };
        let client_certificate = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key_pem)) => Some(ClientCertificate {
                certificates_pem: certificate.expose().to_owned(),
                key_pem,
            }),
            (None, Some(_)) => {
                return Err(IdentityError::HalfACertificate {
                    missing: "certificate",
                });
            }
            (Some(_), None) => return Err(IdentityError::HalfACertificate { missing: "key" }),
        };
        let trust = match authorities {
            _ if self.skip_verify => Trust::Anyone,
            Some(authorities) => Trust::Authorities(authorities.expose().to_owned()),
            None => Trust::System,
        };
        Ok(Security {
            credentials: self.address.credentials.clone().or(of_secret).or(of_options),
            tls: self.address.encrypted.then_some(TlsSettings {
                trust,
                client_certificate,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use edgehold_core::BoxFuture;

    use super::*;

    #[derive(Clone)]
    struct Secrets(Secret);

    impl SecretProvider for Secrets {
        fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
            Box::pin(async move {
                match name {
                    "broker" => Ok(self.0.clone()),
                    name => Err(SecretError::UnknownName {
                        name: name.to_owned(),
                    }),
                }
            })
        }
    }

    fn identity(url: &str, mode: &str, rules: Rules, secret: &[(&str, &str)]) -> Identity {
        let secret = secret
            .iter()
            .map(|(key, text)| ((*key).to_owned(), SecretText::new(*text)));
        Identity {
            address: BrokerAddress::parse(url).unwrap(),
            auth_mode: mode.parse().unwrap(),
            secret_name: "broker".to_owned(),
            skip_verify: false,
            rules,
            secrets: Arc::new(Secrets(secret.collect())),
        }
    }

    fn bus(options: BusOptions) -> Rules {
        Rules::MessageBus(Box::new(options))
    }

    fn login(security: &Security) -> Option<(&str, &str)> {
        let credentials = security.credentials.as_ref()?;
        Some((&credentials.username, credentials.password.expose()))
    }

    fn block(text: &str) -> PemSetting {
        PemSetting {
            block: SecretText::new(text),
            file: String::new(),
        }
    }

    fn trusts(security: &Security) -> &Trust {
        &security.tls.as_ref().expect("it is encrypted").trust
    }

    const LOGIN: [(&str, &str); 2] = [("username", "me"), ("password", "hunter2")];
    const PEMS: [(&str, &str); 3] = [("cacert", "CA"), ("clientcert", "CERT"), ("clientkey", "KEY")];

    #[test]
    fn a_mode_may_be_written_in_any_case_and_an_unknown_one_is_named() {
        for (text, mode) in [
            ("", AuthMode::None),
            ("None", AuthMode::None),
            ("usernamePassword", AuthMode::UsernamePassword),
            ("CLIENTCERT", AuthMode::ClientCert),
            ("cacert", AuthMode::CaCert),
        ] {
            assert_eq!(text.parse(), Ok(mode));
        }
        let error = "basic".parse::<AuthMode>().unwrap_err().to_string();
        assert!(error.starts_with("AuthMode 'basic' is none of"), "{error}");
    }

    #[tokio::test]
    async fn without_a_mode_no_secret_is_asked_for() {
        let mut identity = identity("ssl://broker", "none", Rules::External, &LOGIN);
        identity.secret_name = "unknown".to_owned();
        let security = identity.security().await.unwrap();
        assert_eq!(security.credentials, None);
        assert_eq!(trusts(&security), &Trust::System);
        identity.auth_mode = AuthMode::CaCert;
        assert!(matches!(
            identity.security().await,
            Err(IdentityError::Secret(SecretError::UnknownName { .. }))
        ));
    }

    #[tokio::test]
    async fn the_bus_takes_the_user_name_with_its_own_mode_alone_and_does_without_when_there_is_none() {
        let rules = || bus(BusOptions::default());
        let all = [&LOGIN[..], &PEMS].concat();
        let of = async |mode, secret: &[(&str, &str)]| {
            let identity = identity("tcp://broker", mode, rules(), secret);
            identity.security().await.unwrap()
        };
        assert_eq!(
            login(&of("usernamepassword", &all).await),
            Some(("me", "hunter2"))
        );
        assert_eq!(login(&of("clientcert", &all).await), None);
        assert_eq!(login(&of("usernamepassword", &[]).await), None);
    }

    #[tokio::test]
    async fn elsewhere_the_user_name_counts_with_every_mode_and_has_to_be_there_with_its_own() {
        let all = [&LOGIN[..], &PEMS].concat();
        for mode in ["usernamepassword", "clientcert", "cacert"] {
            let security = identity("ssl://broker", mode, Rules::External, &all)
                .security()
                .await
                .unwrap();
            assert_eq!(login(&security), Some(("me", "hunter2")), "{mode}");
        }
        let missing = identity("tcp://broker", "usernamepassword", Rules::External, &LOGIN[..1]);
        assert_eq!(
            missing.security().await.unwrap_err().to_string(),
            "AuthMode 'usernamepassword' needs 'password' in the secret 'broker'"
        );
    }

    #[tokio::test]
    async fn each_mode_names_the_key_it_lacks() {
        for (mode, key) in [
            ("clientcert", "clientkey"),
            ("clientcert", "clientcert"),
            ("cacert", "cacert"),
        ] {
            let secret: Vec<_> = PEMS.into_iter().filter(|(name, _)| *name != key).collect();
            for rules in [Rules::External, bus(BusOptions::default())] {
                let error = identity("ssl://broker", mode, rules, &secret).security().await;
                assert_eq!(
                    error.unwrap_err().to_string(),
                    format!("AuthMode '{mode}' needs '{key}' in the secret 'broker'")
                );
            }
        }
    }

    #[tokio::test]
    async fn an_authority_in_the_secret_counts_in_every_mode_but_none_and_wins_over_the_options() {
        let options = || BusOptions {
            authorities: block("OPTION"),
            ..BusOptions::default()
        };
        let secret = [&LOGIN[..], &PEMS].concat();
        for mode in ["usernamepassword", "clientcert", "cacert"] {
            let security = identity("ssl://broker", mode, bus(options()), &secret)
                .security()
                .await;
            assert_eq!(trusts(&security.unwrap()), &Trust::Authorities("CA".to_owned()));
        }
        for (mode, secret) in [("none", &secret[..]), ("usernamepassword", &LOGIN)] {
            let security = identity("ssl://broker", mode, bus(options()), secret)
                .security()
                .await;
            assert_eq!(
                trusts(&security.unwrap()),
                &Trust::Authorities("OPTION".to_owned())
            );
        }
    }

    #[tokio::test]
    async fn options_of_the_bus_are_blocks_before_files_and_the_secret_before_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let options = BusOptions {
            username: "option".to_owned(),
            certificate: PemSetting {
                block: SecretText::new("BLOCK"),
                file: path("cert", "FILE"),
            },
            key: PemSetting {
                block: SecretText::default(),
                file: path("key", "FILE"),
            },
            ..BusOptions::default()
        };
        let shown = |security: Security| {
            let certificate = security.tls.unwrap().client_certificate.unwrap();
            (
                certificate.certificates_pem,
                certificate.key_pem.expose().to_owned(),
            )
        };
        let of_options = identity("mqtts://broker", "none", bus(options.clone()), &[]);
        let security = of_options.security().await.unwrap();
        assert_eq!(login(&security), Some(("option", "")));
        assert_eq!(shown(security), ("BLOCK".to_owned(), "FILE".to_owned()));
        let of_secret = identity("mqtts://broker", "clientcert", bus(options), &PEMS);
        assert_eq!(
            shown(of_secret.security().await.unwrap()),
            ("CERT".to_owned(), "KEY".to_owned())
        );
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_and_half_a_certificate_are_named() {
        let mut options = BusOptions::default();
        options.authorities.file = "/nowhere/ca.pem".to_owned();
        let error = identity("ssl://broker", "none", bus(options), &[])
            .security()
            .await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "CaFile '/nowhere/ca.pem' cannot be read"
        );
        let options = BusOptions {
            key: block("KEY"),
            ..BusOptions::default()
        };
        let error = identity("ssl://broker", "none", bus(options), &[])
            .security()
            .await;
        assert!(
            error
                .unwrap_err()
                .to_string()
                .ends_with("the certificate is missing")
        );
    }

    #[tokio::test]
    async fn without_a_scheme_for_it_nothing_is_encrypted_and_that_is_remarked() {
        let mut identity = identity("tcp://broker", "clientcert", Rules::External, &PEMS);
        identity.skip_verify = true;
        assert_eq!(identity.security().await.unwrap().tls, None);
        assert!(identity.remarks()[0].starts_with("certificates have no effect"));

        identity.address.encrypted = true;
        let security = identity.security().await.unwrap();
        assert_eq!(trusts(&security), &Trust::Anyone);
        assert!(security.tls.unwrap().client_certificate.is_some());
        assert!(identity.remarks()[0].contains("not verified"));
    }

    #[tokio::test]
    async fn credentials_in_the_address_win() {
        let identity = identity(
            "tcp://you:there@broker",
            "usernamepassword",
            Rules::External,
            &LOGIN,
        );
        assert_eq!(login(&identity.security().await.unwrap()), Some(("you", "there")));
        assert!(!format!("{identity:?}").contains("there"));
    }
}
