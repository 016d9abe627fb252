//! What one more agent weighs in the operator's memory. Bytes are counted as they are allocated, so that no other program can bend the figure.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::System;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use cap::Cap;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use koi_core::api::KoiAgent;
use koi_core::fleet::{Folded, Index, Sighting};
use koi_core::names;
use koi_core::observed::{Instance, InstanceState, Volume, VolumeState};
use koi_operator::clock::Clock;
use koi_operator::controller::{Memories, Packed, Secrets};
use koi_operator::device::DeviceKey;
use koi_operator::fleet::Fleet;
use koi_operator::metrics::Metrics;
use koi_operator::probe::Target;
use koi_operator::probe::pin::Pin;
use koi_operator::probe::rounds::{Past, Rounds};
use koi_wire::Redacted;
use koi_wire::health::Usage;
use serde_json::{Value, json};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const AGENTS: usize = 400;
/// What all of it together may weigh for one agent at rest. What kube keeps for its watches and timers comes on top, some keys, about a
/// kilobyte. Its wish (2.8 kB) is settled when it is looked at, and let go.
const BOUND: usize = 4_720;

#[test]
fn one_more_agent_weighs_less_than_five_kilobytes() {
    let parts = [
        (
            "the object, as the watch keeps it",
            each(|n| packed::<KoiAgent>(agent(n))),
        ),
        ("its Secret, as the watch keeps it", together(secrets)),
        ("what the cloud has of it", together(fleet)),
        ("what its gateway said", together(rounds)),
        ("what the controller remembers", together(memories)),
        ("its metrics", together(metrics)),
    ];
    let sum: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    let told: String = parts
        .iter()
        .map(|(part, bytes)| format!("{bytes:6} bytes: {part}\n"))
        .collect();
    assert!(sum <= BOUND, "{sum} bytes for each agent:\n{told}");
}

/// Bytes for each of many things.
fn each<T>(make: impl Fn(usize) -> T) -> usize {
    together(|agents| (0..agents).map(&make).collect::<Vec<T>>())
}

/// Bytes for each agent of a thing that holds many: what twice as many cost more.
fn together<T>(make: impl Fn(usize) -> T) -> usize {
    let weight = |agents| {
        let before = HEAP.allocated();
        let thing = make(agents);
        let weight = HEAP.allocated() - before;
        drop(thing);
        weight
    };
    weight(1);
    (weight(2 * AGENTS) - weight(AGENTS)) / AGENTS
}

/// Random, as real ones are: their order is not that of the agents, and no compression makes them shorter.
fn uid(number: usize) -> String {
    let noise = digest(number);
    format!(
        "{}-{}-4{}-8{}-{}",
        &noise[..8],
        &noise[8..12],
        &noise[12..15],
        &noise[15..18],
        &noise[18..30]
    )
}

fn packed<K>(object: Value) -> Packed<K>
where
    Packed<K>: serde::de::DeserializeOwned,
    K: koi_operator::controller::Summed,
{
    serde_json::from_value(object).unwrap()
}

fn metadata(name: &str, number: usize) -> Value {
    json!({
        "name": name, "namespace": "team-a", "uid": uid(number), "resourceVersion": format!("{}", 100_000 + number), "generation": 1,
        "creationTimestamp": "2026-11-21T10:00:00Z", "finalizers": ["skykoi.io/instance"],
        "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(600) },
        "managedFields": [{ "manager": "koi-operator", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": { "f:status": {} } }],
    })
}

fn agent(number: usize) -> Value {
    let kinds = [
        "Ready",
        "InstanceRunning",
        "GatewayHealthy",
        "IdentityReady",
        "NetworkReady",
        "VolumeAttached",
        "BundleCurrent",
    ];
    let condition = |kind: &&str| {
        json!({
            "type": kind, "status": "True", "reason": "AsWished", "observedGeneration": 1, "lastTransitionTime": "2026-11-21T10:00:00Z",
            "message": format!("{kind} of instance i-{number:017x} is as it is wished to be, as far as anybody can see."),
        })
    };
    let conditions: Vec<Value> = kinds.iter().map(condition).collect();
    json!({
        "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": metadata(&format!("agent-{number}"), number),
        "spec": { "planRef": { "name": "standard" }, "owner": { "displayName": format!("Person {number}"), "email": format!("p{number}@example.com") } },
        "status": {
            "observedGeneration": 1, "conditions": conditions,
            "cloud": { "account": "123456789012", "region": "us-east-1" },
            "resolved": {
                "plan": "standard", "planGeneration": 1, "model": "amazon-bedrock/global.anthropic.claude-opus-4-6-v1", "instanceType": "t3.medium",
                "imageId": "ami-0123456789abcdef0", "imageParameter": "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
                "subnetId": "subnet-0123456789abcdef0", "dataVolumeGiB": 20, "deletionPolicy": "Snapshot",
            },
            "instance": { "id": format!("i-{number:017x}"), "state": "running", "privateIp": "172.31.4.5", "launchTime": "2026-11-21T10:00:00Z" },
            "volume": { "id": format!("vol-{number:017x}"), "sizeGiB": 20, "zone": "us-east-1a", "state": "in-use" },
            "bundle": { "instanceId": format!("i-{number:017x}"), "sha256": digest(number) },
            "securityGroupId": "sg-0123456789abcdef0", "instanceProfile": "koi-demo",
        },
    })
}

/// Sixty-four digits that no compression makes shorter than they are.
fn digest(number: usize) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(number.to_le_bytes()))
}

fn secret(number: usize) -> Value {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let noise = |bytes: usize| {
        (0..bytes.div_ceil(64))
            .map(|part| digest(number * 100 + part))
            .collect::<String>()
    };
    let pem = |kind: &str, bytes: usize| {
        format!(
            "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
            &noise(bytes)[..bytes]
        )
    };
    let mut metadata = metadata(&format!("agent-{number}-gateway"), number);
    metadata["labels"] = json!({ "skykoi.io/agent": uid(number), "app.kubernetes.io/managed-by": "koi-operator" });
    metadata["ownerReferences"] = json!([{
        "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "name": format!("agent-{number}"), "uid": uid(number), "controller": true,
    }]);
    let data = json!({ "token": encode(&noise(43)[..43]), "tls.crt": encode(&pem("CERTIFICATE", 600)), "tls.key": encode(&pem("PRIVATE KEY", 184)) });
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data })
}

fn tags(number: usize) -> BTreeMap<String, String> {
    let pairs = [
        (names::TAG_CLUSTER, "demo".to_owned()),
        (names::TAG_AGENT_UID, uid(number)),
        (names::TAG_AGENT, format!("team-a/agent-{number}")),
        (names::TAG_LAUNCH, "1-1".to_owned()),
        (names::TAG_DELETION_POLICY, "Snapshot".to_owned()),
        ("Name", format!("koi/team-a/agent-{number}")),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn instance(number: usize) -> Instance {
    let device = |name: &str, kind: usize| (name.to_owned(), format!("vol-{kind}{number:016x}"));
    Instance {
        id: format!("i-{number:017x}"),
        state: InstanceState::Running,
        private_ip: Some("172.31.4.5".into()),
        zone: "us-east-1a".into(),
        subnet_id: Some("subnet-0123456789abcdef0".into()),
        image_id: "ami-0123456789abcdef0".into(),
        instance_type: "t3.medium".into(),
        launch_time: Some(Timestamp::UNIX_EPOCH),
        profile_arn: Some("arn:aws:iam::123456789012:instance-profile/koi-demo".into()),
        security_group_ids: vec!["sg-0123456789abcdef0".into()],
        block_devices: [device("/dev/sda1", 0), device("/dev/sdf", 1)].into(),
        client_token: Some(format!("{}-1-1", uid(number))),
        tags: tags(number),
        ..Instance::default()
    }
}

fn volume(number: usize, kind: usize) -> Volume {
    Volume {
        id: format!("vol-{kind}{number:016x}"),
        state: VolumeState::InUse,
        size_gib: 20,
        zone: "us-east-1a".into(),
        attached_to: Some(format!("i-{number:017x}")),
        tags: tags(number),
        ..Volume::default()
    }
}

fn fleet(agents: usize) -> Index {
    let mut index = Index::new("demo");
    let seen = Sighting {
        instances: (0..agents).map(|number| Folded::of(&instance(number))).collect(),
        volumes: (0..agents)
            .flat_map(|number| [0, 1].map(|kind| Folded::of(&volume(number, kind))))
            .collect(),
        groups: Vec::new(),
    };
    index.take_sweep(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH, seen);
    for number in 0..agents {
        let (instance, volume) = (format!("i-{number:017x}"), format!("vol-1{number:016x}"));
        index.view(&uid(number), &[&instance, &volume]);
    }
    index
}

fn rounds(agents: usize) -> Rounds {
    let clock = Clock::new(Timestamp::now);
    let (fleet, _) = Fleet::new("demo", clock.clone());
    let metrics = Arc::new(Metrics::new("1").unwrap());
    let rounds = Rounds::new(
        DeviceKey::from_seed(&[7; 32]),
        clock,
        metrics,
        fleet,
        Duration::from_secs(60),
    );
    let name = "u.koi.internal".to_owned();
    let pem = rcgen::generate_simple_self_signed([name.clone()]).unwrap().cert.pem();
    for number in 0..agents {
        let target = Target {
            instance_id: format!("i-{number:017x}"),
            launch_time: None,
            addresses: [IpAddr::V4(Ipv4Addr::LOCALHOST)].into(),
            port: 1,
            pin: Pin::new(&pem, &name).unwrap().0,
            token: Redacted::new(&digest(number)[..43]),
            in_handover: false,
        };
        rounds.aim(&uid(number), Some(target), Past::Well);
    }
    rounds
}

fn secrets(agents: usize) -> Secrets {
    let secrets = Secrets::default();
    for number in 0..agents {
        secrets.remember_read(&packed::<Secret>(secret(number)));
    }
    secrets
}

fn memories(agents: usize) -> Memories {
    let memories = Memories::default();
    for number in 0..agents {
        let agent: KoiAgent = serde_json::from_value(agent(number)).unwrap();
        let uses = koi_operator::janitor::uses(Some("sg-0123456789abcdef0"), "koi-demo");
        memories.remember_settled(&agent, uses, Timestamp::UNIX_EPOCH);
    }
    memories
}

fn metrics(agents: usize) -> Metrics {
    let metrics = Metrics::new("1").unwrap();
    for number in 0..agents {
        let name = format!("agent-{number}");
        metrics.set_ready("team-a", &name, true);
        metrics.set_usage(
            "team-a",
            &name,
            &Usage {
                input_tokens: 1,
                ..Usage::default()
            },
        );
    }
    metrics
}
