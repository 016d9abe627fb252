//! What the cloud refused an agent lately, and when each of it may be tried again.

use jiff::Timestamp;

use super::{Refusal, Retry};
use crate::api::Reason;
use crate::observed::Refused;

/// EC2's words for a type that it does not start here, however often it is asked.
const UNSUPPORTED: &[&str] = &["Unsupported", "UnsupportedOperation"];
/// The step that starts an instance.
const START: &str = "StartInstance";
/// The step that gives it a type.
const SET_TYPE: &str = "SetInstanceType";
/// Steps of which an agent has several at a time, each about a thing of its own. Of all others the newest refusal is the one that counts:
/// what they are about turns with the wish.
const MANY: &[&str] = &[
    "CreateTags",
    "CreateSnapshot",
    "DeleteBundle",
    "DeleteVolume",
    "RevokeIngress",
    "StopOrphan",
    "TerminateInstance",
];

/// The last refusal, and those before it that still wait: two steps that are both refused do not take turns without a pause.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    last: Option<Refused>,
    before: Vec<Refused>,
}

impl Standing {
    /// The pace that an earlier operator kept.
    #[must_use]
    pub fn restored(last: Option<Refused>) -> Self {
        Self {
            last,
            before: Vec::new(),
        }
    }

    /// The newest.
    #[must_use]
    pub fn last(&self) -> Option<&Refused> {
        self.last.as_ref()
    }

    /// Those before it, of other steps.
    #[must_use]
    pub fn before(&self) -> &[Refused] {
        &self.before
    }

    /// A step was refused. `about`: what exactly it was.
    pub fn refuse(&mut self, step: &'static str, about: Option<String>, refusal: Refusal, now: Timestamp) {
        // By class and not by code: whoever is refused in turn for two reasons is refused in a row.
        let count = self
            .of(step, about.as_deref())
            .filter(|refused| refused.refusal.retry == refusal.retry)
            .map_or(0, |refused| refused.count)
            .saturating_add(1);
        self.forget(step, about.as_deref());
        self.before.extend(self.last.take());
        let retry_at = refusal
            .pause(count)
            .map(|pause| now.checked_add(pause).unwrap_or(Timestamp::MAX));
        self.last = Some(Refused {
            refusal,
            step,
            about,
            count,
            retry_at,
        });
    }

    /// The last one may be tried again after a shorter pause, where there is one.
    pub fn try_elsewhere(&mut self, now: Timestamp) {
        if let Some(refused) = &mut self.last
            && let Some(pause) = refused.refusal.pause_elsewhere(refused.count)
        {
            refused.retry_at = Some(now.checked_add(pause).unwrap_or(Timestamp::MAX));
        }
    }

    /// The wish turned: everything may be tried at once.
    pub fn try_now(&mut self, now: Timestamp) {
        for refused in self.last.iter_mut().chain(&mut self.before) {
            refused.retry_at = Some(now);
        }
    }

    /// A step succeeded.
    pub fn succeed(&mut self, step: &str, about: Option<&str>) {
        self.forget(step, about);
        if self.last.is_none() {
            self.last = self.before.pop();
        }
    }

    /// The instance has its old type back, and what refused the start was about `instance_type`: that is tried again after an hour, since
    /// each try interrupts the agent, and what EC2 does not have here not before the wish turns.
    pub fn blame_type(&mut self, instance_type: &str, now: Timestamp) {
        let Some(start) = self.of(START, None).cloned() else {
            return;
        };
        self.forget(START, None);
        let never = start.refusal.reason == Reason::InvalidSpec || UNSUPPORTED.contains(&start.refusal.code.as_str());
        let refusal = if never {
            Refusal {
                reason: Reason::InvalidSpec,
                retry: Retry::Never,
                ..start.refusal
            }
        } else {
            Refusal {
                retry: Retry::Rare,
                ..start.refusal
            }
        };
        self.refuse(SET_TYPE, Some(instance_type.to_owned()), refusal, now);
    }

    /// Nothing of it is asked for any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn of(&self, step: &str, about: Option<&str>) -> Option<&Refused> {
        let mut all = self.last.iter().chain(&self.before);
        all.find(|refused| is_of(refused, step, about))
    }

    fn forget(&mut self, step: &str, about: Option<&str>) {
        self.last = self.last.take().filter(|refused| !is_of(refused, step, about));
        self.before.retain(|refused| !is_of(refused, step, about));
    }
}

/// Whether a refusal is in the row of such a step.
fn is_of(refused: &Refused, step: &str, about: Option<&str>) -> bool {
    let known = refused.about.as_deref();
    refused.step == step && (!MANY.contains(&step) || known.is_none() || about.is_none() || known == about)
}

#[cfg(test)]
mod tests {
    use super::super::classify;
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn refuse(standing: &mut Standing, step: &'static str, seconds: i64) {
        let refusal = classify(step, "UnauthorizedOperation", "");
        standing.refuse(step, Some("i-1".to_owned()), refusal, at(seconds));
    }

    fn counts(standing: &Standing) -> Vec<(&'static str, u32)> {
        let all = standing.last().into_iter().chain(standing.before());
        all.map(|refused| (refused.step, refused.count)).collect()
    }

    #[test]
    fn each_step_has_its_own_row_of_refusals() {
        let mut standing = Standing::default();
        refuse(&mut standing, "CreateTags", 0);
        refuse(&mut standing, "PutRolePolicy", 1);
        refuse(&mut standing, "CreateTags", 60);
        assert_eq!(counts(&standing), [("CreateTags", 2), ("PutRolePolicy", 1)]);
        assert_eq!(
            standing.before()[0].retry_at,
            Some(at(61)),
            "another refusal does not shorten its pause"
        );
        let throttled = classify("CreateTags", "RequestLimitExceeded", "");
        standing.refuse("CreateTags", Some("i-1".to_owned()), throttled, at(200));
        assert_eq!(
            counts(&standing),
            [("CreateTags", 1), ("PutRolePolicy", 1)],
            "another class is another row"
        );
    }

    #[test]
    fn what_an_agent_has_one_of_has_one_row_and_what_it_has_many_of_one_for_each() {
        let refuse = |standing: &mut Standing, step: &'static str, about: &str, seconds: i64| {
            let refusal = classify(step, "UnauthorizedOperation", "");
            standing.refuse(step, Some(about.to_owned()), refusal, at(seconds));
        };
        let mut one = Standing::default();
        refuse(&mut one, "SetInstanceType", "t3.large", 0);
        refuse(&mut one, "SetInstanceType", "t3.medium", 1);
        assert_eq!(counts(&one), [("SetInstanceType", 2)]);
        let mut many = Standing::default();
        refuse(&mut many, "StopOrphan", "i-1", 0);
        refuse(&mut many, "StopOrphan", "i-2", 1);
        assert_eq!(counts(&many), [("StopOrphan", 1), ("StopOrphan", 1)]);
        many.succeed("StopOrphan", Some("i-2"));
        assert_eq!(many.last().and_then(|refused| refused.about.as_deref()), Some("i-1"));
        many.succeed("StopOrphan", Some("i-1"));
        assert_eq!(many, Standing::default());
    }

    #[test]
    fn another_offering_is_tried_after_a_moment_where_capacity_is_missing() {
        for (code, waits) in [("InsufficientInstanceCapacity", 1), ("UnauthorizedOperation", 60)] {
            let mut standing = Standing::default();
            standing.try_elsewhere(at(0));
            assert_eq!(standing, Standing::default(), "nothing was refused");
            let refusal = classify("RunInstances", code, "");
            standing.refuse("RunInstances", Some("1-1".to_owned()), refusal, at(0));
            let refused = standing.last().cloned().unwrap();
            standing.try_elsewhere(at(0));
            let sooner = Refused {
                retry_at: Some(at(waits)),
                ..refused
            };
            assert_eq!(standing, Standing::restored(Some(sooner)), "{code}");
        }
    }

    #[test]
    fn what_succeeds_or_is_wished_anew_does_not_wait() {
        let mut standing = Standing::default();
        refuse(&mut standing, "CreateTags", 0);
        refuse(&mut standing, "PutRolePolicy", 1);
        standing.succeed("StartInstance", None);
        assert_eq!(counts(&standing), [("PutRolePolicy", 1), ("CreateTags", 1)]);
        let mut wished = standing.clone();
        wished.try_now(at(5));
        let all = wished.last().into_iter().chain(wished.before());
        assert!(all.into_iter().all(|refused| refused.retry_at == Some(at(5))));
        standing.succeed("PutRolePolicy", None);
        assert_eq!(counts(&standing), [("CreateTags", 1)]);
        standing.succeed("CreateTags", Some("i-1"));
        assert_eq!(standing, Standing::default());
    }

    #[test]
    fn things_of_one_kind_have_rows_of_their_own_and_wishes_that_turn_have_one() {
        let denied = |step| classify(step, "UnauthorizedOperation", "");
        let mut tags = Standing::default();
        for (thing, seconds) in [("i-1", 0), ("vol-1", 1), ("i-1", 60)] {
            tags.refuse("CreateTags", Some(thing.to_owned()), denied("CreateTags"), at(seconds));
        }
        assert_eq!(counts(&tags), [("CreateTags", 2), ("CreateTags", 1)]);
        tags.succeed("CreateTags", Some("i-1"));
        assert_eq!(tags.last().and_then(|refused| refused.about.as_deref()), Some("vol-1"));
        let mut launches = Standing::default();
        for attempt in ["1-1", "1-2"] {
            launches.refuse("RunInstances", Some(attempt.to_owned()), denied("RunInstances"), at(0));
        }
        assert_eq!(counts(&launches), [("RunInstances", 2)], "one pace for all");
        launches.succeed("RunInstances", Some("1-3"));
        assert_eq!(launches, Standing::default());
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_forgotten() {
        let mut standing = Standing::default();
        refuse(&mut standing, "CreateTags", 0);
        refuse(&mut standing, "PutRolePolicy", 1);
        standing.clear();
        assert_eq!(standing, Standing::default());
    }
}
