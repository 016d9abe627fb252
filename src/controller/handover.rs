//! The handover of a changed token or certificate: for a while the gateway may still have what was in the Secret before.
//!
//! It begins with such a change alone, and ends when the gateway was seen to have the new ones: at any other time a token that is not taken is a
//! broken hop.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use koi_wire::Redacted;

use super::secret::GatewaySecret;
use crate::clock::after;
use crate::probe::pin::Pin;

/// For so long after the last change the gateway may not have taken it: it is told, fetches, and reloads, in seconds where all is well.
const LASTS: Duration = Duration::from_secs(120);

/// What the gateway may still have.
#[derive(Default)]
pub(super) struct Handover {
    until: Option<Timestamp>,
    /// SHA-256 of the certificates that it may still present.
    certificates: BTreeSet<String>,
    /// Certificate and token as they were last.
    last: Option<(String, Redacted)>,
}

impl Handover {
    /// The Secret as it is now. `told`: the certificate that status names, which an earlier operator knew.
    pub(super) fn meet(&mut self, secret: &GatewaySecret, told: Option<&str>, now: Timestamp) {
        let Some(content) = &secret.content else { return };
        let (certificate, token) = (content.pin.sha256(), &content.token);
        let before = self.last.as_ref().map(|(certificate, _)| certificate.as_str()).or(told);
        if let Some(before) = before.filter(|before| *before != certificate) {
            self.certificates.insert(before.to_owned());
            self.begin(now);
        }
        if self.last.as_ref().is_some_and(|(_, before)| before != token) {
            self.begin(now);
        }
        self.last = Some((certificate.to_owned(), token.clone()));
    }

    /// The new ones are on their way to the gateway.
    fn begin(&mut self, now: Timestamp) {
        self.until = Some(after(now, LASTS));
    }

    /// The gateway has them.
    pub(super) fn finish(&mut self) {
        self.until = None;
        self.certificates.clear();
    }

    /// Whether it lasts, and how much longer.
    pub(super) fn remaining(&mut self, now: Timestamp) -> Option<Duration> {
        let left = self.until.filter(|until| now < *until);
        if left.is_none() {
            self.finish();
        }
        Duration::try_from(left?.duration_since(now)).ok()
    }

    /// The certificate to insist on, with those that may still answer.
    pub(super) fn pin(&self, pin: &Pin) -> Pin {
        if self.until.is_none() {
            return pin.clone();
        }
        let also = pin.others().union(&self.certificates).cloned().collect();
        pin.accepting(also)
    }
}

#[cfg(test)]
mod tests {
    use koi_core::api::{KoiAgent, KoiAgentSpec};

    use super::super::secret::{self, GatewaySecret};
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn fresh() -> GatewaySecret {
        let mut agent = KoiAgent::new("a", KoiAgentSpec::default());
        agent.metadata.uid = Some("u-1".into());
        secret::read(&secret::make(&agent, at(0)).unwrap(), "u-1", at(0))
    }

    fn digest(secret: &GatewaySecret) -> &str {
        secret.content.as_ref().unwrap().pin.sha256()
    }

    fn accepted(handover: &Handover, secret: &GatewaySecret) -> BTreeSet<String> {
        handover.pin(&secret.content.as_ref().unwrap().pin).others().clone()
    }

    #[test]
    fn a_changed_secret_is_handed_over_for_a_while_and_the_former_certificate_may_answer() {
        let (first, second) = (fresh(), fresh());
        let mut handover = Handover::default();
        handover.meet(&first, None, at(0));
        handover.meet(&first, None, at(1));
        assert_eq!(
            (handover.remaining(at(1)), accepted(&handover, &first)),
            (None, BTreeSet::new())
        );
        handover.meet(&second, None, at(10));
        assert_eq!(handover.remaining(at(10)), Some(LASTS));
        assert_eq!(accepted(&handover, &second), [digest(&first).to_owned()].into());
        assert_eq!(
            (handover.remaining(at(130)), accepted(&handover, &second)),
            (None, BTreeSet::new())
        );
    }

    #[test]
    fn it_ends_when_the_gateway_has_the_new_ones() {
        let (first, second) = (fresh(), fresh());
        let mut handover = Handover::default();
        handover.meet(&first, None, at(0));
        handover.meet(&second, None, at(10));
        handover.finish();
        handover.meet(&second, Some(digest(&second)), at(11));
        assert_eq!(
            (handover.remaining(at(11)), accepted(&handover, &second)),
            (None, BTreeSet::new())
        );
    }

    #[test]
    fn what_an_earlier_operator_knew_counts() {
        let secret = fresh();
        let mut handover = Handover::default();
        handover.meet(&secret, Some(digest(&secret)), at(0));
        assert_eq!(handover.remaining(at(0)), None, "it is the same");
        let mut handover = Handover::default();
        handover.meet(&secret, Some("another"), at(0));
        assert_eq!(accepted(&handover, &secret), ["another".to_owned()].into());
    }
}
