//! Events, told by ourselves: a recorder keeps each of the last minutes whole, for all agents in one map that it looks through at each of
//! them. What has to be known of an Event to tell a second one of its kind as more of the first is its name.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use koi_core::api::Reason;
use koi_core::status::{EventFacts, EventType};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::events::Reporter;
use serde_json::json;

use crate::clock::since;

/// One more of a kind within this is told as more of the first.
const SERIES: Duration = Duration::from_secs(360);

/// What was told of one agent in the last minutes.
#[derive(Debug, Default)]
pub(super) struct Series(Vec<Told>);

/// One Event, or a series of one kind.
#[derive(Clone, Copy, Debug)]
struct Told {
    reason: Reason,
    action: &'static str,
    /// The first one's time, which is in its name.
    first: Timestamp,
    last: Timestamp,
    count: i32,
}

/// How an Event is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// As a new one.
    New,
    /// As more of the one that was first told at this time; so many by now.
    More(Timestamp, i32),
}

impl Series {
    /// Notes that an Event is told now; answers how.
    pub(super) fn next(&mut self, facts: &EventFacts, now: Timestamp) -> Telling {
        self.forget_old(now);
        let same = |told: &&mut Told| told.reason == facts.reason && told.action == facts.action;
        if let Some(told) = self.0.iter_mut().find(same) {
            (told.last, told.count) = (now, told.count.saturating_add(1));
            return Telling::More(told.first, told.count);
        }
        self.0.push(Told {
            reason: facts.reason,
            action: facts.action,
            first: now,
            last: now,
            count: 1,
        });
        Telling::New
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.capacity() == 0
    }

    /// What was told longer ago is not added to, and need not be known.
    pub(super) fn forget_old(&mut self, now: Timestamp) {
        self.0.retain(|told| since(told.last, now) < SERIES);
        self.0.shrink_to_fit();
    }
}

/// Tells an Event.
///
/// # Errors
/// What the API server says against it.
pub(crate) async fn publish(
    (client, reporter): (&Client, &Reporter),
    regarding: &ObjectReference,
    facts: &EventFacts,
    telling: Telling,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let events: Api<Event> = Api::namespaced(client.clone(), regarding.namespace.as_deref().unwrap_or("default"));
    if let Telling::More(first, count) = telling {
        let series = EventSeries {
            count,
            last_observed_time: MicroTime(now),
        };
        let more = Patch::Merge(json!({ "series": series }));
        match events
            .patch(&name(regarding, first), &PatchParams::default(), &more)
            .await
        {
            // Somebody deleted it.
            Err(kube::Error::Api(refused)) if refused.is_not_found() => {}
            answer => return answer.map(drop),
        }
    }
    let event = event(regarding, reporter, facts, now);
    events.create(&PostParams::default(), &event).await.map(drop)
}

fn name(regarding: &ObjectReference, first: Timestamp) -> String {
    let about = regarding.name.as_deref().unwrap_or("koi-operator");
    format!("{about}.{:x}", first.as_nanosecond())
}

fn event(regarding: &ObjectReference, reporter: &Reporter, facts: &EventFacts, now: Timestamp) -> Event {
    let type_ = match facts.type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(name(regarding, now)),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some(facts.action.to_owned()),
        reason: Some(facts.reason.as_str().to_owned()),
        note: Some(facts.note.clone()),
        type_: Some(type_.to_owned()),
        event_time: Some(MicroTime(now)),
        regarding: Some(regarding.clone()),
        reporting_controller: Some(reporter.controller.clone()),
        reporting_instance: Some(reporter.instance.clone().unwrap_or_else(|| reporter.controller.clone())),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn facts(reason: Reason, note: &str) -> EventFacts {
        EventFacts {
            type_: EventType::Warning,
            reason,
            action: "Probe",
            note: note.to_owned(),
        }
    }

    #[test]
    fn the_second_of_a_kind_is_more_of_the_first_and_minutes_later_it_is_not() {
        let mut series = Series::default();
        let (silent, well) = (
            facts(Reason::GatewayUnreachable, "no answer"),
            facts(Reason::Ready, "well"),
        );
        assert_eq!(series.next(&silent, at(0)), Telling::New);
        assert_eq!(series.next(&well, at(10)), Telling::New);
        assert_eq!(series.next(&silent, at(20)), Telling::More(at(0), 2));
        assert_eq!(series.next(&silent, at(379)), Telling::More(at(0), 3));
        assert_eq!(series.0.len(), 1, "that it was well is long ago");
        assert_eq!(series.next(&silent, at(739)), Telling::New);
        series.forget_old(at(1099));
        assert!(series.is_empty(), "a settled agent has nothing of it");
    }

    #[test]
    fn an_event_says_all_that_was_found() {
        let regarding = ObjectReference {
            kind: Some("KoiAgent".to_owned()),
            namespace: Some("team-a".to_owned()),
            name: Some("one".to_owned()),
            uid: Some("u-1".to_owned()),
            ..ObjectReference::default()
        };
        let reporter = Reporter {
            controller: "koi-operator".to_owned(),
            instance: Some("pod-1".to_owned()),
        };
        let told = event(
            &regarding,
            &reporter,
            &facts(Reason::GatewayUnreachable, "no answer"),
            at(0),
        );
        let expected = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": { "name": "one.18fae27693b40000", "namespace": "team-a" },
            "action": "Probe", "reason": "GatewayUnreachable", "note": "no answer", "type": "Warning",
            "eventTime": "2027-01-15T08:00:00.000000Z", "regarding": { "kind": "KoiAgent", "namespace": "team-a", "name": "one", "uid": "u-1" },
            "reportingController": "koi-operator", "reportingInstance": "pod-1",
        });
        assert_eq!(serde_json::to_value(&told).unwrap(), expected);
    }
}
