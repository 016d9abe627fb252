//! The pinned certificate: the only root that counts, equal byte by byte, and for the agent's own name.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

/// A certificate to insist on.
#[derive(Clone, Debug)]
pub struct Pin {
    name: ServerName<'static>,
    sha256: String,
    config: Arc<ClientConfig>,
    verifier: Arc<PinnedVerifier>,
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
    /// Insists on the first certificate of `pem` for `name`; those behind it, which it took the place of, are accepted too.
    ///
    /// # Errors
    /// When there is no certificate, or TLS cannot use it as a server's.
    pub fn new(pem: &str, name: &str) -> Result<Self, PinError> {
        let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten();
        let certificate = certificates.next().ok_or(PinError::NotPem)?;
        let also = certificates.map(|other| sha256_of(&other)).collect();
        let unusable = |error: &dyn std::fmt::Display| PinError::Unusable(error.to_string());
        let name = ServerName::try_from(name.to_owned()).map_err(|error| unusable(&error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).map_err(|error| unusable(&error))?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let inner = inner.map_err(|error| unusable(&error))?;
        let sha256 = sha256_of(&certificate);
        let verifier = PinnedVerifier {
            certificate,
            inner,
            provider,
            also,
        };
        Self::of(name, sha256, verifier).map_err(|error| unusable(&error))
    }

    fn of(name: ServerName<'static>, sha256: String, verifier: PinnedVerifier) -> Result<Self, Error> {
        let verifier = Arc::new(verifier);
        let config = client_config(Arc::clone(&verifier.provider), &verifier)?;
        Ok(Self {
            name,
            sha256,
            config: Arc::new(config),
            verifier,
        })
    }

    /// The same, with exactly these others accepted too, by their SHA-256: certificates that ours took the place of. None: ours alone.
    #[must_use]
    pub fn accepting(&self, also: BTreeSet<String>) -> Self {
        if self.verifier.also == also {
            return self.clone();
        }
        let verifier = PinnedVerifier {
            certificate: self.verifier.certificate.clone(),
            inner: Arc::clone(&self.verifier.inner),
            provider: Arc::clone(&self.verifier.provider),
            also,
        };
        Self::of(self.name.clone(), self.sha256.clone(), verifier).unwrap_or_else(|_| self.clone())
    }

    /// The others that are accepted.
    #[must_use]
    pub fn others(&self) -> &BTreeSet<String> {
        &self.verifier.also
    }

    /// Whether the certificate could answer at this time: its name, its use and its own signature.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, now: UnixTime) -> Result<(), Error> {
        self.verifier
            .inner
            .verify_server_cert(&self.verifier.certificate, &[], &self.name, &[], now)
            .map(drop)
    }

    /// SHA-256 of the certificate, hex.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.verifier.certificate
    }

    /// The name that the certificate is for.
    #[must_use]
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// TLS that accepts this certificate alone.
    #[must_use]
    pub fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

fn client_config(provider: Arc<CryptoProvider>, verifier: &Arc<PinnedVerifier>) -> Result<ClientConfig, Error> {
    let verifier: Arc<dyn ServerCertVerifier> = verifier.clone();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // One connection for each probe: nothing to resume.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Stricter than a root store with one member: a certificate that the pinned one signed is not the pinned one.
#[derive(Debug)]
struct PinnedVerifier {
    certificate: CertificateDer<'static>,
    inner: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
    also: BTreeSet<String>,
}

impl PinnedVerifier {
    /// Equal byte by byte to one that ours took the place of: then it is a root of its own, for the same name.
    fn former(&self, end_entity: &CertificateDer<'_>) -> Option<Arc<WebPkiServerVerifier>> {
        if !self.also.contains(&sha256_of(end_entity)) {
            return None;
        }
        let mut roots = RootCertStore::empty();
        roots.add(end_entity.clone().into_owned()).ok()?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .ok()
    }
}

fn sha256_of(certificate: &[u8]) -> String {
    hex::encode(Sha256::digest(certificate))
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
        if end_entity.as_ref() != self.certificate.as_ref() {
            if let Some(former) = self.former(end_entity) {
                return former.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            }
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
