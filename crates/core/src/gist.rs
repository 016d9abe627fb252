//! The gist of an agent: what is asked of all agents together after each sweep, so that nobody looks at ten thousand whole objects for it.

use crate::api::{ActionKind, ConditionType, KoiAgent, KoiAgentStatus, Reason};

/// A few facts of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gist {
    /// The plan that its spec names.
    pub plan_ref: Option<Box<str>>,
    /// It was resolved at least once.
    pub resolved: bool,
    /// The plan that it was last resolved with.
    pub plan: Option<Box<str>>,
    /// The image parameter that it was resolved with.
    pub image_parameter: Option<Box<str>>,
    /// The instance that its status names.
    pub instance: Option<Box<str>>,
    /// The instance that its bundle was written for, where that is another one.
    pub bundle_of: Option<Box<str>>,
    /// The data volume that its status names.
    pub volume: Option<Box<str>>,
    /// A change that interrupts it is under way.
    pub interrupted: bool,
    /// Its conditions; only words that this version knows.
    pub conditions: Box<[Told]>,
}

/// One condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub kind: ConditionType,
    /// What of it.
    pub state: State,
    /// Why.
    pub reason: Reason,
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

impl State {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Gist {
    /// That of an agent.
    #[must_use]
    pub fn of(agent: &KoiAgent) -> Self {
        let plan_ref = agent.spec.plan_ref.as_ref().map(|plan_ref| boxed(&plan_ref.name));
        let status = agent.status.as_ref();
        status.map_or_else(Self::default, Self::of_status).with(plan_ref)
    }

    fn with(self, plan_ref: Option<Box<str>>) -> Self {
        Self { plan_ref, ..self }
    }

    fn of_status(status: &KoiAgentStatus) -> Self {
        let resolved = status.resolved.as_ref();
        let instance = status.instance.as_ref().map(|instance| boxed(&instance.id));
        let bundle_of = status.bundle.as_ref().map(|bundle| boxed(&bundle.instance_id));
        let planned = status.planned_action.as_ref();
        Self {
            plan_ref: None,
            resolved: resolved.is_some(),
            plan: resolved.and_then(|resolved| resolved.plan.as_deref()).map(boxed),
            image_parameter: resolved
                .and_then(|resolved| resolved.image_parameter.as_deref())
                .map(boxed),
            bundle_of: bundle_of.filter(|id| Some(id) != instance.as_ref()),
            instance,
            volume: status.volume.as_ref().map(|volume| boxed(&volume.id)),
            interrupted: planned
                .is_some_and(|planned| planned.waiting_for.is_none() && planned.kind != ActionKind::HotPush),
            conditions: conditions(status),
        }
    }

    /// Why the agent is ready or not: the one word for it.
    #[must_use]
    pub fn headline(&self) -> Reason {
        let of = |kind| self.conditions.iter().find(|told| told.kind == kind);
        of(ConditionType::Ready)
            .or_else(|| of(ConditionType::Suspended))
            .map_or(Reason::Pending, |told| told.reason)
    }
}

fn conditions(status: &KoiAgentStatus) -> Box<[Told]> {
    let known = status.conditions.iter().filter_map(|condition| {
        let kind = ConditionType::ALL
            .iter()
            .find(|kind| kind.as_str() == condition.type_)?;
        let reason = Reason::ALL.iter().find(|reason| reason.as_str() == condition.reason)?;
        let states = [State::True, State::False];
        let state = states.into_iter().find(|state| state.as_str() == condition.status);
        Some(Told {
            kind: *kind,
            state: state.unwrap_or(State::Unknown),
            reason: *reason,
        })
    });
    known.collect()
}

fn boxed(text: &str) -> Box<str> {
    text.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent(status: &serde_json::Value) -> KoiAgent {
        let object = json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": { "name": "a" },
            "spec": { "planRef": { "name": "gold" } }, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str) -> serde_json::Value {
        json!({ "type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-11-21T10:00:00Z" })
    }

    #[test]
    fn it_holds_what_is_asked_of_all() {
        let status = json!({
            "observedGeneration": 1,
            "conditions": [condition("Ready", "Unknown", "Launching"), condition("Odd", "True", "Launching"), condition("Launched", "True", "Odd")],
            "resolved": { "plan": "silver", "imageParameter": "/images/a" },
            "instance": { "id": "i-1" },
            "bundle": { "instanceId": "i-1", "sha256": "x" },
            "volume": { "id": "vol-1" },
        });
        let gist = Gist::of(&agent(&status));
        let told = Told {
            kind: ConditionType::Ready,
            state: State::Unknown,
            reason: Reason::Launching,
        };
        let expected = Gist {
            plan_ref: Some("gold".into()),
            resolved: true,
            plan: Some("silver".into()),
            image_parameter: Some("/images/a".into()),
            instance: Some("i-1".into()),
            bundle_of: None,
            volume: Some("vol-1".into()),
            interrupted: false,
            conditions: [told].into(),
        };
        assert_eq!(gist, expected);
        assert_eq!(gist.headline(), Reason::Launching);
        assert_eq!(Gist::default().headline(), Reason::Pending);
    }

    #[test]
    fn the_instance_of_an_older_bundle_is_remembered_too() {
        let status = json!({ "observedGeneration": 1, "instance": { "id": "i-2" }, "bundle": { "instanceId": "i-1", "sha256": "x" } });
        let gist = Gist::of(&agent(&status));
        assert_eq!(gist.bundle_of.as_deref(), Some("i-1"));
    }

    #[test]
    fn a_condition_is_told_in_the_words_of_the_api() {
        for (word, state) in [
            ("True", State::True),
            ("False", State::False),
            ("Unknown", State::Unknown),
        ] {
            let status = json!({ "observedGeneration": 1, "conditions": [condition("Ready", word, "Launching")] });
            let gist = Gist::of(&agent(&status));
            assert_eq!((gist.conditions[0].state, state.as_str()), (state, word));
        }
    }

    #[test]
    fn the_headline_is_that_of_ready_else_of_suspended() {
        let headline = |conditions: serde_json::Value| {
            Gist::of(&agent(&json!({ "observedGeneration": 1, "conditions": conditions }))).headline()
        };
        let stalled = || condition("Stalled", "False", "Settled");
        let suspended = || condition("Suspended", "True", "Suspended");
        let ready = || condition("Ready", "False", "Booting");
        assert_eq!(headline(json!([stalled(), suspended(), ready()])), Reason::Booting);
        assert_eq!(headline(json!([stalled(), suspended()])), Reason::Suspended);
        assert_eq!(headline(json!([stalled()])), Reason::Pending);
    }

    #[test]
    fn only_a_change_that_is_under_way_and_takes_the_agent_away_interrupts_it() {
        let interrupted = |kind: &str, waiting_for: Option<&str>| {
            let action =
                json!({ "kind": kind, "reason": "r", "since": "2026-11-21T10:00:00Z", "waitingFor": waiting_for });
            Gist::of(&agent(&json!({ "observedGeneration": 1, "plannedAction": action }))).interrupted
        };
        for kind in ["Restart", "StopStart", "Replace"] {
            assert!(interrupted(kind, None), "{kind}");
            assert!(!interrupted(kind, Some("consent")), "{kind} waits");
        }
        assert!(!interrupted("HotPush", None));
        assert!(!interrupted("HotPush", Some("a place")));
    }
}
