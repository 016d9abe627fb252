//! The handover of a changed token or certificate: for a while the gateway may still have what was in the Secret before.
//!
//! It begins with such a change alone, and ends when the gateway was seen to have the new ones: at any other time a token that is not taken is a
//! broken hop.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::secret::GatewaySecret;
use super::validate::digest;
use crate::clock::after;
use crate::probe::pin::{Pin, Sha256};

/// For so long after the last change the gateway may not have taken it: it is told, fetches, and reloads, in seconds where all is well.
const LASTS: Duration = Duration::from_secs(120);

/// What the gateway may still have.
#[derive(Default)]
pub(super) struct Handover {
    under_way: Option<Box<UnderWay>>,
    /// Certificate, and a digest of the token, as they were last.
    last: Option<(Sha256, u64)>,
    /// What an earlier operator left was looked at.
    compared: bool,
}

/// A change that the gateway may not have heard of.
#[derive(Default)]
struct UnderWay {
    until: Timestamp,
    /// The certificates that it may still present.
    certificates: BTreeSet<Sha256>,
}

impl Handover {
    /// The Secret as it is now. `told`: the certificate that status names, which an earlier operator knew.
    pub(super) fn meet(&mut self, secret: &GatewaySecret, told: Option<&str>, now: Timestamp) {
        let Some(content) = &secret.content else { return };
        let (certificate, token) = (content.pin.sha256(), digest(&content.token.expose()));
        let told = told.and_then(|told| Sha256::try_from(told).ok());
        let before = self.last.map(|(certificate, _)| certificate).or(told);
        if let Some(before) = before.filter(|before| *before != certificate) {
            self.begin(now).certificates.insert(before);
        }
        if self.last.is_some_and(|(_, before)| before != token) {
            self.begin(now);
        }
        self.last = Some((certificate, token));
    }

    /// The bundle that the instance was left with, and the one that is due: where they differ the first time, the Secret may have been edited
    /// while no operator was there, and the gateway may have the token from before.
    pub(super) fn meet_bundle(&mut self, left: Option<&str>, due: &str, now: Timestamp) {
        let first = !std::mem::replace(&mut self.compared, true);
        if first && left.is_some_and(|left| left != due) {
            self.begin(now);
        }
    }

    /// The new ones are on their way to the gateway.
    fn begin(&mut self, now: Timestamp) -> &mut UnderWay {
        let under_way = self.under_way.get_or_insert_default();
        under_way.until = after(now, LASTS);
        under_way
    }

    /// Nobody hands anything over now: the time for it begins when somebody can.
    pub(super) fn wait(&mut self, now: Timestamp) {
        if self.under_way.is_some() {
            self.begin(now);
        }
    }

    /// The gateway has them.
    pub(super) fn finish(&mut self) {
        self.under_way = None;
    }

    /// Whether it lasts, and how much longer.
    pub(super) fn remaining(&mut self, now: Timestamp) -> Option<Duration> {
        self.under_way.take_if(|under_way| under_way.until <= now);
        let until = self.under_way.as_ref()?.until;
        Duration::try_from(until.duration_since(now)).ok()
    }

    /// The certificate to insist on, with those that may still answer.
    pub(super) fn pin(&self, pin: &Pin) -> Pin {
        let Some(under_way) = &self.under_way else {
            return pin.clone();
        };
        let also = pin.others().union(&under_way.certificates).copied().collect();
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
        secret::read(&secret::make(&agent, at(0)).unwrap(), "u-1", at(0)).0
    }

    fn certificate(secret: &GatewaySecret) -> Sha256 {
        secret.content.as_ref().unwrap().pin.sha256()
    }

    fn accepted(handover: &Handover, secret: &GatewaySecret) -> BTreeSet<Sha256> {
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
        assert_eq!(accepted(&handover, &second), [certificate(&first)].into());
        assert_eq!(
            (handover.remaining(at(130)), accepted(&handover, &second)),
            (None, BTreeSet::new())
        );
    }

    #[test]
    fn it_goes_on_while_nobody_can_hand_anything_over() {
        let (first, second) = (fresh(), fresh());
        let mut handover = Handover::default();
        handover.meet(&first, None, at(0));
        handover.wait(at(5));
        assert_eq!(handover.remaining(at(5)), None);
        handover.meet(&second, None, at(10));
        handover.wait(at(3600));
        assert_eq!(handover.remaining(at(3600)), Some(LASTS));
        assert_eq!(accepted(&handover, &second), [certificate(&first)].into());
    }

    #[test]
    fn it_ends_when_the_gateway_has_the_new_ones() {
        let (first, second) = (fresh(), fresh());
        let mut handover = Handover::default();
        handover.meet(&first, None, at(0));
        handover.meet(&second, None, at(10));
        handover.finish();
        handover.meet(&second, Some(&certificate(&second).to_string()), at(11));
        assert_eq!(
            (handover.remaining(at(11)), accepted(&handover, &second)),
            (None, BTreeSet::new())
        );
    }

    #[test]
    fn a_bundle_that_an_earlier_operator_left_and_that_is_not_due_is_handed_over_once() {
        let mut handover = Handover::default();
        handover.meet_bundle(Some("a"), "b", at(0));
        assert_eq!(handover.remaining(at(0)), Some(LASTS));
        handover.meet_bundle(Some("a"), "b", at(100));
        assert_eq!(handover.remaining(at(120)), None, "it does not last for ever");
        for left in [None, Some("b")] {
            let mut handover = Handover::default();
            handover.meet_bundle(left, "b", at(0));
            handover.meet_bundle(Some("a"), "b", at(1));
            assert_eq!(handover.remaining(at(1)), None, "this process wrote it");
        }
    }

    #[test]
    fn what_an_earlier_operator_knew_counts() {
        let (secret, another) = (fresh(), certificate(&fresh()));
        let mut handover = Handover::default();
        handover.meet(&secret, Some(&certificate(&secret).to_string()), at(0));
        assert_eq!(handover.remaining(at(0)), None, "it is the same");
        let mut handover = Handover::default();
        handover.meet(&secret, Some(&another.to_string()), at(0));
        assert_eq!(accepted(&handover, &secret), [another].into());
        let mut handover = Handover::default();
        handover.meet(&secret, Some("no digest"), at(0));
        assert_eq!(handover.remaining(at(0)), None, "no certificate has it");
    }
}
