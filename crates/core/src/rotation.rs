//! Rotation of what opens the gateway: the token, when somebody asks for a new one, and the certificate, at two thirds of its time.
//!
//! Nobody is shut out in between. A new token is first put *beside* the old one (the Secret's `nextToken`), and becomes `token` only when
//! the gateway was seen to take it; the old one then stays as `previousToken` for a while. A new certificate becomes the first of
//! `tls.crt` with the old one behind it, so that whoever reads the Secret trusts the gateway before and after it has changed over.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::desired::DesiredAgent;
use crate::names;
use crate::observed::SecretFacts;

/// So long the old token and the old certificate stay good: mounted Secrets follow within a minute or two.
pub const GRACE: Duration = Duration::from_secs(120);

/// One step of a rotation: one write of the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// A new token beside the old one, for this value of the annotation.
    Stage {
        /// `skykoi.io/rotate-token`.
        asked: String,
    },
    /// The new token takes the place of the old one, after the gateway was seen to take it.
    Promote,
    /// A new key pair, with the old certificate still trusted.
    Renew,
    /// What was replaced is no longer good.
    Retire,
}

impl Rotation {
    /// What is being done, for people.
    #[must_use]
    pub const fn told(&self) -> &'static str {
        match self {
            Self::Stage { .. } => "A new gateway token is being put beside the old one; both are good.",
            Self::Promote => {
                "A new gateway token takes the place of the old one as soon as the gateway takes it; both are good."
            }
            Self::Renew => "The certificate is being renewed; the old one stays trusted for a while.",
            Self::Retire => "What a rotation replaced is being dropped.",
        }
    }
}

/// The value of an annotation may be as long as a book; status and the Secret name what a token was made for in at most so many bytes.
const WORD_MAX: usize = 253;

/// What stands for a value of the annotation in the Secret and in status: the value itself, or its hash where it is too long for them.
#[must_use]
pub fn word(value: &str) -> String {
    if value.len() <= WORD_MAX {
        value.to_owned()
    } else {
        format!("sha256-{}", names::short_hash(&[value], 32))
    }
}

/// When a certificate is renewed: at two thirds of its time.
#[must_use]
pub fn renew_at(from: Timestamp, until: Timestamp) -> Timestamp {
    let whole = until.duration_since(from).max(SignedDuration::ZERO);
    from.saturating_add(whole / 3 * 2).unwrap_or(until)
}

/// The next step of a healthy agent whose gateway has the Secret as it is; one rotation at a time.
#[must_use]
pub fn next(agent: &DesiredAgent, secret: &SecretFacts, now: Timestamp) -> Option<Rotation> {
    if secret.staged {
        return Some(Rotation::Promote);
    }
    if let Some(since) = secret.rotated_at {
        // One that is still to come was told by a wrong clock, or by somebody else: nobody waits for that.
        let is_over = retire_at(since) <= now || since > retire_at(now);
        return is_over.then_some(Rotation::Retire);
    }
    if let Some(asked) = asked(agent, secret) {
        return Some(Rotation::Stage { asked: asked.clone() });
    }
    let due = secret.renew_at.is_some_and(|renew_at| renew_at <= now);
    due.then_some(Rotation::Renew)
}

/// The token that somebody asks for and that was not made yet.
fn asked<'a>(agent: &'a DesiredAgent, secret: &SecretFacts) -> Option<&'a String> {
    let asked = agent.rotate_token.as_ref();
    asked.filter(|asked| secret.rotation.as_ref() != Some(asked))
}

/// What is said of a token that is asked for while what the last rotation replaced is still good; `None` when nobody waits.
#[must_use]
pub fn queued(agent: &DesiredAgent, secret: &SecretFacts) -> Option<String> {
    let since = secret.rotated_at?;
    asked(agent, secret).map(|_| {
        format!(
            "A new gateway token is asked for; it is made when what the last rotation replaced is dropped, at {:.0}.",
            retire_at(since)
        )
    })
}

/// When to look again because of the Secret alone.
#[must_use]
pub fn due_at(secret: &SecretFacts) -> Option<Timestamp> {
    secret.rotated_at.map(retire_at).or(secret.renew_at)
}

fn retire_at(since: Timestamp) -> Timestamp {
    SignedDuration::try_from(GRACE)
        .ok()
        .and_then(|grace| since.checked_add(grace).ok())
        .unwrap_or(since)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::KoiAgent;
    use crate::desired::{Desired, NamespaceFacts, Settings};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn agent(asked: Option<&str>) -> DesiredAgent {
        let annotations = asked.map(|asked| json!({"skykoi.io/rotate-token": asked}));
        let agent: KoiAgent = serde_json::from_value(json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "spec": {},
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "annotations": annotations},
        }))
        .unwrap();
        match Desired::resolve(&agent, None, &NamespaceFacts::default(), &Settings::default()).unwrap() {
            Desired::Present(agent) => *agent,
            Desired::Absent(_) => panic!("gone"),
        }
    }

    fn steps(asked: Option<&str>, secret: &SecretFacts, now: Timestamp) -> Option<Rotation> {
        next(&agent(asked), secret, now)
    }

    #[test]
    fn a_rotation_that_is_still_to_come_holds_nothing_up() {
        let retires = |seconds: i64| {
            let secret = SecretFacts {
                rotated_at: Some(at(seconds)),
                ..SecretFacts::default()
            };
            steps(Some("2"), &secret, at(0)) == Some(Rotation::Retire)
        };
        assert_eq!(
            [-121, -120, -119, 0, 120].map(retires),
            [true, true, false, false, false]
        );
        assert!(retires(121) && retires(10_000_000_000));
    }

    #[test]
    fn a_token_goes_through_two_slots() {
        let mut secret = SecretFacts {
            rotation: Some("1".into()),
            ..SecretFacts::default()
        };
        assert_eq!(steps(Some("1"), &secret, at(0)), None);
        assert_eq!(
            steps(None, &secret, at(0)),
            None,
            "an annotation that goes asks for nothing"
        );
        let stage = Rotation::Stage { asked: "2".into() };
        assert_eq!(steps(Some("2"), &secret, at(0)), Some(stage));
        (secret.staged, secret.rotation) = (true, Some("2".into()));
        assert_eq!(
            steps(Some("3"), &secret, at(0)),
            Some(Rotation::Promote),
            "one at a time"
        );
        (secret.staged, secret.rotated_at) = (false, Some(at(0)));
        assert_eq!(steps(Some("3"), &secret, at(119)), None);
        assert_eq!(due_at(&secret), Some(at(120)));
        assert_eq!(steps(Some("3"), &secret, at(120)), Some(Rotation::Retire));
        secret.rotated_at = None;
        assert_eq!(
            steps(Some("3"), &secret, at(120)),
            Some(Rotation::Stage { asked: "3".into() })
        );
    }

    #[test]
    fn a_second_token_waits_in_line_and_says_so() {
        let secret = SecretFacts {
            rotation: Some("2".into()),
            rotated_at: Some(at(0)),
            ..SecretFacts::default()
        };
        assert_eq!(queued(&agent(Some("2")), &secret), None);
        assert_eq!(queued(&agent(None), &secret), None);
        let told = queued(&agent(Some("3")), &secret).unwrap();
        assert!(told.ends_with(&format!("is dropped, at {:.0}.", at(120))), "{told}");
        let over = SecretFacts {
            rotated_at: None,
            ..secret
        };
        assert_eq!(queued(&agent(Some("3")), &over), None, "it is made now");
    }

    #[test]
    fn a_value_of_any_length_is_named_in_bounds() {
        let long = "x".repeat(100_000);
        assert_eq!((word("7"), word(&"x".repeat(253))), ("7".into(), "x".repeat(253)));
        assert!(word(&long).len() <= WORD_MAX);
        assert_ne!(word(&long), word(&format!("{long}y")), "another value is another word");
        assert_eq!(agent(Some(&long)).rotate_token, Some(word(&long)));
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_time() {
        let secret = SecretFacts {
            renew_at: Some(renew_at(at(0), at(300))),
            ..SecretFacts::default()
        };
        assert_eq!((steps(None, &secret, at(199)), due_at(&secret)), (None, Some(at(200))));
        assert_eq!(steps(None, &secret, at(200)), Some(Rotation::Renew));
        assert_eq!(renew_at(at(5), at(0)), at(5), "nonsense is due, not endless");
    }
}
