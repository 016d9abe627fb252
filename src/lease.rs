//! Leader election: one Lease, renewed often, given back at the end.
//!
//! What others wrote is judged by how long *we* have seen it unchanged, never by comparing their clock with ours. Leadership ends by
//! our own clock before anybody else may take over, so that [`Leadership::holds`] can be asked before each write to the cloud.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;

/// Name of the Lease in the operator's namespace.
pub const LEASE: &str = "koi-operator";
/// For so long nobody else may take over after the last renewal.
const DURATION: Duration = Duration::from_secs(10);
/// The longest that a Lease of somebody else is waited for without being renewed, whatever is written in it.
const LONGEST: Duration = Duration::from_secs(60);
/// How often the holder renews and the others look.
const RENEW: Duration = Duration::from_secs(2);
/// How long an attempt may take: two of them fit into what is left of the Lease.
const ATTEMPT: Duration = Duration::from_secs(3);
/// By our own clock leadership ends this much earlier than others may begin theirs.
const MARGIN: Duration = Duration::from_secs(2);

/// Whether this process leads, and until when.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Leads for ever: without leader election.
    #[must_use]
    pub fn always() -> Self {
        let (sender, receiver) = watch::channel(Some(Instant::now() + Duration::from_secs(60 * 60 * 24 * 365 * 30)));
        drop(sender);
        Self(receiver)
    }

    /// Whether this process leads now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until it leads.
    pub async fn acquired(&mut self) {
        while !self.holds() {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until it no longer leads.
    pub async fn lost(&mut self) {
        loop {
            let until = *self.0.borrow_and_update();
            let Some(until) = until.filter(|until| Instant::now() < *until) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                changed = self.0.changed() => {
                    if changed.is_err() {
                        tokio::time::sleep_until(until).await;
                    }
                }
            }
        }
    }
}

/// The one who tries to hold the Lease.
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    clock: Clock,
    sender: watch::Sender<Option<Instant>>,
    seen: Option<Seen>,
}

/// A record of somebody else, and since when we see it unchanged.
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

/// What to do about the Lease as it is.
#[derive(Debug, PartialEq)]
enum Move {
    /// There is none, or it is ours, or it has run out: write this.
    Write(Box<LeaseSpec>),
    /// Somebody holds it.
    Wait,
}

impl Candidate {
    /// A candidate and what it tells.
    #[must_use]
    pub fn new(api: Api<Lease>, identity: String, clock: Clock) -> (Self, Leadership) {
        let (sender, receiver) = watch::channel(None);
        (
            Self {
                api,
                identity,
                clock,
                sender,
                seen: None,
            },
            Leadership(receiver),
        )
    }

    /// Tries to hold the Lease until `stop`, then gives it back.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let started = Instant::now();
            let mut pause = RENEW;
            let attempt = tokio::select! {
                biased;
                () = &mut stop => break,
                attempt = tokio::time::timeout(ATTEMPT, self.attempt(started)) => attempt,
            };
            match attempt {
                Ok(Ok(true)) => drop(self.sender.send_replace(Some(started + DURATION - MARGIN))),
                Ok(Ok(false)) => drop(self.sender.send_replace(None)),
                // What we hold runs out by itself; until then the next attempt may work.
                Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be renewed"),
                // A connection that nobody answers on is given up with the question: the next one goes another way.
                Err(_) => {
                    tracing::warn!("the Lease could not be renewed: the API server does not answer");
                    pause = Duration::ZERO;
                }
            }
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.give_back().await;
    }

    async fn attempt(&mut self, now: Instant) -> kube::Result<bool> {
        let found = self.api.get_opt(LEASE).await?;
        let unchanged_for = self.watch(found.as_ref(), now);
        let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
        let Move::Write(spec) = decide(spec, &self.identity, unchanged_for, self.clock.now()) else {
            return Ok(false);
        };
        let ours = found
            .as_ref()
            .and_then(|lease| lease.spec.as_ref()?.holder_identity.as_ref())
            == Some(&self.identity);
        let written = match found {
            // The resourceVersion of what we read makes this conditional.
            Some(mut lease) => {
                lease.spec = Some(*spec);
                self.api.replace(LEASE, &PostParams::default(), &lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(LEASE.to_owned()),
                    ..ObjectMeta::default()
                };
                self.api
                    .create(
                        &PostParams::default(),
                        &Lease {
                            metadata,
                            spec: Some(*spec),
                        },
                    )
                    .await
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody was quicker. Where it was ours that may have been our own write, which we gave up waiting for: it runs out by our clock.
            Err(kube::Error::Api(status)) if !ours && (status.is_conflict() || status.is_already_exists()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// For how long the record has not changed before our eyes.
    fn watch(&mut self, found: Option<&Lease>, now: Instant) -> Duration {
        let Some(spec) = found.and_then(|lease| lease.spec.clone()) else {
            self.seen = None;
            return Duration::ZERO;
        };
        match &self.seen {
            Some(seen) if seen.spec == spec => now - seen.since,
            _ => {
                self.seen = Some(Seen { spec, since: now });
                Duration::ZERO
            }
        }
    }

    async fn give_back(&mut self) {
        let held = self.sender.send_replace(None).is_some();
        if !held {
            return;
        }
        if let Err(error) = self.released().await {
            tracing::warn!(%error, "the Lease could not be given back; it runs out by itself");
        }
    }

    async fn released(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(LEASE).await? else {
            return Ok(());
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        else {
            return Ok(());
        };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        self.api.replace(LEASE, &PostParams::default(), &lease).await.map(drop)
    }
}

/// Pure: what to do about the Lease as it is.
fn decide(found: Option<&LeaseSpec>, identity: &str, unchanged_for: Duration, now: Timestamp) -> Move {
    let holder = found
        .and_then(|spec| spec.holder_identity.as_deref())
        .filter(|holder| !holder.is_empty());
    let ours = holder == Some(identity);
    let promised = found
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok());
    let promised = promised.map_or(DURATION, Duration::from_secs).min(LONGEST);
    if !ours && holder.is_some() && unchanged_for < promised {
        return Move::Wait;
    }
    let transitions = found.and_then(|spec| spec.lease_transitions).unwrap_or_default();
    let acquired = found.and_then(|spec| spec.acquire_time.clone()).filter(|_| ours);
    Move::Write(Box::new(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if ours || found.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn lease(holder: Option<&str>, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(Into::into),
            lease_duration_seconds: Some(10),
            acquire_time: Some(MicroTime(at(0))),
            renew_time: Some(MicroTime(at(0))),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    fn ours(acquired: i64, renewed: i64, transitions: i32) -> Move {
        let spec = lease(Some("me"), transitions);
        Move::Write(Box::new(LeaseSpec {
            acquire_time: Some(MicroTime(at(acquired))),
            renew_time: Some(MicroTime(at(renewed))),
            ..spec
        }))
    }

    #[test]
    fn a_lease_is_taken_only_when_nobody_holds_it() {
        let wait = Duration::from_secs;
        assert_eq!(decide(None, "me", wait(0), at(5)), ours(5, 5, 0), "none there");
        assert_eq!(
            decide(Some(&lease(Some("me"), 3)), "me", wait(0), at(5)),
            ours(0, 5, 3),
            "renewed"
        );
        assert_eq!(
            decide(Some(&lease(Some("you"), 3)), "me", wait(9), at(500)),
            Move::Wait,
            "held, whatever the clocks say"
        );
        assert_eq!(
            decide(Some(&lease(Some("you"), 3)), "me", wait(10), at(5)),
            ours(5, 5, 4),
            "run out"
        );
        assert_eq!(
            decide(Some(&lease(None, 3)), "me", wait(0), at(5)),
            ours(5, 5, 4),
            "given back"
        );
        let endless = LeaseSpec {
            lease_duration_seconds: Some(i32::MAX),
            ..lease(Some("you"), 3)
        };
        assert_eq!(decide(Some(&endless), "me", wait(59), at(5)), Move::Wait);
        assert_eq!(
            decide(Some(&endless), "me", wait(60), at(5)),
            ours(5, 5, 4),
            "nobody holds it for ever"
        );
    }

    #[tokio::test]
    async fn leadership_ends_by_itself_when_nobody_renews_it() {
        let (sender, receiver) = watch::channel(None);
        let mut leadership = Leadership(receiver);
        assert!(!leadership.holds());
        sender.send_replace(Some(Instant::now() + DURATION));
        leadership.acquired().await;
        assert!(leadership.holds());
        sender.send_replace(Some(Instant::now() + Duration::from_millis(5)));
        leadership.lost().await;
        assert!(!leadership.holds());
        assert!(Leadership::always().holds());
    }
}
