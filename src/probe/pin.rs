//! The pinned certificate: the only root that counts, equal byte by byte, and for the agent's own name.
//!
//! What is kept of it is its digest: whatever has the same one is the same certificate, and brings the rest along when it answers. TLS is set
//! up anew for each connection, which costs microseconds; ten thousand set-ups that wait for their minute would cost tens of megabytes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use hex::FromHex as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use sha2::Digest as _;

/// One for all connections.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// A certificate to insist on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    facts: Arc<Facts>,
}

#[derive(Debug, PartialEq, Eq)]
struct Facts {
    name: ServerName<'static>,
    sha256: Sha256,
    also: BTreeSet<Sha256>,
}

/// The SHA-256 of a certificate; shown in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// Of this certificate.
    pub(super) fn of(certificate: &[u8]) -> Self {
        Self(sha2::Sha256::digest(certificate).into())
    }
}

impl TryFrom<&str> for Sha256 {
    type Error = hex::FromHexError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        <[u8; 32]>::from_hex(text).map(Self)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a certificate cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Not PEM.
    #[error("tls.crt holds no PEM certificate")]
    NotPem,
    /// Not a certificate that TLS can use.
    #[error("tls.crt cannot be used: {0}")]
    Unusable(String),
}

impl Pin {
    /// Insists on the first certificate of `pem` for `name`; those behind it, which it took the place of, are accepted too. Answers with
    /// that certificate, too.
    ///
    /// # Errors
    /// When there is no certificate, or TLS cannot use it as a server's.
    pub fn new(pem: &str, name: &str) -> Result<(Self, CertificateDer<'static>), PinError> {
        let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten();
        let certificate = certificates.next().ok_or(PinError::NotPem)?;
        let unusable = |error: &dyn std::fmt::Display| PinError::Unusable(error.to_string());
        trusting(&certificate).map_err(|error| unusable(&error))?;
        let facts = Facts {
            name: ServerName::try_from(name.to_owned()).map_err(|error| unusable(&error))?,
            sha256: Sha256::of(&certificate),
            also: certificates.map(|other| Sha256::of(&other)).collect(),
        };
        Ok((Self { facts: Arc::new(facts) }, certificate))
    }

    /// The same, with exactly these others accepted too, by their SHA-256: certificates that ours took the place of. None: ours alone.
    #[must_use]
    pub fn accepting(&self, also: BTreeSet<Sha256>) -> Self {
        if self.facts.also == also {
            return self.clone();
        }
        let facts = Facts {
            name: self.facts.name.clone(),
            sha256: self.facts.sha256,
            also,
        };
        Self { facts: Arc::new(facts) }
    }

    /// The others that are accepted.
    #[must_use]
    pub fn others(&self) -> &BTreeSet<Sha256> {
        &self.facts.also
    }

    /// Whether a certificate could answer for this name at this time: its name, its use and its own signature.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        trusting(certificate)?
            .verify_server_cert(certificate, &[], &self.facts.name, &[], now)
            .map(drop)
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub fn sha256(&self) -> Sha256 {
        self.facts.sha256
    }

    /// The name that the certificate is for.
    #[must_use]
    pub fn name(&self) -> ServerName<'static> {
        self.facts.name.clone()
    }

    /// TLS that accepts this certificate, and those that it took the place of.
    ///
    /// # Errors
    /// Never with the provider that we bring.
    pub fn tls(&self) -> Result<Arc<ClientConfig>, Error> {
        let verifier = PinnedVerifier { pin: self.clone() };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // One connection for each probe: nothing to resume.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn accepts(&self, certificate: &[u8]) -> bool {
        let sha256 = Sha256::of(certificate);
        self.facts.sha256 == sha256 || self.facts.also.contains(&sha256)
    }
}

/// A verifier with this certificate as the only root.
fn trusting(certificate: &CertificateDer<'_>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned())?;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER))
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// Stricter than a root store with one member: a certificate that the pinned one signed is not the pinned one.
#[derive(Debug)]
struct PinnedVerifier {
    pin: Pin,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pin.accepts(end_entity) {
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        trusting(end_entity)?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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
            &PROVIDER.signature_verification_algorithms,
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
            &PROVIDER.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
