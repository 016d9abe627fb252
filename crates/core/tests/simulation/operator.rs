//! The operator around the pure core: observes with lag, applies steps that may fail, crashes and forgets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::cast_possible_truncation,
    reason = "a model that breaks is a failed test"
)]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use koi_core::api::{KoiAgent, KoiAgentStatus, LaunchStatus};
use koi_core::desired::{Desired, DesiredAgent, NamespaceFacts, Settings};
use koi_core::names;
use koi_core::observed::{
    GatewayHealth, Hop, Known, LaunchTrace, Observed, OwnerRecord, Place, Probe, ProbeFailure, Recorded, Refused,
    SecretFacts, Subnet, Unseen,
};
use koi_core::plan::{Plan, Step, Verdict, current_instance, data_volume_id, forget_past_boot, plan, probe_target};
use koi_core::refusal::classify;
use koi_core::render::{network, user_data};
use koi_core::status::{self, Report};
use serde_json::json;

use super::cloud::Cloud;
use super::random::Random;

/// What a crash wipes out.
#[derive(Default)]
struct Memory {
    view: Option<View>,
    changed_at: Option<Timestamp>,
    unseen: BTreeMap<String, Unseen>,
    refusal: Option<Refused>,
    probe: Option<Probe>,
    console: Option<String>,
    identity_changed_at: Option<Timestamp>,
    launch_trace: LaunchTrace,
}

#[derive(Clone)]
struct View {
    at: Timestamp,
    instances: Vec<koi_core::observed::Instance>,
    volumes: Vec<koi_core::observed::Volume>,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) exists: bool,
    pub(crate) cloud: Cloud,
    pub(crate) last: Option<Plan>,
    pub(crate) status_writes: usize,
    agent: KoiAgent,
    finalizer: bool,
    secret: Option<u32>,
    desired: Desired,
    memory: Memory,
    now: Timestamp,
    history: Vec<String>,
    broken_gateway: bool,
    per_agent: bool,
}

fn settings() -> Settings {
    Settings {
        cluster_id: "sim".into(),
        device_public_key: "key".into(),
        ..Settings::default()
    }
}

fn place() -> Place {
    Place {
        account: "123456789012".into(),
        region: "us-east-1".into(),
    }
}

fn resolved(agent: &KoiAgent, per_agent: bool) -> Desired {
    let plan = serde_json::from_value(json!({
        "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": "p"},
        "spec": {"identity": {"mode": if per_agent { "PerAgent" } else { "Shared" }}},
    }))
    .unwrap();
    Desired::resolve(agent, Some(&plan), &NamespaceFacts::default(), &settings()).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, random: &mut Random) -> Self {
        let per_agent = random.chance(1, 3);
        let lag = SignedDuration::from_secs(*random.pick(&[0, 0, 3, 20]));
        let spec = json!({
            "power": *random.pick(&["Running", "Running", "Running", "Suspended"]),
            "storage": {"deletionPolicy": *random.pick(&["Delete", "Retain", "Snapshot"])},
            "workspace": {"files": {"SOUL.md": "calm"}},
        });
        let mut world = Self::build(seed, per_agent, &spec);
        world.cloud.lag = lag;
        world
    }

    pub(crate) fn quiet() -> Self {
        Self::build(0, false, &json!({}))
    }

    fn build(seed: u64, per_agent: bool, spec: &serde_json::Value) -> Self {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let agent: KoiAgent = serde_json::from_value(json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "spec": spec,
            "metadata": {"name": "a", "namespace": "n", "uid": "0f0e-uid", "generation": 1},
        }))
        .unwrap();
        let desired = resolved(&agent, per_agent);
        Self {
            seed,
            exists: true,
            cloud: Cloud::new(now),
            last: None,
            status_writes: 0,
            agent,
            finalizer: false,
            secret: None,
            desired,
            memory: Memory::default(),
            now,
            history: Vec::new(),
            broken_gateway: false,
            per_agent,
        }
    }

    fn resolve(&mut self) {
        self.desired = resolved(&self.agent, self.per_agent);
    }

    fn edit(&mut self, field: &str, value: serde_json::Value) {
        let mut spec = serde_json::to_value(&self.agent.spec).unwrap();
        spec[field] = value;
        self.agent.spec = serde_json::from_value(spec).unwrap();
        *self.agent.metadata.generation.as_mut().unwrap() += 1;
        self.resolve();
        if let Some(refusal) = &mut self.memory.refusal {
            refusal.retry_at = Some(self.now);
        }
    }

    pub(crate) fn delete(&mut self, random: &mut Random) {
        self.note("deleted");
        self.last = None;
        self.agent.metadata.deletion_timestamp = Some(status::time(self.now));
        // Who leaves may find the plan gone.
        if random.chance(1, 2) {
            self.desired = Desired::resolve(&self.agent, None, &NamespaceFacts::default(), &settings()).unwrap();
            if let (Desired::Absent(farewell), true) = (&mut self.desired, self.per_agent) {
                farewell.own_role = Some(names::agent_role("sim", "0f0e-uid"));
            }
        } else {
            self.resolve();
        }
    }

    pub(crate) fn calm(&mut self) {
        self.broken_gateway = false;
        self.last = None;
        self.cloud.lag = SignedDuration::ZERO;
        if matches!(self.desired, Desired::Present(_)) {
            self.edit("power", json!("Running"));
        }
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.history.push(format!("{} {text}", self.now));
    }

    pub(crate) fn trace(&self) -> String {
        let skip = self.history.len().saturating_sub(120);
        format!(
            "{}\nlast: {:?}\nstatus: {:?}",
            self.history[skip..].join("\n"),
            self.last,
            self.agent.status
        )
    }

    fn status(&self) -> KoiAgentStatus {
        self.agent.status.clone().unwrap_or_default()
    }

    /// Whether the view is older than what the cloud holds.
    pub(crate) fn stale(&self) -> bool {
        let Some(view) = &self.memory.view else { return true };
        self.cloud.machines.iter().any(|machine| machine.turns_at.is_some())
            || self.cloud.machines.len() != view.instances.len()
    }

    /// Something happens that nobody asked for.
    pub(crate) fn trouble(&mut self, random: &mut Random) {
        let live = self
            .cloud
            .machines
            .iter()
            .find(|machine| !machine.seen.state.is_dying())
            .map(|machine| machine.seen.id.clone());
        match (random.below(24), live) {
            (0, Some(id)) => {
                self.note("outside: stop");
                let _ = self.cloud.stop(&id);
            }
            (1, Some(id)) => {
                self.note("outside: terminate");
                self.cloud.terminate(&id);
            }
            (2, _) => self.cloud.open_a_port(),
            (3, _) => {
                if let Some(group) = self.cloud.groups.values_mut().next() {
                    group.ingress.clear();
                }
            }
            (4, Some(id)) => self.cloud.detach(&id),
            (5, _) => self.crash(),
            (6, _) => self.secret = None,
            (7, _) => self.secret = self.secret.map(|version| version + 1),
            (8, _) => self.broken_gateway = !self.broken_gateway,
            (9..=12, _) => self.spec_edit(random),
            (13, _) => self.cloud.identity.role_in_profile = false,
            (14, Some(id)) => self.drift(&id, random),
            _ => {}
        }
    }

    /// What people and hosts do to a live instance.
    fn drift(&mut self, id: &str, random: &mut Random) {
        let drift = *random.pick(&["profile", "tags", "impaired", "host", "retired"]);
        self.note(format!("outside: {drift}"));
        match drift {
            "profile" => self.cloud.machine(id).seen.profile_arn = None,
            "tags" => drop(self.cloud.tags(id).remove(names::TAG_LAUNCH)),
            "retired" => self.cloud.retire(id, 1),
            drift => self.cloud.impair(id, drift == "host"),
        }
    }

    fn spec_edit(&mut self, random: &mut Random) {
        if matches!(self.desired, Desired::Absent(_)) {
            return;
        }
        self.note("spec edit");
        match random.below(3) {
            0 => self.edit("instance", json!({"type": *random.pick(&["t3.small", "t3.large"])})),
            1 => self.edit("power", json!(*random.pick(&["Running", "Suspended"]))),
            _ => self.edit(
                "network",
                json!({"ingressCidrs": [*random.pick(&["10.0.0.0/8", "0.0.0.0/0"])]}),
            ),
        }
    }

    fn crash(&mut self) {
        self.note("crash");
        self.memory = Memory {
            launch_trace: LaunchTrace::Since(self.now),
            ..Memory::default()
        };
        let generation = self.agent.metadata.generation.unwrap();
        self.memory.refusal = status::restored_refusal(&self.status(), generation, self.now);
    }

    /// One round: look, decide, act, report.
    pub(crate) fn round(&mut self, random: &mut Random, faults: bool) {
        let wait = self
            .last
            .as_ref()
            .map_or(0, |plan| plan.check_again.as_secs().clamp(1, 20));
        self.now = self
            .now
            .saturating_add(SignedDuration::from_secs(i64::try_from(wait).unwrap()))
            .unwrap();
        self.cloud.advance(self.now);
        if !self.exists {
            return;
        }
        if !(faults && random.chance(1, 8)) {
            self.sweep();
        }
        let mut observed = self.observe();
        if let Some(instance) = probe_target(&self.desired, &observed).cloned() {
            self.memory.probe = Some(self.probe(&instance));
            observed.probe.clone_from(&self.memory.probe);
        }
        let decided = plan(&self.desired, &observed, self.now);
        if self.sample() {
            assert_eq!(
                decided,
                plan(&self.desired, &observed, self.now),
                "seed {}: not deterministic",
                self.seed
            );
        }
        if self.last.as_ref() != Some(&decided) {
            let names: Vec<&str> = decided.steps.iter().map(Step::name).collect();
            self.note(format!("{names:?} {:?}", decided.verdict));
        }
        let mut status = self.status();
        let alive = self.act(&decided, &observed, &mut status, random, faults);
        if alive && self.exists {
            self.report(&status, &observed, &decided);
        }
        self.last = Some(decided);
    }

    fn sweep(&mut self) {
        let visible = self
            .cloud
            .machines
            .iter()
            .filter(|machine| machine.visible_at <= self.now);
        let instances: Vec<_> = visible.map(|machine| machine.seen.clone()).collect();
        let shown: Vec<String> = instances
            .iter()
            .map(|instance| instance.id.clone())
            .chain(self.cloud.volumes.iter().map(|volume| volume.id.clone()))
            .collect();
        let recorded = Recorded::from_status(&self.status());
        for id in recorded.instance_id.iter().chain(&recorded.volume_id) {
            if shown.contains(id) {
                self.memory.unseen.remove(id);
            } else {
                self.memory
                    .unseen
                    .entry(id.clone())
                    .or_insert(Unseen {
                        since: self.now,
                        reads: 0,
                    })
                    .reads += 1;
            }
        }
        self.memory.view = Some(View {
            at: self.now,
            instances,
            volumes: self.cloud.volumes.clone(),
        });
    }

    fn observe(&self) -> Observed {
        let recorded = Recorded::from_status(&self.status());
        let subnet = Subnet {
            id: "subnet-1".into(),
            vpc_id: "vpc-1".into(),
            zone: "zone-a".into(),
            vpc_cidrs: vec!["172.31.0.0/16".into()],
        };
        let view = self.memory.view.as_ref();
        let mut observed = Observed {
            has_finalizer: self.finalizer,
            place: Known::Present(place()),
            owner: if self.cloud.bound {
                OwnerRecord::Ours
            } else {
                OwnerRecord::Unbound
            },
            image: Known::Present("ami-1".into()),
            security_group: self.group(&subnet),
            subnet: Known::Present(subnet),
            identity: self.identity(),
            instances: view.map_or(Known::Unknown, |view| Known::Present(view.instances.clone())),
            volumes: view.map_or(Known::Unknown, |view| Known::Present(view.volumes.clone())),
            snapshots: Known::Present(
                self.cloud
                    .snapshots
                    .iter()
                    .map(|(snapshot, _)| snapshot.clone())
                    .collect(),
            ),
            seen_at: view.map(|view| view.at),
            changed_at: self.memory.changed_at,
            launch_trace: self.memory.launch_trace,
            unseen: self.memory.unseen.clone(),
            bundle_gone: false,
            outage: false,
            probe: self.memory.probe.clone(),
            console: self.memory.console.clone(),
            refusal: self.memory.refusal.clone(),
            secret: Known::Unknown,
            recorded,
            ..Observed::default()
        };
        forget_past_boot(&mut observed);
        observed.secret = self.secret_facts(&observed);
        observed
    }

    fn secret_facts(&self, observed: &Observed) -> Known<SecretFacts> {
        let Some(version) = self.secret else {
            return Known::Absent;
        };
        let instance = current_instance(observed);
        let volume = instance.and_then(|instance| data_volume_id(observed, instance));
        Known::Present(SecretFacts {
            problem: None,
            tls_sha256: format!("tls{version}"),
            not_after: self.now,
            bundle_sha256: instance
                .zip(volume)
                .map(|(instance, volume)| self.bundle_text(version, &instance.id, &volume)),
            ..SecretFacts::default()
        })
    }

    fn bundle_text(&self, version: u32, instance: &str, volume: &str) -> String {
        let config = match &self.desired {
            Desired::Present(agent) => agent.config_sha256.clone(),
            Desired::Absent(_) => String::new(),
        };
        user_data::sha256(&format!("{version} {instance} {volume} {config}"))
    }

    fn wish(&self) -> Option<&DesiredAgent> {
        match &self.desired {
            Desired::Present(agent) => Some(agent),
            Desired::Absent(_) => None,
        }
    }

    fn group(&self, subnet: &Subnet) -> Known<koi_core::observed::SecurityGroup> {
        let Some(agent) = self.wish() else {
            return Known::Unknown;
        };
        let name = names::security_group("sim", &network::rule_set(&network::rules(&agent.ingress, subnet)));
        self.cloud
            .groups
            .get(&name)
            .cloned()
            .map_or(Known::Absent, Known::Present)
    }

    fn identity(&self) -> Known<koi_core::observed::Identity> {
        let mut identity = self.cloud.identity.clone();
        identity.changed_at = self.memory.identity_changed_at;
        Known::Present(identity)
    }

    fn probe(&self, instance: &koi_core::observed::Instance) -> Probe {
        let machine = self
            .cloud
            .machines
            .iter()
            .find(|machine| machine.seen.id == instance.id);
        let booted = machine
            .and_then(|machine| machine.running_since)
            .is_some_and(|since| self.now.duration_since(since) >= SignedDuration::from_secs(4));
        let fed = self.cloud.bundles.contains_key(&instance.id)
            && machine.is_some_and(|machine| machine.data_volume.is_some());
        let outcome = if booted && fed && !self.broken_gateway {
            Ok(GatewayHealth {
                ok: true,
                version: "1".into(),
                config_sha256: self.wish().map(|agent| agent.config_sha256.clone()),
                workspace_seeded: false,
                detail: None,
            })
        } else {
            Err(ProbeFailure {
                hop: Hop::Connect,
                message: "refused".into(),
            })
        };
        Probe {
            at: self.now,
            instance_id: instance.id.clone(),
            launch_time: instance.launch_time,
            outcome,
        }
    }

    /// Applies steps until one fails; false: the operator died.
    fn act(
        &mut self,
        decided: &Plan,
        observed: &Observed,
        status: &mut KoiAgentStatus,
        random: &mut Random,
        faults: bool,
    ) -> bool {
        for step in &decided.steps {
            let fault = if faults { random.below(30) } else { 99 };
            if fault == 0 {
                self.crash();
                return false;
            }
            let answer = if fault == 1 {
                Err(*random.pick(&[
                    ("RequestLimitExceeded", "slow down"),
                    ("InsufficientInstanceCapacity", "none left"),
                    ("UnauthorizedOperation", "no"),
                    ("VcpuLimitExceeded", "no more"),
                ]))
            } else {
                self.perform(step, observed, status, decided)
            };
            if let (Step::RunInstances { launch }, true, true) = (step, answer.is_ok(), fault != 2) {
                let id = self.cloud.tokens[&launch.client_token].1.clone();
                status::note_instance(status, &self.cloud.machine(&id).seen, self.now);
            }
            let answer = if fault == 2 && answer.is_ok() {
                Err(("", ""))
            } else {
                answer
            };
            if fault == 3 {
                self.crash();
                return false;
            }
            if step.changes_cloud() {
                self.memory.changed_at = Some(self.now);
            }
            if let Err((code, message)) = answer {
                self.refused(step, code, message);
                return true;
            }
            if self
                .memory
                .refusal
                .as_ref()
                .is_some_and(|refused| refused.step == step.name())
            {
                self.memory.refusal = None;
            }
        }
        true
    }

    fn refused(&mut self, step: &Step, code: &str, message: &str) {
        self.note(format!("refused: {} {code:?}", step.name()));
        let count = self
            .memory
            .refusal
            .as_ref()
            .filter(|refused| refused.step == step.name())
            .map_or(0, |refused| refused.count)
            + 1;
        let refusal = classify(step.name(), code, message);
        let retry_at = refusal.pause(count).map(|pause| {
            self.now
                .saturating_add(SignedDuration::try_from(pause).unwrap())
                .unwrap()
        });
        let launch = match step {
            Step::RunInstances { launch } => {
                if !refusal.definite {
                    self.memory.launch_trace = LaunchTrace::Since(self.now);
                }
                Some((launch.epoch, launch.attempt))
            }
            _ => None,
        };
        self.memory.refusal = Some(Refused {
            refusal,
            step: step.name(),
            launch,
            count,
            retry_at,
        });
    }

    fn perform(
        &mut self,
        step: &Step,
        observed: &Observed,
        status: &mut KoiAgentStatus,
        decided: &Plan,
    ) -> Result<(), (&'static str, &'static str)> {
        self.check_claim(step, observed);
        match step {
            Step::AddFinalizer => self.finalizer = true,
            Step::CreateSecret => self.secret = Some(self.now.as_second().unsigned_abs() as u32),
            Step::RecordLaunch { launch, place } => {
                let previous = status.clone();
                *status = status::with_launch(&self.report_of(&previous, observed, decided), launch, place);
                self.agent.status = Some(status.clone());
                self.status_writes += 1;
                self.memory.launch_trace = LaunchTrace::Clean;
            }
            Step::PutBundle {
                instance_id, volume_id, ..
            } => {
                let text = self.bundle_text(self.secret.unwrap_or_default(), instance_id, volume_id);
                self.cloud.writes += 1;
                self.cloud.log.push("PutBundle".into());
                self.cloud.bundles.insert(instance_id.clone(), text.clone());
                status::note_bundle(status, instance_id, &text);
            }
            Step::SeedWorkspace { .. } => status::note_seeded(status, self.now),
            Step::FetchConsole { .. } => self.memory.console = Some("koi-userdata: step=binary".into()),
            Step::RemoveFinalizer => self.exists = false,
            Step::CreateRole { .. }
            | Step::PutRolePolicy { .. }
            | Step::CreateInstanceProfile { .. }
            | Step::AddRoleToInstanceProfile { .. } => {
                self.memory.identity_changed_at = Some(self.now);
                self.cloud.apply(step)?;
            }
            Step::RemoveRoleFromInstanceProfile { .. } => self.cloud.identity.role_in_profile = false,
            Step::DeleteInstanceProfile { .. } => self.cloud.identity.profile_arn = None,
            Step::DeleteRolePolicy { .. } => self.cloud.identity.policy_current = false,
            Step::DeleteRole { .. } => self.cloud.identity.role_exists = false,
            Step::RunInstances { launch } => {
                self.check_record(launch);
                self.cloud.apply(step)?;
                self.memory.launch_trace = LaunchTrace::Since(self.now);
                self.memory.probe = None;
                self.memory.console = None;
            }
            Step::RecordRemedy { repair, .. } => {
                let previous = status.clone();
                *status = status::with_remedy(&self.report_of(&previous, observed, decided), repair);
                self.agent.status = Some(status.clone());
                self.status_writes += 1;
            }
            Step::RebootInstance { .. } => {
                self.cloud.apply(step)?;
                status::note_rebooted(status, self.now);
                self.memory.probe = None;
            }
            Step::StartInstance { .. } | Step::StopInstance { .. } => {
                self.cloud.apply(step)?;
                self.memory.probe = None;
                self.memory.console = None;
            }
            other => self.cloud.apply(other)?,
        }
        Ok(())
    }

    fn report_of<'a>(&'a self, previous: &'a KoiAgentStatus, observed: &'a Observed, decided: &'a Plan) -> Report<'a> {
        let generation = self.agent.metadata.generation.unwrap();
        Report {
            previous,
            generation,
            name: "a",
            desired: Ok(&self.desired),
            observed,
            plan: decided,
            now: self.now,
        }
    }

    fn report(&mut self, status: &KoiAgentStatus, observed: &Observed, decided: &Plan) {
        let report = self.report_of(status, observed, decided);
        let fresh = status::report(&report);
        if self.sample() {
            self.check_report(&fresh, &report);
        }
        if self.agent.status.as_ref() != Some(&fresh) {
            self.status_writes += 1;
            if self.sample() {
                let back: KoiAgentStatus = serde_json::from_value(serde_json::to_value(&fresh).unwrap()).unwrap();
                assert_eq!(
                    back, fresh,
                    "seed {}: status does not survive the API server",
                    self.seed
                );
            }
            self.agent.status = Some(fresh);
        }
    }

    /// Checks that cost as much as the round itself are made in some rounds.
    fn sample(&self) -> bool {
        self.now.as_second() % 5 == 0
    }

    fn check_report(&self, fresh: &KoiAgentStatus, report: &Report<'_>) {
        assert_eq!(
            *fresh,
            status::report(report),
            "seed {}: the report is not deterministic",
            self.seed
        );
        let again = status::report(&Report {
            previous: fresh,
            ..*report
        });
        assert_eq!(*fresh, again, "seed {}: a second report of the same differs", self.seed);
    }

    /// The launch is what status says, to the last field.
    fn check_record(&self, launch: &LaunchStatus) {
        assert_eq!(
            self.status().launch.as_ref(),
            Some(launch),
            "seed {}: not from the record\n{}",
            self.seed,
            self.trace()
        );
        assert!(self.finalizer, "seed {}: no finalizer before the launch", self.seed);
        assert!(
            self.cloud.bound,
            "seed {}: cluster id not bound before the launch",
            self.seed
        );
    }

    /// What a step touches carries our claim.
    fn check_claim(&self, step: &Step, observed: &Observed) {
        let (Step::StopInstance { instance_id: touched }
        | Step::StartInstance { instance_id: touched }
        | Step::StopOrphan { instance_id: touched }
        | Step::TerminateInstance { instance_id: touched }) = step
        else {
            return;
        };
        let instances = observed.instances.present().unwrap();
        let instance = instances.iter().find(|instance| instance.id == *touched).unwrap();
        assert!(
            self.desired.claim().matches(&instance.tags),
            "seed {}: {step:?}",
            self.seed
        );
    }

    /// What must hold at any time.
    pub(crate) fn check(&self) {
        let live: Vec<_> = self
            .cloud
            .machines
            .iter()
            .filter(|machine| !machine.seen.state.is_dying())
            .collect();
        assert!(
            live.len() <= 1,
            "seed {}: {} live instances\n{}",
            self.seed,
            live.len(),
            self.trace()
        );
        assert!(
            self.cloud.volumes.len() <= 2,
            "seed {}: {:?}\n{}",
            self.seed,
            self.cloud.volumes,
            self.trace()
        );
    }

    pub(crate) fn check_settled(&self) {
        let status = self.status();
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("True", "Ready"),
            "seed {}\n{}",
            self.seed,
            self.trace()
        );
        for condition in &status.conditions {
            let wanted = if matches!(condition.type_.as_str(), "Reconciling" | "Stalled" | "Suspended") {
                "False"
            } else {
                "True"
            };
            assert_eq!(
                condition.status,
                wanted,
                "seed {}: {condition:?}\n{}",
                self.seed,
                self.trace()
            );
        }
        let groups: Vec<_> = self
            .cloud
            .groups
            .values()
            .filter(|group| Some(&group.id) == status.security_group_id.as_ref())
            .collect();
        assert!(
            groups[0].ingress.iter().all(|rule| rule.from_port == 443),
            "seed {}",
            self.seed
        );
        assert_eq!(self.last.as_ref().unwrap().verdict, Verdict::Settled);
    }

    pub(crate) fn check_gone(&self) {
        let live = self
            .cloud
            .machines
            .iter()
            .filter(|machine| machine.seen.state != koi_core::observed::InstanceState::Terminated);
        assert_eq!(live.count(), 0, "seed {}\n{}", self.seed, self.trace());
        assert!(
            self.cloud.bundles.is_empty(),
            "seed {}: {:?}\n{}",
            self.seed,
            self.cloud.bundles,
            self.trace()
        );
        let Desired::Absent(farewell) = &self.desired else {
            panic!("seed {}: not deleted", self.seed)
        };
        let (volumes, snapshots) = (self.cloud.volumes.len(), self.cloud.snapshots.len());
        match farewell.deletion_policy {
            koi_core::api::DeletionPolicy::Delete => assert_eq!((volumes, snapshots), (0, 0), "seed {}", self.seed),
            koi_core::api::DeletionPolicy::Snapshot => assert_eq!(volumes, 0, "seed {}", self.seed),
            koi_core::api::DeletionPolicy::Retain => assert_eq!(snapshots, 0, "seed {}", self.seed),
        }
        if self.per_agent {
            assert!(
                !self.cloud.identity.role_exists,
                "seed {}: role left\n{}",
                self.seed,
                self.trace()
            );
        }
    }
}
