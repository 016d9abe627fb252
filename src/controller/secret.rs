//! The Secret of an agent: gateway token and TLS key pair, made once, read back into facts.

use jiff::{Timestamp, ToSpan as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use koi_core::api::{KoiAgent, annotations};
use koi_core::names;
use koi_core::observed::SecretFacts;
use koi_core::render::bundle::SecretMaterial;
use koi_core::rotation::{self, Rotation};
use koi_wire::Redacted;
use kube::{Resource as _, ResourceExt as _};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::json;

use super::certificate;
use crate::probe::pin::Pin;

const TOKEN: &str = "token";
const NEXT_TOKEN: &str = "nextToken";
const PREVIOUS_TOKEN: &str = "previousToken";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// How long a certificate is good.
const VALID_DAYS: i64 = 365;

/// A Secret, read.
pub(super) struct GatewaySecret {
    /// Which state of the Secret this is.
    pub(super) version: Option<String>,
    /// What probes need; `None` where something is wrong.
    pub(super) content: Option<Content>,
    /// What is wrong.
    problem: Option<Box<str>>,
    /// End of the certificate's validity.
    not_after: Timestamp,
    /// When it is to be renewed.
    renew_at: Option<Timestamp>,
    /// What asked for the present token, or the staged one.
    rotation: Option<Box<str>>,
    /// When a rotation replaced what is still good beside the new.
    rotated_at: Option<Timestamp>,
}

impl GatewaySecret {
    /// What the planner may know.
    pub(super) fn facts(&self) -> SecretFacts {
        let content = self.content.as_ref();
        SecretFacts {
            problem: self.problem.as_deref().map(ToOwned::to_owned),
            tls_sha256: content
                .map(|content| content.pin.sha256().to_string())
                .unwrap_or_default(),
            not_after: self.not_after,
            renew_at: self.renew_at,
            rotation: self.rotation.as_deref().map(ToOwned::to_owned),
            staged: content.is_some_and(|content| content.next.is_some()),
            rotated_at: self.rotated_at,
            ..SecretFacts::default()
        }
    }

    /// Whether this is a later state than that one: versions of one kind are numbers that grow.
    pub(super) fn is_newer_than(&self, other: &str) -> bool {
        let number = |version: Option<&str>| version.and_then(|version| version.parse::<u64>().ok());
        match (number(self.version.as_deref()), number(Some(other))) {
            (Some(ours), Some(theirs)) => ours > theirs,
            _ => false,
        }
    }
}

/// What goes into the probe.
pub(super) struct Content {
    /// The token that people use now.
    pub(super) token: Redacted,
    /// The one that is to take its place.
    pub(super) next: Option<Redacted>,
    /// The certificate, to insist on; the one that it replaced is good too while it stands behind it.
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
            annotations: agent
                .annotations()
                .get(annotations::ROTATE_TOKEN)
                .map(|asked| [(names::ANNOTATION_ROTATION.to_owned(), rotation::word(asked))].into()),
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
pub(super) fn is_owned(secret: &impl kube::Resource, agent: &KoiAgent) -> bool {
    let uid = agent.uid();
    secret
        .owner_references()
        .iter()
        .any(|owner| Some(&owner.uid) == uid.as_ref())
}

/// Reads a Secret: what is worth remembering of it, and what goes into the bundle.
pub(super) fn read(secret: &Secret, agent_uid: &str, now: Timestamp) -> (GatewaySecret, Option<SecretMaterial>) {
    let note = |name: &str| secret.annotations().get(name);
    let mut read = GatewaySecret {
        version: secret.resource_version(),
        content: None,
        problem: None,
        not_after: Timestamp::MAX,
        renew_at: None,
        rotation: note(names::ANNOTATION_ROTATION).map(|value| rotation::word(value).into()),
        rotated_at: note(names::ANNOTATION_ROTATED_AT).and_then(|text| text.parse().ok()),
    };
    match content(secret, agent_uid, now) {
        Ok((content, material, (from, until))) => {
            read.not_after = until;
            read.renew_at = Some(rotation::renew_at(from, until));
            read.content = Some(content);
            (read, Some(material))
        }
        Err(problem) => {
            read.problem = Some(problem.into());
            (read, None)
        }
    }
}

/// What is in it, for the probe and for the bundle, and from when until when its certificate is good.
fn content(
    secret: &Secret,
    agent_uid: &str,
    now: Timestamp,
) -> Result<(Content, SecretMaterial, (Timestamp, Timestamp)), String> {
    let material = material(secret)?;
    let certificates = field(secret, CERTIFICATE)?.ok_or_else(|| missing(CERTIFICATE))?;
    let pinned = Pin::new(&certificates, &names::tls_name(agent_uid));
    let (pin, certificate) = pinned.map_err(|error| format!("data.{error}"))?;
    certificate::matches_key(&certificate, material.key.expose())?;
    let validity = certificate::validity(&certificate).ok_or("data.tls.crt has no readable validity")?;
    usable(&pin, &certificate, now)?;
    let next = token_of(secret, NEXT_TOKEN)?;
    let token = token_of(secret, TOKEN)?.ok_or_else(|| missing(TOKEN))?;
    Ok((Content { token, next, pin }, material, validity))
}

/// Tokens, certificate and key, as the gateway is to have them.
pub(super) fn material(secret: &Secret) -> Result<SecretMaterial, String> {
    let token = token_of(secret, TOKEN)?.ok_or_else(|| missing(TOKEN))?;
    let next = token_of(secret, NEXT_TOKEN)?;
    let previous = field(secret, PREVIOUS_TOKEN)?.map(|token| Redacted::new(token.trim()));
    let certificates = field(secret, CERTIFICATE)?.ok_or_else(|| missing(CERTIFICATE))?;
    let key = field(secret, KEY)?.ok_or_else(|| missing(KEY))?;
    // The gateway takes both alike: promoting the one behind the other changes nothing for it.
    let (first, second) = match next {
        Some(next) => (next, Some(token)),
        None => (token, previous),
    };
    Ok(SecretMaterial {
        token: first,
        previous_token: second,
        certificate: first_certificate(&certificates).to_owned(),
        key: Redacted::new(key),
    })
}

fn token_of(secret: &Secret, name: &str) -> Result<Option<Redacted>, String> {
    let Some(token) = field(secret, name)? else {
        return Ok(None);
    };
    if token.trim().len() < 16 {
        return Err(format!("data.{name} must have at least 16 characters"));
    }
    Ok(Some(Redacted::new(token.trim())))
}

/// The one that the gateway presents; those behind it are trusted, not presented.
fn first_certificate(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----";
    match pem.find(END) {
        Some(at) => {
            let rest = at + END.len();
            let line = pem
                .get(rest..)
                .and_then(|rest| rest.find('\n'))
                .map_or(0, |newline| newline + 1);
            pem.get(..rest + line).unwrap_or(pem)
        }
        None => pem,
    }
}

/// One step of a rotation: a merge patch of exactly the Secret that was read. `None` where it no longer makes sense.
pub(super) fn rotate(
    secret: &Secret,
    rotation: &Rotation,
    agent_uid: &str,
    now: Timestamp,
) -> Result<Option<serde_json::Value>, MakeError> {
    let version = secret.resource_version();
    let old = |name: &str| field(secret, name).ok().flatten();
    let (data, notes) = match rotation {
        Rotation::Stage { asked } => (
            json!({ NEXT_TOKEN: encoded(&token()?) }),
            json!({ names::ANNOTATION_ROTATION: asked }),
        ),
        Rotation::Promote => {
            let (Some(old), Some(next)) = (old(TOKEN), old(NEXT_TOKEN)) else {
                return Ok(None);
            };
            (
                json!({ TOKEN: encoded(&next), PREVIOUS_TOKEN: encoded(&old), NEXT_TOKEN: null }),
                json!({ names::ANNOTATION_ROTATED_AT: moment(now) }),
            )
        }
        Rotation::Renew => {
            let Some(old) = old(CERTIFICATE) else { return Ok(None) };
            let (certificate, key) = key_pair(&names::tls_name(agent_uid), now)?;
            let both = format!("{certificate}{}", first_certificate(&old));
            (
                json!({ CERTIFICATE: encoded(&both), KEY: encoded(&key) }),
                json!({ names::ANNOTATION_ROTATED_AT: moment(now) }),
            )
        }
        Rotation::Retire => {
            let Some(certificates) = old(CERTIFICATE) else {
                return Ok(None);
            };
            (
                json!({ PREVIOUS_TOKEN: null, CERTIFICATE: encoded(first_certificate(&certificates)) }),
                json!({ names::ANNOTATION_ROTATED_AT: null }),
            )
        }
    };
    Ok(Some(
        json!({ "metadata": { "resourceVersion": version, "annotations": notes }, "data": data }),
    ))
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// In whole seconds, as people write it.
fn moment(now: Timestamp) -> String {
    koi_core::status::time(now).0.to_string()
}

/// Name and use are the certificate's; that it has run out is the planner's business.
fn usable(pin: &Pin, certificate: &CertificateDer<'_>, now: Timestamp) -> Result<(), String> {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    match pin.check(
        certificate,
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
    ) {
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
        read(&secret, &agent().uid().unwrap(), now()).0.facts().problem
    }

    #[test]
    fn a_fresh_secret_reads_back_without_a_problem_and_lasts_a_year() {
        let secret = make(&agent(), now()).unwrap();
        assert!(is_owned(&secret, &agent()));
        let (read, material) = read(&secret, &agent().uid().unwrap(), now());
        let facts = read.facts();
        let content = read.content.unwrap();
        assert_eq!(facts.problem, None);
        assert_eq!(facts.not_after, "2027-11-21T00:00:00Z".parse().unwrap());
        assert_eq!(material.unwrap().token.expose().len(), 43);
        assert_eq!(facts.tls_sha256, content.pin.sha256().to_string());
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
        assert_eq!(read(&secret, &agent().uid().unwrap(), later).0.facts().problem, None);
    }

    /// What the API server makes of a merge patch.
    fn patched(secret: &Secret, patch: &serde_json::Value) -> Secret {
        fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
            let serde_json::Value::Object(fields) = patch else {
                *target = patch.clone();
                return;
            };
            if !target.is_object() {
                *target = json!({});
            }
            let there = target.as_object_mut().unwrap();
            for (name, value) in fields {
                if value.is_null() {
                    there.remove(name);
                } else {
                    merge(there.entry(name).or_insert(json!(null)), value);
                }
            }
        }
        let mut whole = serde_json::to_value(secret).unwrap();
        merge(&mut whole, patch);
        serde_json::from_value(whole).unwrap()
    }

    /// A Secret, read whole.
    type Seen = (GatewaySecret, Option<SecretMaterial>);

    fn step(secret: &Secret, rotation: &Rotation) -> (Secret, Seen) {
        let uid = agent().uid().unwrap();
        let patch = rotate(secret, rotation, &uid, now()).unwrap().unwrap();
        let secret = patched(secret, &patch);
        let seen = read(&secret, &uid, now());
        assert_eq!(seen.0.facts().problem, None);
        (secret, seen)
    }

    fn tokens((seen, material): &Seen) -> (String, std::collections::BTreeSet<String>) {
        let content = seen.content.as_ref().unwrap();
        let material = material.as_ref().unwrap();
        let taken = std::iter::once(&material.token).chain(&material.previous_token);
        (
            content.token.expose().to_owned(),
            taken.map(|token| token.expose().to_owned()).collect(),
        )
    }

    #[test]
    fn at_every_step_of_a_rotation_the_gateway_takes_the_token_of_the_secret() {
        let made = make(&agent(), now()).unwrap();
        let (old, _) = tokens(&read(&made, &agent().uid().unwrap(), now()));
        let (staged, seen) = step(&made, &Rotation::Stage { asked: "2".into() });
        let (shown, both) = tokens(&seen);
        assert_eq!((shown, both.len(), seen.0.facts().staged), (old.clone(), 2, true));
        assert_eq!(seen.0.facts().rotation.as_deref(), Some("2"));
        let (promoted, seen) = step(&staged, &Rotation::Promote);
        let (shown, still) = tokens(&seen);
        assert!(shown != old && both.contains(&shown));
        assert_eq!(
            (still, seen.0.facts().staged, seen.0.facts().rotated_at),
            (both, false, Some(now()))
        );
        let (_, seen) = step(&promoted, &Rotation::Retire);
        assert_eq!(tokens(&seen), (shown.clone(), [shown].into()));
        assert_eq!(seen.0.facts().rotated_at, None);
        assert_eq!(
            rotate(&made, &Rotation::Promote, "u", now()).unwrap(),
            None,
            "nothing is staged"
        );
    }

    #[test]
    fn a_renewed_certificate_has_the_old_one_behind_it_for_a_while() {
        let made = make(&agent(), now()).unwrap();
        let pem = |secret: &Secret| field(secret, CERTIFICATE).unwrap().unwrap();
        let (renewed, seen) = step(&made, &Rotation::Renew);
        assert!(pem(&renewed).ends_with(&pem(&made)) && pem(&renewed).len() > pem(&made).len());
        let presented = &seen.1.as_ref().unwrap().certificate;
        assert_eq!(format!("{presented}{}", pem(&made)), pem(&renewed));
        let (retired, _) = step(&renewed, &Rotation::Retire);
        assert_eq!(pem(&retired), *presented);
        assert_eq!(first_certificate("no end"), "no end");
    }
}
