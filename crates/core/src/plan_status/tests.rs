#![allow(clippy::needless_pass_by_value, reason = "tables read better so")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{PlanFacts, PlanUse, plan_status, plan_uses};
use crate::api::{KoiAgent, KoiPlan, KoiPlanStatus};
use crate::desired::{Settings, shared_models};
use crate::gist::Gist;
use crate::observed::Place;

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

fn plan(name: &str, created: i64, spec: Value) -> KoiPlan {
    let metadata = json!({"name": name, "generation": 5, "creationTimestamp": crate::status::time(at(created))});
    let kind = json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": metadata, "spec": spec});
    serde_json::from_value(kind).unwrap()
}

fn agent(spec: Value, resolved: Value) -> KoiAgent {
    let status = json!({"observedGeneration": 1, "resolved": resolved});
    let kind = json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": {"name": "ada"}, "spec": spec, "status": status});
    serde_json::from_value(kind).unwrap()
}

fn place() -> Place {
    Place {
        account: "123456789012".into(),
        region: "eu-west-1".into(),
    }
}

struct World {
    place: Option<Place>,
    images: BTreeMap<String, String>,
}

impl World {
    fn known() -> Self {
        Self {
            place: Some(place()),
            images: BTreeMap::from([("/images/a".to_owned(), "ami-1".to_owned())]),
        }
    }

    fn status(
        &self,
        plans: &[KoiPlan],
        index: usize,
        used: &PlanUse,
        previous: Option<&KoiPlanStatus>,
        now: i64,
    ) -> KoiPlanStatus {
        let settings = Settings {
            cluster_id: "demo".into(),
            shared_models: shared_models(plans, false),
            ..Settings::default()
        };
        let facts = PlanFacts {
            place: self.place.as_ref(),
            refused: None,
            images: &self.images,
            settings: &settings,
        };
        plan_status(&plans[index], plans, used, previous, &facts, at(now))
    }
}

fn used(agents: i32, parameters: &[&str]) -> PlanUse {
    PlanUse {
        agents,
        image_parameters: parameters.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Type, status and reason of each condition.
fn told(status: &KoiPlanStatus) -> Vec<String> {
    let told = status.conditions.iter();
    told.map(|said| format!("{}={} {}", said.type_, said.status, said.reason))
        .collect()
}

const GOOD: [&str; 3] = ["Ready=True Ready", "Reconciling=False Settled", "Stalled=False Settled"];

#[test]
fn a_usable_plan_is_told_whole() {
    let models = json!({"models": ["amazon-bedrock/a"]});
    let plans = [plan(
        "gold",
        1,
        json!({"limits": models, "defaults": {"model": {"id": "amazon-bedrock/a"}}}),
    )];
    let status = World::known().status(&plans, 0, &used(2, &["/images/a", "/images/b"]), None, 9);
    assert_eq!(told(&status), GOOD);
    let mut rest = serde_json::to_value(&status).unwrap();
    rest.as_object_mut().unwrap().remove("conditions");
    assert_eq!(
        rest,
        json!({
            "observedGeneration": 5, "agents": 2, "cloud": {"account": "123456789012", "region": "eu-west-1"},
            "images": [{"ssmParameter": "/images/a", "id": "ami-1"}],
            "modelArns": ["arn:aws:bedrock:eu-west-1::foundation-model/a"],
        })
    );
    assert!(
        status
            .conditions
            .iter()
            .all(|said| said.observed_generation == Some(5) && said.last_transition_time.0 == at(9))
    );
}

#[test]
fn a_plan_that_contradicts_itself_is_not_ready_and_says_why() {
    let cases = [
        (
            json!({"limits": {"models": ["amazon-bedrock/a"]}, "defaults": {"model": {"id": "amazon-bedrock/b"}}}),
            "PlanInvalid",
            "amazon-bedrock/b",
        ),
        (
            json!({"limits": {"instanceTypes": ["t3.*"]}, "defaults": {"instance": {"type": "m7i.large"}}}),
            "PlanInvalid",
            "m7i.large",
        ),
        (
            json!({"limits": {"maxDataVolumeGiB": 10}, "defaults": {"storage": {"dataVolumeGiB": 11}}}),
            "PlanInvalid",
            "11 GiB",
        ),
        (
            json!({"limits": {"ingressCidrs": ["10.0.0.0/8"]}, "defaults": {"network": {"ingressCidrs": ["192.0.2.0/24"]}}}),
            "PlanInvalid",
            "192.0.2.0/24",
        ),
        (json!({"boot": {"deadline": "soon"}}), "PlanInvalid", "boot.deadline"),
        (
            json!({"allowedNamespaces": {"matchLabels": {"a b": "gold"}}}),
            "PlanInvalid",
            "spec.allowedNamespaces: \"a b\" is no label key",
        ),
        (
            json!({"defaults": {"gateway": {"config": {"nonsense": 1}}}}),
            "ConfigRejected",
            "nonsense",
        ),
    ];
    for (spec, reason, word) in cases {
        let plans = [plan("gold", 1, spec.clone())];
        let status = World::known().status(&plans, 0, &used(0, &[]), None, 9);
        let expected = [
            format!("Ready=False {reason}"),
            "Reconciling=False Settled".to_owned(),
            format!("Stalled=True {reason}"),
        ];
        assert_eq!(told(&status), expected, "{spec}");
        assert!(status.conditions[0].message.contains(word), "{:?}", status.conditions);
    }
}

#[test]
fn whom_a_plan_admits_does_not_make_it_invalid() {
    let plans = [plan(
        "gold",
        1,
        json!({"allowedNamespaces": {"matchLabels": {"tier": "gold"}}}),
    )];
    assert_eq!(told(&World::known().status(&plans, 0, &used(0, &[]), None, 9)), GOOD);
}

#[test]
fn of_two_default_plans_the_younger_is_told_that_an_older_exists() {
    let mut plans = [
        plan("young", 7, json!({"default": true})),
        plan("old", 3, json!({"default": true})),
        plan("plain", 1, json!({})),
    ];
    let last = |plans: &[KoiPlan], index| {
        let status = World::known().status(plans, index, &used(0, &[]), None, 9);
        assert_eq!(told(&status)[..3], GOOD);
        told(&status).get(3).cloned()
    };
    assert_eq!(last(&plans, 0).as_deref(), Some("Default=False OlderDefaultExists"));
    assert_eq!(last(&plans, 1).as_deref(), Some("Default=True DefaultPlan"));
    assert_eq!(last(&plans, 2), None);
    plans[1].metadata.deletion_timestamp = Some(crate::status::time(at(8)));
    assert_eq!(last(&plans, 0).as_deref(), Some("Default=True DefaultPlan"));
    assert_eq!(last(&plans, 1).as_deref(), Some("Default=False Deleting"));
}

#[test]
fn the_same_input_gives_the_same_status_and_a_change_its_own_time() {
    let world = World::known();
    let mut plans = [plan("gold", 1, json!({}))];
    let first = world.status(&plans, 0, &used(1, &["/images/a"]), None, 9);
    let again = world.status(&plans, 0, &used(1, &["/images/a"]), Some(&first), 50);
    assert_eq!(first, again);
    plans[0].spec.boot = Some(serde_json::from_value(json!({"deadline": "soon"})).unwrap());
    let broken = world.status(&plans, 0, &used(1, &["/images/a"]), Some(&again), 60);
    let times: Vec<_> = broken
        .conditions
        .iter()
        .map(|said| said.last_transition_time.0)
        .collect();
    assert_eq!(times, [at(60), at(9), at(60)]);
}

#[test]
fn what_the_cloud_does_not_say_now_stays() {
    let plans = [plan("gold", 1, json!({}))];
    let first = World::known().status(&plans, 0, &used(1, &["/images/a"]), None, 9);
    let silent = World {
        place: None,
        images: BTreeMap::new(),
    };
    assert!(first.cloud.is_some() && !first.images.is_empty() && !first.model_arns.is_empty());
    assert_eq!(
        silent.status(&plans, 0, &used(1, &["/images/a"]), Some(&first), 50),
        first
    );
    let unknown = silent.status(&plans, 0, &used(1, &["/images/a"]), None, 9);
    assert_eq!(
        (unknown.cloud, unknown.images, unknown.model_arns),
        (None, Vec::new(), Vec::new())
    );
}

#[test]
fn a_role_for_each_agent_has_no_list_of_its_own_in_the_plan() {
    let plans = [plan("gold", 1, json!({"identity": {"mode": "PerAgent"}}))];
    let status = World::known().status(&plans, 0, &used(1, &[]), None, 9);
    assert_eq!(status.model_arns, Vec::<String>::new());
}

#[test]
fn agents_count_for_the_plan_they_name_or_else_for_the_default_one() {
    let plans = [
        plan("young", 7, json!({"default": true})),
        plan("old", 3, json!({"default": true})),
        plan("silver", 1, json!({})),
    ];
    let agents = [
        agent(json!({}), json!({"plan": "old", "imageParameter": "/images/a"})),
        agent(json!({}), json!({"plan": "silver", "imageParameter": "/images/stale"})),
        agent(json!({"planRef": {"name": "silver"}}), json!({"plan": "silver"})),
        agent(json!({"planRef": {"name": "nobody"}}), json!({})),
    ];
    let expected = BTreeMap::from([
        ("old".to_owned(), used(2, &["/images/a"])),
        ("silver".to_owned(), used(1, &[])),
    ]);
    let agents: Vec<Gist> = agents.iter().map(Gist::of).collect();
    assert_eq!(plan_uses(&plans, &agents), expected);
    assert_eq!(plan_uses(&plans[2..], &agents[..1]), BTreeMap::new());
}
