//! What must hold: before each step, at any time, at rest, and at the end.

use std::collections::BTreeMap;

use koi_core::api::{KoiAgentStatus, LaunchStatus};
use koi_core::desired::Desired;
use koi_core::names;
use koi_core::observed::{Instance, InstanceState};
use koi_core::plan::{Step, Verdict};
use koi_sim::{Account, Machine};

use super::cluster::CLUSTER;
use super::operator::{Decision, Round};
use super::world::{EVIL_TYPE, World};

impl Round<'_> {
    /// The launch is what status says to the last field, and what is touched carries our claim.
    pub(crate) fn check_step(&self, step: &Step, desired: &Desired, decision: &Decision) {
        if let Step::RunInstances { launch } = step {
            let recorded = self.object.status().launch;
            let ours = self.operator.memories[&self.index].seen.as_ref().unwrap().version == self.object.version();
            if ours {
                // When it was recorded others may have written, too; nothing of a launch is made of that.
                let recorded_at = launch.recorded_at.clone();
                let recorded = recorded.map(|recorded| LaunchStatus {
                    recorded_at,
                    ..recorded
                });
                assert_eq!(
                    recorded.as_ref(),
                    Some(launch.as_ref()),
                    "a launch that is not the recorded one"
                );
            }
            assert!(self.object.finalizer, "a launch before the finalizer");
            assert!(desired.claim().matches(&launch.tags), "a launch with another's claim");
            assert_ne!(launch.instance_type, EVIL_TYPE, "a launch of what nobody wishes");
            let owner = self.account.parameter(&names::owner_parameter(CLUSTER));
            assert!(owner.is_some(), "a launch before the cluster id is bound");
        }
        if let Step::SetInstanceType { instance_type, .. } | Step::RestoreInstanceType { instance_type, .. } = step {
            assert_ne!(instance_type, EVIL_TYPE, "a type that nobody wishes");
        }
        let (Step::StopInstance { instance_id }
        | Step::StartInstance { instance_id }
        | Step::StopOrphan { instance_id }
        | Step::TerminateInstance { instance_id }) = step
        else {
            return;
        };
        let instances = decision.observed.instances.present().unwrap();
        let touched = instances.iter().find(|instance| instance.id == *instance_id).unwrap();
        let token = touched.client_token.as_deref();
        let ours = token.is_some_and(|token| names::is_token_of(&desired.claim().agent_uid, token));
        assert!(
            ours || desired.claim().matches(&touched.tags),
            "{step:?} touches what is not ours"
        );
    }
}

impl World {
    /// What must hold at any time.
    pub(crate) fn check(&self) {
        for object in &self.objects {
            let uid = object.uid();
            let mine = |tags: &BTreeMap<String, String>| claimed_by(tags, &uid);
            let live = self
                .home
                .machines()
                .filter(|machine| launched_by(machine, &uid) && !machine.instance.state.is_dying());
            let live: Vec<&str> = live.map(|machine| machine.instance.id.as_str()).collect();
            assert!(live.len() <= 1, "two live instances of {uid}: {live:?}");
            let volumes = self
                .home
                .disks()
                .filter(|disk| !disk.is_root && mine(&disk.volume.tags));
            assert!(volumes.count() <= 2, "more and more volumes of {uid}");
            check_conditions(&object.status());
        }
        for (uid, volume) in &self.treasures {
            let kept = self.home.disks().any(|disk| disk.volume.id == *volume);
            assert!(kept, "the data of {uid} in {volume} is lost");
        }
        self.check_strangers();
        assert!(
            self.elsewhere.log().is_empty(),
            "changes in an account where no agent lives"
        );
    }

    fn check_strangers(&self) {
        let (instances, groups) = &self.strangers;
        for before in instances {
            let now = self.home.machine_of(&before.id).map(|machine| &machine.instance);
            assert_eq!(now, Some(before), "what is not ours was touched");
        }
        let now: Vec<String> = self.home.all_groups().map(|group| format!("{group:?}")).collect();
        assert!(
            groups.iter().all(|group| now.contains(group)),
            "a group that is not ours was touched"
        );
    }

    /// Remembers the volumes of agents that were ready: nobody may lose them any more.
    pub(crate) fn note_treasures(&mut self) {
        for object in self.objects.iter().filter(|object| object.exists && !object.going()) {
            let status = object.status();
            let healthy = status
                .gateway
                .as_ref()
                .is_some_and(|gateway| gateway.healthy_since.is_some());
            // What its own machine has, not what somebody may have written there a moment ago.
            let machine = status.instance.and_then(|instance| self.home.machine_of(&instance.id));
            let own = |machine: &&Machine| {
                let token = machine.instance.client_token.as_ref();
                token.is_none_or(|token| names::is_token_of(&object.uid(), token))
            };
            let volume = machine
                .filter(own)
                .and_then(|machine| machine.instance.block_devices.get(names::DATA_DEVICE));
            if let (true, Some(volume)) = (healthy, volume) {
                let before = self.treasures.insert(object.uid(), volume.clone());
                assert!(
                    before.is_none_or(|before| before == *volume),
                    "{} is well with another volume than before",
                    object.uid()
                );
            }
        }
        let going = self.objects.iter().filter(|object| object.going() || !object.exists);
        for uid in going.map(super::cluster::Object::uid).collect::<Vec<_>>() {
            self.treasures.remove(&uid);
        }
    }

    /// All who stay are ready, and their world is as they wish.
    pub(crate) fn check_settled(&self) {
        for object in self.objects.iter().filter(|object| object.exists) {
            let status = object.status();
            let of = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
            let ready = of("Ready").expect("no Ready condition");
            assert_eq!(
                (ready.status.as_str(), ready.reason.as_str()),
                ("True", "Ready"),
                "{}",
                ready.message
            );
            for condition in &status.conditions {
                let wanted = if matches!(condition.type_.as_str(), "Reconciling" | "Stalled" | "Suspended") {
                    "False"
                } else {
                    "True"
                };
                assert_eq!(condition.status, wanted, "{condition:?}");
            }
            let instance = &status.instance.as_ref().expect("no instance").id;
            let machine = self
                .home
                .machine_of(instance)
                .expect("the instance of status is not there");
            assert_eq!(machine.instance.state, InstanceState::Running);
            for id in &machine.instance.security_group_ids {
                let group = self
                    .home
                    .all_groups()
                    .find(|group| group.id == *id)
                    .expect("its group is not there");
                assert!(
                    group.ingress.iter().all(|rule| rule.from_port == 443),
                    "a port is open: {:?}",
                    group.ingress
                );
                assert!(!group.ingress.is_empty(), "nobody may come in");
            }
        }
        for memory in self.operators.iter().flat_map(|operator| operator.memories.iter()) {
            let (index, memory) = memory;
            if self.objects[*index].exists {
                assert_eq!(memory.last.as_ref().map(|plan| &plan.verdict), Some(&Verdict::Settled));
            }
        }
    }

    /// Nothing of those who went is left but what they asked to keep.
    pub(crate) fn check_gone(&self) {
        for object in &self.objects {
            let uid = object.uid();
            let mine = |tags: &BTreeMap<String, String>| claimed_by(tags, &uid);
            let live = self
                .home
                .machines()
                .filter(|machine| mine(&machine.instance.tags) || launched_by(machine, &uid))
                .filter(|machine| machine.instance.state != InstanceState::Terminated);
            assert_eq!(live.count(), 0, "instances of {uid} are left");
            let volumes = self.home.disks().filter(|disk| mine(&disk.volume.tags)).count();
            let snapshots = self.home.snapshots(CLUSTER, &uid).len();
            match object.start.deletion_policy {
                "Delete" => assert_eq!((volumes, snapshots), (0, 0), "volumes and snapshots of {uid} are left"),
                "Snapshot" => assert_eq!(volumes, 0, "volumes of {uid} are left"),
                _ => assert_eq!(snapshots, 0, "snapshots of {uid} were made"),
            }
        }
        let parameters: Vec<&str> = self
            .home
            .parameters()
            .filter(|name| !name.ends_with("/owner"))
            .collect();
        assert!(parameters.is_empty(), "parameters are left: {parameters:?}");
        let identities: Vec<&str> = self
            .home
            .identities()
            .into_iter()
            .filter(|name| *name != "stranger")
            .collect();
        assert!(identities.is_empty(), "roles or profiles are left: {identities:?}");
        assert_eq!(self.home.groups(CLUSTER).count(), 0, "security groups are left");
    }
}

/// What tools that know no more than kstatus rely on, whatever state an agent is in.
fn check_conditions(status: &KoiAgentStatus) {
    if status.observed_generation < 0 {
        assert!(status.conditions.is_empty(), "conditions that nobody looked for");
        return;
    }
    let of = |kind: &str| {
        let mut found = status.conditions.iter().filter(|condition| condition.type_ == kind);
        let first = found.next();
        assert_eq!(found.count(), 0, "{kind} twice");
        first
    };
    let is_true = |kind: &str| of(kind).is_some_and(|condition| condition.status == "True");
    assert!(
        of("Reconciling").is_some() && of("Stalled").is_some(),
        "{:?}",
        status.conditions
    );
    assert!(
        !(is_true("Reconciling") && is_true("Stalled")),
        "{:?}",
        status.conditions
    );
    // Suspended is a state at rest: whoever has no Ready condition is that.
    assert!(of("Ready").is_some() || is_true("Suspended"), "{:?}", status.conditions);
    for condition in &status.conditions {
        assert_eq!(
            condition.observed_generation,
            Some(status.observed_generation),
            "{condition:?}"
        );
        let camel = condition.reason.starts_with(|c: char| c.is_ascii_uppercase())
            && condition.reason.chars().all(|c| c.is_ascii_alphanumeric());
        assert!(camel, "{condition:?}");
        let known = matches!(condition.status.as_str(), "True" | "False" | "Unknown");
        assert!(known, "{condition:?}");
    }
    if let Some(stalled) = of("Stalled").filter(|_| is_true("Stalled")) {
        assert!(
            stalled.message.len() > stalled.reason.len(),
            "stalled without a word: {stalled:?}"
        );
    }
}

/// Everything of an account in which no operator worked yet.
pub(crate) fn strangers(account: &Account) -> (Vec<Instance>, Vec<String>) {
    let machines = account.machines().map(|machine| machine.instance.clone());
    let groups = account.all_groups().map(|group| format!("{group:?}"));
    (machines.collect(), groups.collect())
}

/// Launched by the operator for this agent, whatever became of its tags.
fn launched_by(machine: &Machine, uid: &str) -> bool {
    let token = machine.instance.client_token.as_deref();
    token.is_some_and(|token| names::is_token_of(uid, token))
}

/// The claim of one of our agents.
pub(crate) fn claimed_by(tags: &BTreeMap<String, String>, uid: &str) -> bool {
    let of = |key: &str| tags.get(key).map(String::as_str);
    (of(names::TAG_CLUSTER), of(names::TAG_AGENT_UID)) == (Some(CLUSTER), Some(uid))
}
