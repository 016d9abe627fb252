//! The API server as far as the policy meets it: objects with versions, their Secrets, and people who edit them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use koi_core::api::{KoiAgent, KoiAgentStatus, annotations};
use koi_core::desired::{Desired, NamespaceFacts, Settings};
use koi_core::observed::{Hop, SecretFacts};
use koi_core::plan::Why;
use koi_core::rotation::Rotation;
use koi_core::status;
use serde_json::{Value, json};

use super::schedule::{Edit, Fault, Start};

/// The installation.
pub(crate) const CLUSTER: &str = "sim";

/// One KoiAgent and what belongs to it.
pub(crate) struct Object {
    pub(crate) agent: KoiAgent,
    pub(crate) start: Start,
    pub(crate) exists: bool,
    pub(crate) finalizer: bool,
    pub(crate) secret: Option<Secret>,
    /// Tokens and certificates are numbers that never come twice.
    last_number: u32,
    pub(crate) gateway_broken: bool,
    /// What somebody on the machine made of the config.
    pub(crate) config_edited: Option<String>,
    /// Faults of coming steps: so many steps from now.
    pub(crate) faults: Vec<(u8, Fault)>,
    /// Writes to the object and its Secret by the operator.
    pub(crate) writes: usize,
}

/// What the Secret of an agent holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Secret {
    pub(crate) token: u32,
    next: Option<u32>,
    previous: Option<u32>,
    pub(crate) certificate: u32,
    old_certificate: Option<u32>,
    rotation: Option<String>,
    rotated_at: Option<Timestamp>,
    pub(crate) renew_at: Option<Timestamp>,
}

impl Secret {
    /// What a bundle of it lets the gateway take: tokens, and the certificate that it shows.
    pub(crate) fn material(&self) -> String {
        let tokens: BTreeSet<u32> = [Some(self.token), self.next, self.previous]
            .into_iter()
            .flatten()
            .collect();
        format!("{tokens:?}/{}", self.certificate).replace(' ', "")
    }

    /// Whoever reads the Secret now is let in by a gateway with this material.
    pub(crate) fn opens(&self, material: &str) -> Result<(), Hop> {
        let (tokens, certificate) = material.split_once('/').unwrap_or_default();
        let trusted = [Some(self.certificate), self.old_certificate];
        if !trusted
            .into_iter()
            .flatten()
            .any(|number| number.to_string() == certificate)
        {
            return Err(Hop::Certificate);
        }
        let taken = |token: u32| {
            tokens
                .trim_matches(['{', '}'])
                .split(',')
                .any(|one| one == token.to_string())
        };
        if taken(self.token) { Ok(()) } else { Err(Hop::Handshake) }
    }

    /// No rotation is under way.
    pub(crate) fn rests(&self) -> bool {
        self.next.is_none() && self.rotated_at.is_none()
    }

    pub(crate) fn facts(&self, bundle_sha256: Option<String>) -> SecretFacts {
        SecretFacts {
            tls_sha256: format!("tls{}", self.certificate),
            not_after: Timestamp::MAX,
            bundle_sha256,
            renew_at: self.renew_at,
            rotation: self.rotation.clone(),
            staged: self.next.is_some(),
            rotated_at: self.rotated_at,
            ..SecretFacts::default()
        }
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        cluster_id: CLUSTER.into(),
        device_public_key: "key".into(),
        ..Settings::default()
    }
}

impl Object {
    pub(crate) fn new(index: usize, start: Start) -> Self {
        let power = if start.suspended { "Suspended" } else { "Running" };
        let agent = serde_json::from_value(json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent",
            "metadata": {"name": format!("a{index}"), "namespace": "n", "uid": format!("uid-{index}"), "generation": 1, "resourceVersion": "1"},
            "spec": {"power": power, "storage": {"deletionPolicy": start.deletion_policy}, "workspace": {"files": {"SOUL.md": "calm"}}},
        }))
        .unwrap();
        Self {
            agent,
            start,
            exists: false,
            finalizer: false,
            secret: None,
            last_number: 0,
            gateway_broken: false,
            config_edited: None,
            faults: Vec::new(),
            writes: 0,
        }
    }

    pub(crate) fn uid(&self) -> String {
        self.agent.metadata.uid.clone().unwrap_or_default()
    }

    pub(crate) fn going(&self) -> bool {
        self.agent.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn status(&self) -> KoiAgentStatus {
        self.agent.status.clone().unwrap_or_default()
    }

    /// As a backup restores an object: without its status.
    pub(crate) fn lose_status(&mut self) {
        self.agent.status = None;
        self.bump();
    }

    /// As somebody else writes it.
    pub(crate) fn write_status(&mut self, status: KoiAgentStatus) {
        self.agent.status = Some(status);
        self.bump();
    }

    /// What the operator settles from a copy of the object; a plan that is gone is met only by those who go.
    pub(crate) fn settle(&self, agent: &KoiAgent) -> Result<Desired, Why> {
        let mode = if self.start.own_identity { "PerAgent" } else { "Shared" };
        let plan = serde_json::from_value(json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": "p", "generation": 1},
            "spec": {"identity": {"mode": mode}, "limits": {"instanceTypes": ["t3.*"]}},
        }))
        .unwrap();
        let going = agent.metadata.deletion_timestamp.is_some();
        let plan = Some(&plan).filter(|_| !(going && self.start.plan_goes));
        Desired::resolve(agent, plan, &NamespaceFacts::default(), &settings())
    }

    /// Somebody edits spec or annotations.
    pub(crate) fn edit(&mut self, edit: Edit, now: Timestamp) {
        match edit {
            Edit::Power(power) => self.set("power", json!(power)),
            Edit::Type(kind) => self.set("instance", json!({"type": kind})),
            Edit::Ingress(cidr) => self.set("network", json!({"ingressCidrs": [cidr]})),
            Edit::Volume(size) => {
                let policy = self.start.deletion_policy;
                self.set("storage", json!({"deletionPolicy": policy, "dataVolumeGiB": size}));
            }
            Edit::Config(level) => {
                let level = ["info", "debug", "warn"][level as usize % 3];
                self.set("gateway", json!({"config": {"logging": {"level": level}}}));
            }
            Edit::Pause(paused) => self.annotate(annotations::PAUSED, paused.then_some("true")),
            Edit::RotateToken(number) => self.annotate(annotations::ROTATE_TOKEN, Some(&format!("r{number}"))),
            Edit::Delete => {
                self.agent.metadata.deletion_timestamp.get_or_insert(status::time(now));
                self.bump();
                self.exists &= self.finalizer;
            }
        }
    }

    fn set(&mut self, field: &str, value: Value) {
        let mut spec = serde_json::to_value(&self.agent.spec).unwrap();
        if spec[field] == value {
            return;
        }
        spec[field] = value;
        self.agent.spec = serde_json::from_value(spec).unwrap();
        *self.agent.metadata.generation.get_or_insert(0) += 1;
        self.bump();
    }

    fn annotate(&mut self, key: &str, value: Option<&str>) {
        let all = self.agent.metadata.annotations.get_or_insert_with(BTreeMap::new);
        match value {
            Some(value) => drop(all.insert(key.to_owned(), value.to_owned())),
            None => drop(all.remove(key)),
        }
        self.bump();
    }

    pub(crate) fn version(&self) -> u64 {
        self.agent.metadata.resource_version.as_ref().unwrap().parse().unwrap()
    }

    /// The object was written.
    pub(crate) fn bump(&mut self) {
        self.agent.metadata.resource_version = Some((self.version() + 1).to_string());
    }

    fn number(&mut self) -> u32 {
        self.last_number += 1;
        self.last_number
    }

    /// A fresh Secret, never one that was there before.
    pub(crate) fn make_secret(&mut self) {
        let rotation = self
            .agent
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(annotations::ROTATE_TOKEN).cloned());
        self.secret = Some(Secret {
            token: self.number(),
            certificate: self.number(),
            rotation,
            ..Secret::default()
        });
    }

    /// Somebody writes another token into the Secret.
    pub(crate) fn edit_secret(&mut self) {
        let number = self.number();
        if let Some(secret) = &mut self.secret {
            secret.token = number;
        }
    }

    /// One step of a rotation. False: what it is about is not there any more.
    pub(crate) fn rotate(&mut self, rotation: &Rotation, now: Timestamp) -> bool {
        let number = self.number();
        let Some(secret) = &mut self.secret else { return false };
        match rotation {
            Rotation::Stage { asked } => {
                (secret.next, secret.rotation) = (Some(number), Some(asked.clone()));
            }
            Rotation::Promote => {
                let Some(next) = secret.next.take() else { return false };
                (secret.previous, secret.token) = (Some(secret.token), next);
                secret.rotated_at = Some(now);
            }
            Rotation::Renew => {
                secret.old_certificate = Some(secret.certificate);
                (secret.certificate, secret.rotated_at, secret.renew_at) = (number, Some(now), None);
            }
            Rotation::Retire => {
                (secret.previous, secret.old_certificate, secret.rotated_at) = (None, None, None);
            }
        }
        self.writes += 1;
        true
    }

    /// The fault of this step, if one is due.
    pub(crate) fn next_fault(&mut self) -> Option<Fault> {
        for (left, _) in &mut self.faults {
            *left = left.saturating_sub(1);
        }
        let due = self.faults.iter().position(|(left, _)| *left == 0)?;
        Some(self.faults.remove(due).1)
    }
}
