//! A certificate authority of the test's own, and the certificates it signs.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// Signs certificates. Two of them do not believe each other's.
#[derive(Debug)]
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, both in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
}

impl Authority {
    /// A fresh one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        // Otherwise every certificate has the same subject and looks like its own issuer.
        let name = crate::unique_name("authority");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("making a key")?;
        let pem = parameters.self_signed(&key)?.pem();
        Ok(Self {
            pem,
            issuer: Issuer::new(parameters, key),
        })
    }

    /// What to trust, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a host name, an address, or the name of a client.
    ///
    /// # Errors
    /// When the name cannot be in a certificate.
    pub fn certificate(&self, name: &str) -> Result<Certificate> {
        self.sign(CertificateParams::new([name.to_owned()])?, name)
    }

    /// As [`Self::certificate`], but no longer valid.
    ///
    /// # Errors
    /// As [`Self::certificate`].
    pub fn expired_certificate(&self, name: &str) -> Result<Certificate> {
        let mut parameters = CertificateParams::new([name.to_owned()])?;
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(2021, 1, 1);
        self.sign(parameters, name)
    }

    fn sign(&self, mut parameters: CertificateParams, name: &str) -> Result<Certificate> {
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().context("making a key")?;
        let pem = parameters.signed_by(&key, &self.issuer)?.pem();
        Ok(Certificate {
            pem,
            key_pem: key.serialize_pem(),
        })
    }
}
