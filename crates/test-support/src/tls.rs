//! Certificates of the test's own, and a TLS front for a server that speaks none.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A private authority.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub pem: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new authority, whom nobody trusts yet.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        // Otherwise every certificate has the same subject and looks like its own issuer.
        parameters
            .distinguished_name
            .push(DnType::CommonName, "authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = parameters.self_signed(&key)?.pem();
        Ok(Self {
            pem,
            issuer: Issuer::new(parameters, key),
        })
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a host name, an address or a client.
    ///
    /// # Errors
    /// When the name cannot stand in a certificate.
    pub fn issue(&self, name: &str) -> Result<Certificate> {
        self.sign(name, CertificateParams::new([name.to_owned()])?)
    }

    /// As [`Self::issue`], but no longer valid.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_expired(&self, name: &str) -> Result<Certificate> {
        let mut parameters = CertificateParams::new([name.to_owned()])?;
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(2021, 1, 1);
        self.sign(name, parameters)
    }

    fn sign(&self, name: &str, mut parameters: CertificateParams) -> Result<Certificate> {
        let key = KeyPair::generate()?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        Ok(Certificate {
            pem: parameters.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Connects to 127.0.0.1:`port` by TLS, believing this authority alone.
pub(crate) async fn connect(port: u16, authority: &Authority) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("127.0.0.1")?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .context("the TLS handshake")
}

/// Takes TLS connections on a port of its own and hands what is in them on to a server on 127.0.0.1. Ends on drop.
pub struct TlsFront {
    port: u16,
    serving: JoinHandle<()>,
}

impl TlsFront {
    /// Stands before the server at `port` with this certificate; with `clients` it takes only those whose certificate that
    /// authority has issued.
    ///
    /// # Errors
    /// When the certificate cannot be used or no port can be had.
    pub async fn start(port: u16, certificate: &Certificate, clients: Option<&Authority>) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes())?)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build()?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(certificate.pem.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())?;
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key)?));
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("opening the TLS front")?;
        let own = listener.local_addr()?.port();
        #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted on drop")]
        let serving = tokio::spawn(serve(listener, acceptor, port));
        Ok(Self { port: own, serving })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, port: u16) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(hand_on(stream, acceptor.clone(), port));
            }
            // A client that is refused, or breaks off, is part of many tests.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn hand_on(stream: TcpStream, acceptor: TlsAcceptor, port: u16) -> io::Result<()> {
    let mut client = acceptor.accept(stream).await?;
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
