//! Observe: what the controller puts together from status, fleet view and look-ups, and what a probe meets.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use koi_core::api::DeletionPolicy;
use koi_core::desired::{Desired, DesiredAgent};
use koi_core::names;
use koi_core::observed::{
    GatewayHealth, Hop, Identity, Instance, Known, Observed, OwnerRecord, Probe, ProbeFailure, Pushed, Recorded,
    SecretFacts, SecurityGroup, SetUpWord, Subnet, Volume,
};
use koi_core::plan::{current_instance, data_volume_id, forget_past_boot, last_policy, probe_target};
use koi_core::render::{identity, network};
use koi_core::status;
use koi_sim::Account;

use super::cluster::{CLUSTER, Object, Secret};
use super::operator::{Round, Wish};

/// The owner record says that this is our cluster.
pub(crate) const OWNER: &str = "us";
/// How long a machine boots.
const BOOT: SignedDuration = SignedDuration::from_secs(4);
/// How long look-ups are remembered.
const LOOKUP: SignedDuration = SignedDuration::from_secs(900);
/// How long a thing that is not there is remembered as such.
const ABSENT: SignedDuration = SignedDuration::from_secs(30);

impl Round<'_> {
    pub(crate) fn observe(&mut self, wish: &Wish) -> Observed {
        let mut observed = self.remembered(wish);
        let Ok(desired) = wish.as_deref() else {
            return observed;
        };
        match desired {
            Desired::Present(agent) => self.look_up_present(agent, &mut observed),
            Desired::Absent(farewell) => {
                observed.place = Known::Present(self.account.place.clone());
                observed.owner = self.owner();
                if let Some(role) = &farewell.own_role {
                    observed.identity = Known::Present(self.identity(role));
                }
                let volumes = observed.volumes.present().is_some_and(|volumes| !volumes.is_empty());
                if last_policy(farewell, &observed) == DeletionPolicy::Snapshot && volumes {
                    let snapshots = self.account.snapshots(CLUSTER, &farewell.claim.agent_uid);
                    observed.snapshots = Known::Present(snapshots);
                }
            }
        }
        if let Desired::Present(agent) = desired {
            observed.secret = self.secret(agent, &observed);
        }
        self.probe(desired, &mut observed);
        self.note_uses(desired, &observed);
        observed
    }

    /// Tells the janitor what this agent shares with others.
    fn note_uses(&mut self, desired: &Desired, observed: &Observed) {
        let uses = match desired {
            Desired::Present(agent) => {
                let group = observed.security_group.present().map(|group| group.id.clone());
                group.into_iter().chain([agent.identity.profile.clone()]).collect()
            }
            Desired::Absent(_) => BTreeSet::new(),
        };
        self.operator.memory(self.index).uses = Some(uses);
    }

    fn remembered(&mut self, wish: &Wish) -> Observed {
        status::bound_times(&mut self.status, self.now);
        let recorded = Recorded::from_status(&self.status);
        let uid = self.object.uid();
        if matches!(wish.as_deref(), Ok(Desired::Absent(_))) {
            self.operator.index.want_fresh(&uid);
        }
        let ids: Vec<&str> = recorded
            .instance_id
            .iter()
            .chain(&recorded.volume_id)
            .map(String::as_str)
            .collect();
        let mut view = self.operator.index.view(&uid, &ids);
        let strangers = if status::is_in_doubt(&self.status, &uid, &view.unseen) {
            self.operator.index.strangers(&uid, &ids)
        } else {
            BTreeSet::new()
        };
        complete_sizes(&mut view.volumes, &self.status);
        let memory = &self.operator.memories[&self.index];
        let mut observed = Observed {
            has_finalizer: memory.seen.as_ref().unwrap().finalizer,
            instances: view.instances,
            volumes: view.volumes,
            seen_at: view.seen_at,
            changed_at: view.changed_at,
            unseen: view.unseen,
            strangers,
            bundle_gone: view.bundle_gone,
            stray_bundles: view.stray_bundles,
            bundles_deleted: memory.bundles_deleted.clone(),
            volume_deleted: memory.volume_deleted.clone(),
            tried_launch: memory.tried_launch.clone(),
            launch_trace: memory.launches.of(recorded.launch.as_ref()),
            refusal: memory.refused.last().cloned(),
            refused_before: memory.refused.before().to_vec(),
            recorded,
            ..Observed::default()
        };
        observed.may_disrupt = true;
        if let Ok(desired) = wish {
            let leaves = matches!(desired.as_ref(), Desired::Absent(_));
            observed.disown(desired.claim(), leaves, &mut self.status);
        }
        forget_past_boot(&mut observed);
        let console = current_instance(&observed)
            .and_then(|instance| memory.console.clone().filter(|(id, _, _)| *id == instance.id));
        observed.set_up = console.as_ref().map(|(_, text, at)| SetUpWord::of(text, *at));
        observed.console = console.map(|(_, text, _)| text);
        observed
    }

    fn look_up_present(&mut self, agent: &DesiredAgent, observed: &mut Observed) {
        observed.place = Known::Present(self.account.place.clone());
        observed.owner = self.owner();
        observed.image = Known::Present("ami-1".into());
        let zone = self.status.volume.as_ref().and_then(|volume| volume.zone.clone());
        let subnet = self.subnet(zone.as_deref());
        let mut identity = self.identity(&agent.identity.profile);
        let wanted = identity::role_policy(CLUSTER, &self.account.place, &agent.role_models, &agent.identity.scope);
        let (_, role) = self.account.identity(&agent.identity.profile);
        identity.policy_current &= role
            .and_then(|role| role.policy.as_deref())
            .is_some_and(|policy| policy == wanted);
        observed.identity = Known::Present(identity);
        observed.security_group = self.group(agent, &subnet);
        if let Some(instance) = current_instance(observed) {
            observed.worn = self.operator.index.worn(instance, observed.security_group.present());
        }
        observed.subnet = Known::Present(subnet);
    }

    fn subnet(&self, zone: Option<&str>) -> Subnet {
        let subnets = &self.account.subnets;
        let found = subnets
            .iter()
            .find(|subnet| zone.is_none_or(|zone| subnet.zone == zone));
        found.unwrap_or(&subnets[0]).clone()
    }

    fn group(&mut self, agent: &DesiredAgent, subnet: &Subnet) -> Known<SecurityGroup> {
        let rule_set = network::rule_set(&network::rules(&agent.ingress, subnet));
        let name = names::security_group(CLUSTER, &rule_set);
        match self.operator.index.group(&subnet.vpc_id, &name) {
            None => Known::Unknown,
            Some(None) => Known::Absent,
            Some(Some(group)) => Known::Present(group.facts),
        }
    }

    fn owner(&mut self) -> OwnerRecord {
        if let Some((owner, until)) = self.operator.owner.as_ref().filter(|(_, until)| self.now < *until) {
            let _ = until;
            return owner.clone();
        }
        let owner = match self.account.parameter(&names::owner_parameter(CLUSTER)) {
            None => OwnerRecord::Unbound,
            Some(record) if record.value == OWNER => OwnerRecord::Ours,
            Some(record) => OwnerRecord::Foreign {
                kube_system_uid: record.value.clone(),
            },
        };
        let pause = if owner == OwnerRecord::Ours { LOOKUP } else { ABSENT };
        self.operator.owner = Some((owner.clone(), self.now.saturating_add(pause).unwrap()));
        owner
    }

    /// Remembered for a while, as the look-ups do; our own changes are noted.
    pub(crate) fn identity(&mut self, name: &str) -> Identity {
        let (now, known) = (self.now, self.operator.identities.get(name));
        if let Some((identity, until)) = known.filter(|(_, until)| now < *until) {
            let _ = until;
            return identity.clone();
        }
        let changed_at = known.and_then(|(identity, _)| identity.changed_at);
        let identity = Identity {
            changed_at,
            ..identity_of(self.account, name)
        };
        let pause = if identity.profile_arn.is_some() { LOOKUP } else { ABSENT };
        let until = now.saturating_add(pause).unwrap();
        self.operator
            .identities
            .insert(name.to_owned(), (identity.clone(), until));
        identity
    }

    fn secret(&self, agent: &DesiredAgent, observed: &Observed) -> Known<SecretFacts> {
        let Some(secret) = &self.object.secret else {
            return Known::Absent;
        };
        let instance = current_instance(observed);
        let volume = instance.and_then(|instance| data_volume_id(observed, instance));
        Known::Present(secret.facts(volume.map(|volume| bundle_text(secret, &volume, &agent.config_sha256))))
    }

    /// Who can be asked is asked.
    fn probe(&mut self, desired: &Desired, observed: &mut Observed) {
        let asked =
            probe_target(desired, observed).map(|instance| probe(self.account, self.object, instance, self.now));
        let memory = self.operator.memory(self.index);
        if asked.is_some() {
            memory.probe = asked;
        }
        observed.probe.clone_from(&memory.probe);
        let confirmed = |pushed: &mut Pushed| {
            observed
                .probe
                .as_ref()
                .is_some_and(|probe| pushed.is_confirmed_by(probe))
        };
        memory.pushed.take_if(confirmed);
        observed.pushed.clone_from(&memory.pushed);
    }
}

/// What IAM shows, as the planner knows it.
pub(crate) fn identity_of(account: &Account, name: &str) -> Identity {
    let (profile, role) = account.identity(name);
    let claimed = |tags: &std::collections::BTreeMap<String, String>| {
        tags.get(names::TAG_CLUSTER).is_some_and(|cluster| cluster == CLUSTER)
    };
    let tags = profile.map(|profile| &profile.tags).or(role.map(|role| &role.tags));
    let ours = tags.is_none_or(claimed);
    let held = profile.and_then(|profile| profile.role.as_ref());
    Identity {
        profile_arn: profile.map(|_| account.profile_arn(name)),
        ours,
        role_exists: role.is_some(),
        policy_current: role.is_some_and(|role| role.policy.is_some()),
        has_policy: role.is_some_and(|role| role.policy.is_some()),
        role_in_profile: held.is_some_and(|held| held == name),
        other_role: held.filter(|held| *held != name && ours).cloned(),
        changed_at: None,
    }
}

/// What a bundle is made of, as far as the simulation goes.
pub(crate) fn bundle_text(secret: &Secret, volume: &str, config: &str) -> String {
    format!("{} {volume} {config}", secret.material())
}

/// The way of a probe: a machine that booted, with its volume and a bundle, whose gateway holds the Secret's token.
pub(crate) fn probe(account: &Account, object: &Object, instance: &Instance, now: Timestamp) -> Probe {
    let failed = |hop, message: &str| {
        Err(ProbeFailure {
            hop,
            message: message.to_owned(),
        })
    };
    let name = names::bundle_parameter(CLUSTER, &object.uid(), &instance.id);
    let bundle = account.parameter(&name).map(|parameter| parameter.value.as_str());
    let machine = account.machine_of(&instance.id);
    let booted = machine
        .and_then(|machine| machine.running_since)
        .is_some_and(|since| now.duration_since(since) >= BOOT);
    let mounted = machine.is_some_and(|machine| machine.data_volume.is_some() && machine.impaired.is_empty());
    let parts: Vec<&str> = bundle.unwrap_or_default().split(' ').collect();
    let opened = object.secret.as_ref().map(|secret| secret.opens(parts[0]));
    let outcome = if !booted || !mounted || object.gateway_broken || parts.len() != 3 {
        failed(Hop::Connect, "refused")
    } else if let Some(Err(hop)) = opened {
        failed(hop, "not the one of the Secret")
    } else {
        Ok(GatewayHealth {
            ok: true,
            version: "1".into(),
            config_sha256: Some(object.config_edited.clone().unwrap_or_else(|| parts[2].to_owned())),
            config_restart_sha256: None,
            workspace_seeded: false,
            detail: None,
        })
    };
    Probe {
        at: now,
        instance_id: instance.id.clone(),
        launch_time: instance.launch_time,
        outcome,
    }
}

/// A volume that only a block device mapping names has the size of its launch.
fn complete_sizes(volumes: &mut Known<Vec<Volume>>, status: &koi_core::api::KoiAgentStatus) {
    let Known::Present(volumes) = volumes else { return };
    let recorded = status.volume.as_ref().and_then(|volume| volume.size_gib);
    let launch = status.launch.as_ref().and_then(|launch| launch.data_volume.as_ref());
    let launched = launch.map(|volume| volume.size_gib);
    for volume in volumes.iter_mut().filter(|volume| volume.size_gib == 0) {
        volume.size_gib = recorded.or(launched).unwrap_or(1).into();
    }
}
