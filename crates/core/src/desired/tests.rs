#![allow(
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    reason = "tables are long and read from top to bottom"
)]

use koi_wire::config::{check, variables};
use kube::ResourceExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    CloudWish, Desired, DesiredAgent, Farewell, ImageWish, NamespaceFacts, Settings, default_plan, plan_account,
    shared_models, whereabouts,
};
use std::collections::BTreeMap;

use crate::api::{DeletionPolicy, KoiAgent, KoiAgentStatus, KoiPlan, LaunchStatus, Reason, annotations};
use crate::names;
use crate::observed::Source;
use crate::render::identity::BundleScope;
use crate::render::user_data::Artifact;

fn settings() -> Settings {
    Settings {
        cluster_id: "demo".into(),
        device_public_key: "key".into(),
        ..Settings::default()
    }
}

fn agent(spec: Value) -> KoiAgent {
    let metadata = json!({"name": "ada", "namespace": "team", "uid": "uid-1", "generation": 3});
    serde_json::from_value(
        json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": metadata, "spec": spec}),
    )
    .unwrap()
}

fn plan(spec: Value) -> KoiPlan {
    let metadata = json!({"name": "gold", "generation": 5});
    serde_json::from_value(
        json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": metadata, "spec": spec}),
    )
    .unwrap()
}

fn resolve(spec: Value, planned: Option<Value>) -> Result<Desired, super::Why> {
    let planned = planned.map(plan);
    Desired::resolve(&agent(spec), planned.as_ref(), &NamespaceFacts::default(), &settings())
}

fn present(spec: Value, planned: Option<Value>) -> DesiredAgent {
    match resolve(spec, planned) {
        Ok(Desired::Present(agent)) => *agent,
        other => panic!("{other:?}"),
    }
}

fn refused(spec: Value, planned: Value) -> (Reason, String) {
    let why = resolve(spec, Some(planned)).unwrap_err();
    (why.reason, why.message)
}

#[test]
fn without_a_plan_the_built_in_defaults_apply() {
    let agent = present(json!({}), None);
    assert_eq!(agent.model, "amazon-bedrock/us.anthropic.claude-opus-4-6-v1");
    assert_eq!(agent.instance_type, "t3.small");
    assert!(
        matches!(&agent.image, ImageWish::Parameter(name) if name.starts_with("/aws/service/canonical/ubuntu/server/22.04"))
    );
    assert_eq!(
        (agent.storage.size_gib, agent.storage.deletion_policy),
        (20, DeletionPolicy::Snapshot)
    );
    assert_eq!(
        (agent.ingress.cidrs.clone(), agent.public_address, agent.plan.clone()),
        (None, None, None)
    );
    assert_eq!(
        (agent.identity.profile.as_str(), agent.identity.scope.clone()),
        ("skykoi-tenant-agent-profile", BundleScope::SharedByInstance)
    );
    assert_eq!(
        (agent.boot_deadline.as_secs(), agent.generation, agent.paused),
        (600, 3, false)
    );
    assert!(agent.role_models.contains("*") && agent.workspace_files.is_empty());
}

#[test]
fn a_pause_is_read_as_people_write_it_and_what_is_no_truth_value_is_told() {
    let desired = |text: &str, deleted: bool| {
        let mut agent = agent(json!({}));
        agent.metadata.annotations = Some(BTreeMap::from([(annotations::PAUSED.to_owned(), text.to_owned())]));
        agent.metadata.deletion_timestamp =
            deleted.then(|| serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        Desired::resolve(&agent, None, &NamespaceFacts::default(), &settings())
    };
    for (text, paused) in [
        ("true", true),
        ("TRUE", true),
        ("1", true),
        ("false", false),
        ("False", false),
    ] {
        for deleted in [true, false] {
            assert_eq!(desired(text, deleted).unwrap().paused(), paused, "{text}");
        }
    }
    for text in ["yes", "", " true"] {
        let Desired::Present(agent) = desired(text, false).unwrap() else {
            panic!("gone")
        };
        assert!(agent.paused, "nothing is changed with {text:?}");
        let told = agent.unclear_pause.unwrap();
        assert!(told.contains(&format!("skykoi.io/paused is {text:?}")), "{told}");
        assert!(desired(text, true).unwrap().paused(), "deletion waits with {text:?}");
    }
}

#[test]
fn a_pause_that_holds_a_deletion_up_looks_at_the_agent_as_it_was_resolved() {
    let leaving = |force: bool, resolved: Option<&str>| {
        let mut agent = agent(json!({}));
        let mut annotations = BTreeMap::from([(annotations::PAUSED.to_owned(), "true".to_owned())]);
        annotations.extend(force.then(|| (annotations::FORCE_DELETE.to_owned(), "true".to_owned())));
        agent.metadata.annotations = Some(annotations);
        agent.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        agent.status = resolved.map(|plan| serde_json::from_value(json!({"resolved": {"plan": plan}})).unwrap());
        let plan = plan(json!({}));
        let desired = Desired::resolve(&agent, Some(&plan), &NamespaceFacts::default(), &settings()).unwrap();
        assert!(desired.leaves() && desired.paused());
        matches!(desired, Desired::Present(_))
    };
    let name = plan(json!({})).name_any();
    let rows = [
        (false, Some(name.as_str()), true),
        (false, Some("another"), false),
        (false, None, false),
        (true, Some(name.as_str()), false),
    ];
    for (force, resolved, present) in rows {
        assert_eq!(leaving(force, resolved), present, "{force} {resolved:?}");
    }
}

#[test]
fn the_agent_comes_before_the_plan() {
    let planned = json!({
        "defaults": {
            "model": {"id": "amazon-bedrock/plan", "fallbacks": ["amazon-bedrock/b"]}, "instance": {"type": "m7i.large", "subnetId": "subnet-1"},
            "storage": {"dataVolumeGiB": 50, "deletionPolicy": "Retain"}, "network": {"ingressCidrs": ["10.0.0.0/8"], "publicAddress": true},
            "workspace": {"files": {"SOUL.md": "plan", "TOOLS.md": "plan"}},
        },
        "network": {"subnetIds": ["subnet-2"], "operatorAccess": {"cidrs": ["192.0.2.0/24"], "securityGroupIds": ["sg-1"]}},
        "gateway": {"version": "0.3.1", "artifact": {"url": "https://x/y", "sha256": "00"}},
        "boot": {"deadline": "90s"}, "tags": {"cost": "7"}, "aws": {"region": "eu-west-1"},
    });
    let spec = json!({
        "model": {"id": "amazon-bedrock/mine"}, "storage": {"dataVolumeGiB": 60}, "network": {"publicAddress": false},
        "workspace": {"files": {"SOUL.md": "mine"}, "configMapRef": {"name": "files"}},
    });
    let agent = present(spec, Some(planned));
    assert_eq!(
        (agent.model.as_str(), agent.fallbacks.clone()),
        ("amazon-bedrock/mine", vec!["amazon-bedrock/b".to_owned()])
    );
    assert_eq!(
        (agent.instance_type.as_str(), agent.subnet_ids.clone()),
        ("m7i.large", vec!["subnet-1".to_owned()])
    );
    assert_eq!(
        (agent.storage.size_gib, agent.storage.deletion_policy),
        (60, DeletionPolicy::Retain)
    );
    assert_eq!(
        (
            agent.public_address,
            agent.ingress.cidrs.as_ref().map(std::collections::BTreeSet::len)
        ),
        (Some(false), Some(1))
    );
    assert!(
        agent.ingress.operator.contains(&Source::Group("sg-1".into()))
            && agent.ingress.operator.contains(&Source::Cidr("192.0.2.0/24".into()))
    );
    assert_eq!(
        (
            agent.workspace_files["SOUL.md"].as_str(),
            agent.workspace_files["TOOLS.md"].as_str()
        ),
        ("mine", "plan")
    );
    assert_eq!(
        (agent.workspace_config_map.as_deref(), agent.gateway_version.as_deref()),
        (Some("files"), Some("0.3.1"))
    );
    assert_eq!((agent.boot_deadline.as_secs(), agent.tags["cost"].as_str()), (90, "7"));
    assert_eq!(
        agent.artifact,
        Some(Artifact {
            url: "https://x/y".into(),
            sha256: "00".into()
        })
    );
    assert_eq!(
        agent.cloud,
        CloudWish {
            region: Some("eu-west-1".into()),
            ..CloudWish::default()
        }
    );
    assert_eq!(agent.plan, Some(("gold".into(), 5)));
}

#[test]
fn limits_are_held_and_blamed_on_who_chose() {
    let limits = json!({
        "instanceTypes": ["t3.*"], "maxDataVolumeGiB": 40, "models": ["amazon-bedrock/us.*"], "ingressCidrs": ["10.0.0.0/8"],
        "tools": {"allow": ["fs*"], "deny": ["fs.write"]}, "configKeys": ["tools", "logging.level"],
    });
    let planned = |defaults: Value| json!({"limits": limits, "defaults": defaults});
    let cases = [
        (
            json!({"instance": {"type": "m7i.large"}}),
            "spec.instance.type: type \"m7i.large\" is not allowed, allowed: t3.*",
        ),
        (
            json!({"storage": {"dataVolumeGiB": 41}}),
            "spec.storage.dataVolumeGiB: 41 GiB is more than the 40 GiB",
        ),
        (
            json!({"model": {"id": "amazon-bedrock/eu.x"}}),
            "spec.model.id: model \"amazon-bedrock/eu.x\"",
        ),
        (
            json!({"model": {"fallbacks": ["amazon-bedrock/eu.x"]}}),
            "spec.model.fallbacks",
        ),
        (
            json!({"network": {"ingressCidrs": ["0.0.0.0/0"]}}),
            "spec.network.ingressCidrs: 0.0.0.0/0 is not allowed, allowed: 10.0.0.0/8",
        ),
        (
            json!({"gateway": {"config": {"session": {"scope": "global"}}}}),
            "spec.gateway.config.session.scope: the key is not allowed",
        ),
        (
            json!({"gateway": {"config": {"tools": {"allow": ["web"]}}}}),
            "tool \"web\" is not allowed",
        ),
        (
            json!({"gateway": {"config": {"tools": {"allow": ["fs.write"]}}}}),
            "tool \"fs.write\" is not allowed",
        ),
    ];
    for (spec, told) in cases {
        let (reason, message) = refused(spec.clone(), planned(json!({})));
        assert_eq!(reason, Reason::NotAllowedByPlan, "{spec}");
        assert!(message.contains(told), "{spec}: {message}");
        if spec.get("gateway").is_none() {
            assert_eq!(
                refused(json!({}), planned(spec.clone())).0,
                Reason::PlanInvalid,
                "{spec}"
            );
        }
    }
    present(
        json!({"gateway": {"config": {"logging": {"level": "debug"}, "tools": {"allow": ["fs.read"]}}}}),
        Some(planned(json!({}))),
    );
}

#[test]
fn what_no_schema_sees_is_blocked_with_a_sentence() {
    let cases = [
        (
            json!({"network": {"ingressCidrs": ["10.1.2.3/8"]}}),
            json!({}),
            Reason::InvalidSpec,
            "the network is 10.0.0.0/8",
        ),
        (
            json!({}),
            json!({"defaults": {"network": {"ingressCidrs": ["x"]}}}),
            Reason::PlanInvalid,
            "is not a network",
        ),
        (
            json!({"gateway": {"config": {"gateway": {"port": 1}}}}),
            json!({}),
            Reason::InvalidSpec,
            "gateway.port",
        ),
        (
            json!({"gateway": {"config": {"nonsense": 1}}}),
            json!({}),
            Reason::ConfigRejected,
            "nonsense",
        ),
        (
            json!({"gateway": {"config": {"hooks": {"enabled": true, "token": "0123456789abcdef"}}}}),
            json!({}),
            Reason::ConfigRejected,
            "hooks.token: a secret stands here as text",
        ),
        (
            json!({"gateway": {"config": {"tools": {"deny": ["${NOPE}"]}}}}),
            json!({}),
            Reason::ConfigRejected,
            "the environment has no NOPE; allowed: a variable that is set, or $${NOPE} for the text itself",
        ),
        (
            json!({}),
            json!({"defaults": {"gateway": {"config": {"nonsense": 1}}}}),
            Reason::ConfigRejected,
            "defaults.gateway.config of the plan",
        ),
        (
            json!({"gateway": {"version": "2"}}),
            json!({"gateway": {"version": "1"}}),
            Reason::InvalidSpec,
            "the plan's artifact is 1",
        ),
        (
            json!({"workspace": {"files": {"../x": ""}}}),
            json!({}),
            Reason::InvalidSpec,
            "../x",
        ),
        (
            json!({}),
            json!({"boot": {"deadline": "soon"}}),
            Reason::PlanInvalid,
            "boot.deadline",
        ),
        (
            json!({}),
            json!({"network": {"operatorAccess": {"cidrs": ["10.0.0.1/8"]}}}),
            Reason::PlanInvalid,
            "operatorAccess",
        ),
        (
            json!({}),
            json!({"allowedNamespaces": {"matchLabels": {"tier": "gold"}}}),
            Reason::PlanNotAllowed,
            "does not admit agents of namespace \"team\"",
        ),
    ];
    for (spec, planned, reason, told) in cases {
        let (actual, message) = refused(spec.clone(), planned.clone());
        assert_eq!(actual, reason, "{spec} {planned}: {message}");
        assert!(
            message.contains(told) && message.ends_with('.'),
            "{spec} {planned}: {message}"
        );
    }
    let missing = resolve(json!({"planRef": {"name": "silver"}}), None).unwrap_err();
    assert_eq!(missing.reason, Reason::PlanNotFound);
    assert!(missing.message.contains("silver"));
}

#[test]
fn an_agent_that_goes_resolves_whatever_is_broken() {
    let broken = json!({"planRef": {"name": "gone"}, "network": {"ingressCidrs": ["nonsense"]}, "gateway": {"config": {"gateway": null}}});
    let mut agent = agent(broken);
    agent.metadata.deletion_timestamp = Some(crate::status::time(jiff::Timestamp::UNIX_EPOCH));
    let farewell = |agent: &KoiAgent| match Desired::resolve(agent, None, &NamespaceFacts::default(), &settings()) {
        Ok(Desired::Absent(farewell)) => *farewell,
        other => panic!("{other:?}"),
    };
    let own = names::agent_role("demo", "uid-1");
    let expected = Farewell {
        claim: super::claim(&agent, &settings()),
        generation: 3,
        paused: false,
        force: false,
        deletion_policy: DeletionPolicy::Snapshot,
        is_policy_said: false,
        own_role: Some(own),
        cloud: CloudWish::default(),
        tags: std::collections::BTreeMap::new(),
    };
    assert_eq!(farewell(&agent), expected);
    agent.status = Some(
        serde_json::from_value(json!({"observedGeneration": 3, "resolved": {"deletionPolicy": "Delete"}})).unwrap(),
    );
    assert_eq!(farewell(&agent).deletion_policy, DeletionPolicy::Delete);
    assert!(!farewell(&agent).is_policy_said, "status alone says so");
    // A default plan may have said so, and be gone as well.
    agent.spec.plan_ref = None;
    let own = farewell(&agent).own_role.unwrap();
    agent.status = Some(serde_json::from_value(json!({"observedGeneration": 3, "instanceProfile": "shared"})).unwrap());
    assert_eq!(farewell(&agent).own_role, None);
    // What it was launched with, and what it was given since.
    let in_epoch = |epoch, launched: &str, given: &str, uid: &str| {
        let launch = crate::api::LaunchStatus {
            epoch,
            attempt: 1,
            profile: launched.into(),
            client_token: crate::names::client_token(uid, epoch, 1),
            ..crate::api::LaunchStatus::default()
        };
        let mut moved = agent.clone();
        let status = moved.status.as_mut().unwrap();
        (status.launch, status.instance_profile) = (Some(launch), Some(given.into()));
        farewell(&moved).own_role
    };
    let profiles = |launched: &str, given: &str, uid: &str| in_epoch(1, launched, given, uid);
    let uid = agent.metadata.uid.as_deref().unwrap();
    assert_eq!(profiles("shared", &own, uid), Some(own.clone()));
    assert_eq!(profiles(&own, "shared", uid), Some(own.clone()));
    assert_eq!(profiles("shared", "shared", uid), None);
    // Made with its own, and replaced since.
    assert_eq!(in_epoch(2, "shared", "shared", uid), Some(own.clone()));
    assert_eq!(
        profiles("shared", "shared", "another"),
        Some(own),
        "nothing is known of its own"
    );
}

#[test]
fn of_two_default_plans_the_older_wins() {
    let named = |name: &str, second: i64, default: bool| {
        let mut plan = plan(json!({"default": default}));
        plan.metadata.name = Some(name.into());
        plan.metadata.creation_timestamp = Some(crate::status::time(jiff::Timestamp::from_second(second).unwrap()));
        plan
    };
    let plans = [
        named("c", 5, true),
        named("b", 2, false),
        named("a", 3, true),
        named("0", 5, true),
    ];
    assert_eq!(
        default_plan(&plans).and_then(|plan| plan.metadata.name.as_deref()),
        Some("a")
    );
    assert_eq!(default_plan(&plans[1..2]), None);
}

#[test]
fn a_shared_role_allows_what_all_its_plans_allow() {
    let plans = [
        plan(json!({"limits": {"models": ["amazon-bedrock/a"]}})),
        plan(json!({"limits": {"models": ["amazon-bedrock/b"]}})),
        plan(json!({"identity": {"sharedProfile": "other"}})),
        plan(json!({"identity": {"mode": "PerAgent"}, "limits": {"models": ["amazon-bedrock/c"]}})),
    ];
    let shared = shared_models(&plans, false);
    let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let expected = [
        ("other".to_owned(), set(&["*"])),
        (
            "skykoi-tenant-agent-profile".to_owned(),
            set(&["amazon-bedrock/a", "amazon-bedrock/b"]),
        ),
    ];
    assert_eq!(shared, expected.into_iter().collect());
    assert!(shared_models(&plans, true)["skykoi-tenant-agent-profile"].contains("*"));
}

#[test]
fn a_fault_in_what_is_generated_is_told_of_the_field_that_it_comes_from() {
    let zone = |name: &str| json!({"owner": {"timeZone": name}});
    let model = |id: &str, fallbacks: &[&str]| json!({"model": {"id": id, "fallbacks": fallbacks}});
    let good = "amazon-bedrock/a";
    let cases = [
        (
            zone("Europe/Nowhere"),
            None,
            Reason::InvalidSpec,
            "spec.owner.timeZone: there is no time zone \"Europe/Nowhere\"; allowed: an IANA name such as Europe/Berlin.",
        ),
        (
            zone("Europe/Berln"),
            None,
            Reason::InvalidSpec,
            "spec.owner.timeZone: there is no time zone \"Europe/Berln\", did you mean \"Europe/Berlin\"?; allowed: an IANA name such as \
             Europe/Berlin.",
        ),
        (
            model("nowhere/gpt", &[]),
            None,
            Reason::InvalidSpec,
            "spec.model.id: \"nowhere/gpt\" names no model that can be reached; allowed: amazon-bedrock/<model or inference profile id>, or openai/<model>.",
        ),
        (
            model(good, &[good, "b"]),
            None,
            Reason::InvalidSpec,
            "spec.model.fallbacks[1]: \"b\" names no model that can be reached; allowed: amazon-bedrock/<model or inference profile id>, or openai/<model>.",
        ),
        (
            json!({}),
            Some(json!({"defaults": model("nowhere/gpt", &[])})),
            Reason::PlanInvalid,
            "spec.defaults.model.id of KoiPlan \"gold\": \"nowhere/gpt\" names no model that can be reached; allowed: \
             amazon-bedrock/<model or inference profile id>, or openai/<model>.",
        ),
    ];
    for (spec, plan, reason, message) in cases {
        let refused = resolve(spec, plan).unwrap_err();
        assert_eq!((refused.reason, refused.message.as_str()), (reason, message));
    }
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9.-]{0,12}"
}

fn overrides() -> impl Strategy<Value = Value> {
    let level =
        prop_oneof![Just("debug"), Just("warn"), Just("loud")].prop_map(|level| json!({"logging": {"level": level}}));
    let cron = (any::<bool>(), 0_u32..80)
        .prop_map(|(enabled, runs)| json!({"cron": {"enabled": enabled, "maxConcurrentRuns": runs}}));
    let tools = proptest::collection::vec(word(), 0..4).prop_map(|names| json!({"tools": {"allow": names}}));
    let reset = (0_u32..30, any::<bool>()).prop_map(
        |(hour, idle)| json!({"session": {"reset": {"mode": if idle { "idle" } else { "daily" }, "atHour": hour}}}),
    );
    let heart = word().prop_map(|every| json!({"agents": {"defaults": {"heartbeat": {"every": every}}}}));
    let wild = (word(), word()).prop_map(|(key, value)| json!({key: value}));
    let variable = prop_oneof![Just("${NOPE}"), Just("a $${NOPE}"), Just("${nope"), Just("$${A}${B}")]
        .prop_map(|text| json!({"tools": {"deny": [text]}}));
    prop_oneof![4 => Just(json!({})), 2 => level, 2 => cron, 2 => tools, 2 => reset, 1 => heart, 1 => wild, 2 => variable]
}

fn specs() -> impl Strategy<Value = Value> {
    let zone = prop_oneof![
        Just("UTC".to_owned()),
        Just("America/Argentina/Buenos_Aires".to_owned()),
        "[A-Z][a-z]{2,8}/[A-Z][a-z_]{2,8}"
    ];
    let model = "amazon-bedrock/[A-Za-z0-9][A-Za-z0-9._:/-]{0,40}";
    (overrides(), zone, model, proptest::collection::vec(model, 0..8), proptest::option::of("[^\\x00-\\x1f\\x7f]{1,40}")).prop_map(
        |(config, zone, model, fallbacks, name)| {
            json!({
                "owner": {"displayName": name, "timeZone": zone}, "model": {"id": model, "fallbacks": fallbacks}, "gateway": {"config": config},
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What the operator hands to a gateway is never refused by that gateway; what would be is refused before a launch.
    #[test]
    fn every_rendered_config_passes_the_gateways_validator(spec in specs(), denied in proptest::option::of(word())) {
        let planned = json!({"limits": {"tools": {"deny": denied.into_iter().collect::<Vec<_>>()}}});
        match resolve(spec.clone(), Some(planned)) {
            Ok(Desired::Present(agent)) => {
                // As a gateway reads it whose environment has nothing.
                let read = variables::fill(&agent.config.value(), &|_| None).and_then(|filled| check(&filled));
                prop_assert_eq!(read.map(|_| ()), Ok(()), "{}", agent.config);
                prop_assert_eq!(&agent.config_sha256, &koi_wire::config::digest::sha256(&agent.config.value()));
            }
            Ok(other) => prop_assert!(false, "{:?}", other),
            Err(why) => {
                let field = spec["gateway"]["config"] != json!({}) || why.message.starts_with("spec.owner.timeZone: ");
                prop_assert!(
                    matches!(why.reason, Reason::ConfigRejected | Reason::InvalidSpec | Reason::NotAllowedByPlan) && field,
                    "{:?}", why
                );
            }
        }
    }
}

#[test]
fn an_agent_is_looked_for_where_its_plan_says_and_one_that_goes_where_it_lives() {
    let role = |account: &str| format!("arn:aws:iam::{account}:role/koi");
    let lives = crate::api::CloudStatus {
        account: "111111111111".into(),
        region: "eu-west-1".into(),
        role_arn: Some(role("111111111111")),
        external_id: Some("x".into()),
    };
    let status = KoiAgentStatus {
        cloud: Some(lives),
        ..KoiAgentStatus::default()
    };
    let there = |role_arn: Option<String>, external_id: Option<&str>| CloudWish {
        region: Some("eu-west-1".into()),
        role_arn,
        external_id: external_id.map(Into::into),
    };
    let recorded = there(Some(role("111111111111")), Some("x"));
    assert_eq!(whereabouts(None, &status), recorded, "the plan is gone");
    assert_eq!(whereabouts(None, &KoiAgentStatus::default()), CloudWish::default());
    let absent = |cloud: CloudWish| {
        Desired::Absent(Box::new(Farewell {
            claim: crate::names::Claim {
                cluster_id: "c".into(),
                agent_uid: "u".into(),
                namespace: "n".into(),
                name: "a".into(),
            },
            generation: 1,
            paused: false,
            force: false,
            deletion_policy: DeletionPolicy::Delete,
            is_policy_said: true,
            own_role: None,
            cloud,
            tags: BTreeMap::new(),
        }))
    };
    let moved = CloudWish {
        region: Some("us-east-1".into()),
        role_arn: Some(role("222222222222")),
        external_id: None,
    };
    assert_eq!(
        whereabouts(Some(&absent(moved.clone())), &status),
        recorded,
        "another account now"
    );
    assert_eq!(
        whereabouts(Some(&absent(moved.clone())), &KoiAgentStatus::default()),
        moved
    );
    let renamed = CloudWish {
        role_arn: Some("arn:aws:iam::111111111111:role/new".into()),
        ..CloudWish::default()
    };
    assert_eq!(
        whereabouts(Some(&absent(renamed.clone())), &status),
        there(renamed.role_arn, None),
        "a new way to the same account"
    );
}

#[test]
fn a_plan_names_its_account() {
    let aws = json!({"region": "eu-west-1", "roleArn": "arn:aws:iam::2:role/koi", "externalId": "e"});
    let named = CloudWish {
        region: Some("eu-west-1".into()),
        role_arn: Some("arn:aws:iam::2:role/koi".into()),
        external_id: Some("e".into()),
    };
    assert_eq!(plan_account(&plan(json!({"aws": aws}))), named);
    assert_eq!(plan_account(&plan(json!({}))), CloudWish::default());
}

#[test]
fn a_type_that_the_launch_took_in_the_place_of_the_wished_one_is_as_wished() {
    let mut agent = present(json!({"instance": {"type": "t3.small"}}), None);
    agent.fallback_types = vec!["t3a.small".into()];
    let launched = |took: &str, instead_of: Option<&str>| LaunchStatus {
        instance_type: took.into(),
        instead_of: instead_of.map(Into::into),
        ..LaunchStatus::default()
    };
    let cases = [
        ("t3.small", None, true),
        ("t3a.small", None, false),
        ("t3a.small", Some(launched("t3a.small", Some("t3.small"))), true),
        ("t3a.small", Some(launched("t3a.small", Some("t3.large"))), false),
        ("t3a.small", Some(launched("t3.small", None)), false),
        ("m7i.large", Some(launched("m7i.large", Some("t3.small"))), false),
    ];
    for (there, launch, accepted) in cases {
        assert_eq!(
            agent.accepts_type(there, launch.as_ref()),
            accepted,
            "{there} {launch:?}"
        );
    }
}

#[test]
fn who_chooses_a_type_gets_no_other() {
    let limits = json!({"limits": {"instanceTypes": ["t3.small", "t3.medium"]}});
    let chosen = present(json!({"instance": {"type": "t3.small"}}), Some(limits.clone()));
    assert_eq!(chosen.fallback_types, Vec::<String>::new());
    assert_eq!(present(json!({}), Some(limits)).fallback_types, ["t3.medium"]);
}

#[test]
fn the_plans_words_on_interruptions_and_the_operators_own_device_are_taken_over() {
    let with = |value: Value| present(json!({}), Some(json!({"disruption": {"maxConcurrent": value}}))).max_concurrent;
    assert_ne!(with(json!(3)), with(json!(1)));
    assert_eq!(with(json!(3)).to_string(), "3");
    let devices = present(json!({}), None).devices;
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].public_key, "key");
}

#[test]
fn a_version_that_plan_and_agent_agree_on_is_no_contradiction() {
    let agent = |version: &str| json!({"gateway": {"version": version}});
    let planned = json!({"gateway": {"version": "1.2.3"}});
    let agreed = present(agent("1.2.3"), Some(planned.clone()));
    assert_eq!(agreed.gateway_version.as_deref(), Some("1.2.3"));
    assert_eq!(refused(agent("1.2.4"), planned).0, Reason::InvalidSpec);
}

#[test]
fn an_identity_is_ones_own_or_shared() {
    let own = present(json!({}), Some(json!({"identity": {"mode": "PerAgent"}})));
    assert!(own.identity.is_own());
    assert!(!present(json!({}), None).identity.is_own());
}
