//! The Secret of an agent: gateway token and TLS key pair, made once, read back into facts.

use jiff::{Timestamp, ToSpan as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use koi_core::api::KoiAgent;
use koi_core::names;
use koi_core::observed::SecretFacts;
use koi_core::render::bundle::SecretMaterial;
use koi_wire::Redacted;
use kube::{Resource as _, ResourceExt as _};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::UnixTime;

use super::certificate;
use crate::probe::pin::Pin;

const TOKEN: &str = "token";
const PREVIOUS_TOKEN: &str = "previousToken";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// How long a certificate is good.
const VALID_DAYS: i64 = 365;

/// A Secret, read.
pub(super) struct GatewaySecret {
    /// Which state of the Secret this is.
    pub(super) version: Option<String>,
    /// What the planner may know.
    pub(super) facts: SecretFacts,
    /// The rest; `None` where something is wrong.
    pub(super) content: Option<Content>,
}

/// What goes into the bundle and the probe.
pub(super) struct Content {
    /// Token, certificate, key.
    pub(super) material: SecretMaterial,
    /// The certificate, to insist on.
    pub(super) pin: Pin,
}

/// Why no Secret could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    /// The system has no randomness.
    #[error("no randomness from the system: {0}")]
    Random(getrandom::Error),
    /// The key pair cannot be made.
    #[error("the TLS key pair cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A fresh Secret, owned by the agent.
pub(super) fn make(agent: &KoiAgent, now: Timestamp) -> Result<Secret, MakeError> {
    let uid = agent.uid().unwrap_or_default();
    let (certificate, key) = key_pair(&names::tls_name(&uid), now)?;
    let data = [(TOKEN, token()?), (CERTIFICATE, certificate), (KEY, key)];
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(names::token_secret(&agent.name_any())),
            namespace: agent.namespace(),
            labels: Some(
                [
                    (names::LABEL_AGENT.to_owned(), uid),
                    ("app.kubernetes.io/managed-by".to_owned(), names::MANAGER.to_owned()),
                ]
                .into(),
            ),
            owner_references: agent.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(
            data.into_iter()
                .map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())))
                .collect(),
        ),
        ..Secret::default()
    })
}

/// 32 random bytes.
fn token() -> Result<String, MakeError> {
    use base64::Engine as _;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(MakeError::Random)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// A P-256 key and its own certificate for one DNS name, as PEM.
fn key_pair(name: &str, now: Timestamp) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "Koi gateway");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Yesterday, so that a machine whose clock is behind accepts it.
    let (from, until) = (day(now, -1), day(now, VALID_DAYS));
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Year, month and day that lie so many days from now.
fn day(now: Timestamp, days: i64) -> (i32, u8, u8) {
    let moment = now.checked_add((days * 24).hours()).unwrap_or(now);
    let date = moment.to_zoned(jiff::tz::TimeZone::UTC).date();
    (
        date.year().into(),
        date.month().unsigned_abs(),
        date.day().unsigned_abs(),
    )
}

/// Whether the Secret belongs to this agent.
pub(super) fn is_owned(secret: &Secret, agent: &KoiAgent) -> bool {
    let uid = agent.uid();
    secret
        .owner_references()
        .iter()
        .any(|owner| Some(&owner.uid) == uid.as_ref())
}

/// Reads a Secret.
pub(super) fn read(secret: &Secret, agent_uid: &str, now: Timestamp) -> GatewaySecret {
    let version = secret.resource_version();
    match content(secret, agent_uid, now) {
        Ok((content, not_after)) => {
            let facts = SecretFacts {
                problem: None,
                tls_sha256: content.pin.sha256().to_owned(),
                not_after,
                bundle_sha256: None,
            };
            GatewaySecret {
                version,
                facts,
                content: Some(content),
            }
        }
        Err(problem) => {
            let facts = SecretFacts {
                problem: Some(problem),
                tls_sha256: String::new(),
                not_after: Timestamp::MAX,
                bundle_sha256: None,
            };
            GatewaySecret {
                version,
                facts,
                content: None,
            }
        }
    }
}

fn content(secret: &Secret, agent_uid: &str, now: Timestamp) -> Result<(Content, Timestamp), String> {
    let token = field(secret, TOKEN)?.ok_or_else(|| missing(TOKEN))?;
    if token.trim().len() < 16 {
        return Err(format!("data.{TOKEN} must have at least 16 characters"));
    }
    let certificate = field(secret, CERTIFICATE)?.ok_or_else(|| missing(CERTIFICATE))?;
    let key = field(secret, KEY)?.ok_or_else(|| missing(KEY))?;
    let pin = Pin::new(&certificate, &names::tls_name(agent_uid)).map_err(|error| format!("data.{error}"))?;
    certificate::matches_key(pin.certificate(), &key)?;
    let not_after = certificate::not_after(pin.certificate()).ok_or("data.tls.crt has no readable end of validity")?;
    usable(&pin, now)?;
    let previous_token = field(secret, PREVIOUS_TOKEN)?.map(|token| Redacted::new(token.trim()));
    let material = SecretMaterial {
        token: Redacted::new(token.trim()),
        previous_token,
        certificate,
        key: Redacted::new(key),
    };
    Ok((Content { material, pin }, not_after))
}

/// Name and use are the certificate's; that it has run out is the planner's business.
fn usable(pin: &Pin, now: Timestamp) -> Result<(), String> {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    match pin.check(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))) {
        Ok(())
        | Err(rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        )) => Ok(()),
        Err(error) => Err(format!("data.{CERTIFICATE} cannot be the gateway's: {error}")),
    }
}

fn field(secret: &Secret, name: &str) -> Result<Option<String>, String> {
    let Some(bytes) = secret
        .data
        .as_ref()
        .and_then(|data| data.get(name))
        .filter(|bytes| !bytes.0.is_empty())
    else {
        return Ok(None);
    };
    String::from_utf8(bytes.0.clone())
        .map(Some)
        .map_err(|_| format!("data.{name} is not text"))
}

fn missing(name: &str) -> String {
    format!("data.{name} is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> KoiAgent {
        let mut agent = KoiAgent::new("a", koi_core::api::KoiAgentSpec::default());
        agent.metadata.namespace = Some("ns".into());
        agent.metadata.uid = Some("11111111-2222-3333-4444-555555555555".into());
        agent
    }

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn problem(change: impl FnOnce(&mut std::collections::BTreeMap<String, ByteString>)) -> Option<String> {
        let mut secret = make(&agent(), now()).unwrap();
        change(secret.data.as_mut().unwrap());
        read(&secret, &agent().uid().unwrap(), now()).facts.problem
    }

    #[test]
    fn a_fresh_secret_reads_back_without_a_problem_and_lasts_a_year() {
        let secret = make(&agent(), now()).unwrap();
        assert!(is_owned(&secret, &agent()));
        let read = read(&secret, &agent().uid().unwrap(), now());
        let content = read.content.unwrap();
        assert_eq!(read.facts.problem, None);
        assert_eq!(read.facts.not_after, "2027-11-21T00:00:00Z".parse().unwrap());
        assert_eq!(content.material.token.expose().len(), 43);
        assert_eq!(read.facts.tls_sha256, content.pin.sha256());
    }

    #[test]
    fn no_two_secrets_are_alike() {
        let tokens: std::collections::BTreeSet<_> = (0..8)
            .map(|_| make(&agent(), now()).unwrap().data.unwrap()[TOKEN].0.clone())
            .collect();
        assert_eq!(tokens.len(), 8);
    }

    #[test]
    fn what_people_break_is_named() {
        let text = |text: &str| ByteString(text.as_bytes().to_vec());
        let told =
            |change: fn(&mut std::collections::BTreeMap<String, ByteString>)| problem(change).unwrap_or_default();
        assert_eq!(problem(|_| {}), None);
        assert_eq!(told(|data| drop(data.remove(TOKEN))), "data.token is missing");
        assert_eq!(
            problem(|data| drop(data.insert(TOKEN.into(), text("short")))).unwrap(),
            "data.token must have at least 16 characters"
        );
        assert_eq!(
            problem(|data| drop(data.insert(CERTIFICATE.into(), text("x")))).unwrap(),
            "data.tls.crt holds no PEM certificate"
        );
        let (other, other_key) = key_pair("other.koi.internal", now()).unwrap();
        let key_only = problem(|data| drop(data.insert(KEY.into(), text(&other_key)))).unwrap();
        assert_eq!(key_only, "data.tls.key does not belong to data.tls.crt");
        let both = problem(|data| {
            data.insert(KEY.into(), text(&other_key));
            data.insert(CERTIFICATE.into(), text(&other));
        });
        assert!(both.unwrap().starts_with("data.tls.crt cannot be the gateway's"));
    }

    #[test]
    fn a_certificate_that_ran_out_is_no_problem_of_the_secret() {
        let secret = make(&agent(), now()).unwrap();
        let later = "2030-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(read(&secret, &agent().uid().unwrap(), later).facts.problem, None);
    }
}
