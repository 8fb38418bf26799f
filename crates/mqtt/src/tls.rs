//! TLS of a connection: from PEM texts to a rustls configuration.
//!
//! Owns whom to trust and as whom to appear. Uses the ring provider by name, so that nobody has to install one.

use std::sync::Arc;

use edgehold_core::SecretText;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::InvalidConnectionSettings;

/// Whose server certificates are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those signed by an authority the operating system trusts.
    #[default]
    System,
    /// Those signed by one of these authorities: certificates in PEM. EdgeX uses only the first one; here all count.
    Authorities(String),
    /// Any (EdgeX `SkipCertVerify`): protects against listeners, not against impostors.
    Anyone,
}

/// A certificate to show to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and its chain, in PEM.
    pub certificates_pem: String,
    /// Its private key, in PEM (PKCS #8, PKCS #1 or SEC 1).
    pub key_pem: SecretText,
}

/// Encryption of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whose server certificates are believed.
    pub trust: Trust,
    /// As whom to appear; nobody by default.
    pub client_certificate: Option<ClientCertificate>,
}

impl TlsSettings {
    /// The settings as rustls wants them, for connections that are not MQTT but secured by the same rules.
    ///
    /// # Errors
    /// [`InvalidConnectionSettings::Tls`] for a PEM text that holds nothing usable.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, InvalidConnectionSettings> {
        client_config(self)
    }
}

/// Makes the settings into a configuration.
///
/// # Errors
/// [`InvalidConnectionSettings::Tls`] for a PEM text that holds nothing usable.
pub(crate) fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, InvalidConnectionSettings> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(invalid("the protocol versions"))?;
    let builder = match &settings.trust {
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelieveAnyone(provider))),
        Trust::System => verified(builder, provider, system_authorities()?)?,
        Trust::Authorities(pem) => verified(builder, provider, authorities(pem)?)?,
    };
    let config = match &settings.client_certificate {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate {
            certificates_pem,
            key_pem,
        }) => {
            let certificates = certificates(certificates_pem, "the client certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())
                .map_err(invalid("the client key"))?;
            builder
                .with_client_auth_cert(certificates, key)
                .map_err(invalid("the client certificate with its key"))?
        }
    };
    Ok(Arc::new(config))
}

type WantsVerifier = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;
type WantsClientCert = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn verified(
    builder: WantsVerifier,
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
) -> Result<WantsClientCert, InvalidConnectionSettings> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(invalid("the trusted authorities"))?;
    Ok(builder.with_webpki_verifier(verifier))
}

fn system_authorities() -> Result<RootCertStore, InvalidConnectionSettings> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match found.errors.into_iter().next() {
        Some(error) if added == 0 => Err(invalid("the system's authorities")(error)),
        _ => Ok(roots),
    }
}

fn authorities(pem: &str) -> Result<RootCertStore, InvalidConnectionSettings> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "the trusted authorities")? {
        roots
            .add(certificate)
            .map_err(invalid("the trusted authorities"))?;
    }
    Ok(roots)
}

fn certificates(
    pem: &str,
    problem: &'static str,
) -> Result<Vec<CertificateDer<'static>>, InvalidConnectionSettings> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(invalid(problem))?;
    if found.is_empty() {
        return Err(invalid(problem)("there is no certificate in PEM"));
    }
    Ok(found)
}

fn invalid<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    problem: &'static str,
) -> impl Fn(E) -> InvalidConnectionSettings {
    move |source| InvalidConnectionSettings::Tls {
        problem,
        source: source.into(),
    }
}

/// Checks that the server holds the key of the certificate it shows, but not whose certificate that is.
#[derive(Debug)]
struct BelieveAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(settings: &TlsSettings) -> String {
        client_config(settings)
            .expect_err("the settings are wrong")
            .to_string()
    }

    #[test]
    fn what_is_no_certificate_is_refused_by_name() {
        let trust = Trust::Authorities("not PEM".to_owned());
        let settings = TlsSettings {
            trust,
            client_certificate: None,
        };
        assert_eq!(
            refused(&settings),
            "the TLS settings cannot be used: the trusted authorities"
        );

        let client_certificate = Some(ClientCertificate {
            certificates_pem: String::new(),
            key_pem: SecretText::new(""),
        });
        let settings = TlsSettings {
            trust: Trust::Anyone,
            client_certificate,
        };
        assert_eq!(
            refused(&settings),
            "the TLS settings cannot be used: the client certificate"
        );
    }

    #[test]
    fn trusting_anyone_needs_no_provider_to_be_installed() {
        assert!(
            client_config(&TlsSettings {
                trust: Trust::Anyone,
                client_certificate: None
            })
            .is_ok()
        );
    }
}
