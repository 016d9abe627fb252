//! Observe: what is known of the agent's world, put together from memory. A settled agent costs no call.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use hex::FromHex as _;
use jiff::Timestamp;
use koi_core::api::{DeletionPolicy, KoiAgentStatus, ProbeAddress, Reason};
use koi_core::desired::{Desired, DesiredAgent, Farewell, ImageWish};
use koi_core::names::{self, FINALIZER};
use koi_core::observed::{
    Identity, Instance, InstanceState, Known, Observed, OwnerRecord, Pushed, Recorded, Refused, SecretFacts, Snapshot,
    Subnet, VolumeState,
};
use koi_core::offering;
use koi_core::plan::{
    Why, current_instance, data_volume_id, forget_past_boot, is_of_farewell, last_policy, probe_target,
};
use koi_core::refusal::NO_CREDENTIALS;
use koi_core::render::bundle;
use koi_core::render::network;
use koi_core::status;
use koi_wire::bundle::TooLarge;
use kube::ResourceExt as _;

use super::policy::Wished;
use super::secret::GatewaySecret;
use super::validate::digest;
use super::{FIRST_WORD, LAST_WORD, Round};
use crate::cloud::{Answer, Cloud, CloudError};
use crate::janitor;
use crate::lookups::Profile;
use crate::probe::rounds::Past;
use crate::probe::{HTTPS, Target};

/// As long as any volume's id, and as hard to compress.
const A_VOLUME: &str = "vol-0f9c2d71b8e3a5604";

/// The bundle that a wish and a Secret make, remembered by what it was made of.
pub(super) struct BundleDigest {
    /// A digest of what it was made of.
    from: u64,
    sha256: Result<[u8; 32], TooLarge>,
}

impl BundleDigest {
    /// What was made of that; its SHA-256 as hex.
    fn of(from: u64, sha256: &Result<String, TooLarge>) -> Option<Self> {
        let sha256 = match sha256 {
            Ok(sha256) => Ok(<[u8; 32]>::from_hex(sha256).ok()?),
            Err(too_large) => Err(*too_large),
        };
        Some(Self { from, sha256 })
    }
}

impl<C: Cloud> Round<'_, C> {
    /// Everything that the planner looks at.
    pub(super) async fn observe(&mut self, wish: &Result<Arc<Desired>, Why>) -> Observed {
        let mut observed = self.remembered(wish);
        let Ok(desired) = wish else {
            // Whatever is wrong with the wish, or with its plan: what runs goes on running, and is told as it is.
            self.aim_unsettled(&mut observed).await;
            self.context
                .memories
                .note_no_wish(self.agent.metadata.uid.as_deref().unwrap_or_default());
            observed.probe = self.context.rounds.last(&self.agent.uid().unwrap_or_default());
            observed.unsettled_power = Some(self.agent.spec.power);
            if let Some(instance) = current_instance(&observed) {
                observed.worn = self.context.fleet.worn(instance, None);
                self.look_up_home(&mut observed, &mut None).await;
            }
            return observed;
        };
        if self.is_first_word() && !matches!(desired.as_ref(), Desired::Absent(_)) {
            // Somebody waits for a first word: a cloud that is slow to answer may not delay it.
            let _ = tokio::time::timeout(FIRST_WORD, self.look_up(desired, &mut observed)).await;
        } else {
            self.look_up(desired, &mut observed).await;
        }
        let unread = self.read_secret().await.err();
        self.secret_and_bundle(desired, &mut observed, unread).await;
        self.aim(desired, &observed);
        self.note_uses(desired, &observed);
        let agent_uid = &desired.claim().agent_uid;
        observed.probe = self.context.rounds.last(agent_uid);
        (observed.silent_since, observed.failing_since) = self.context.rounds.silent_since(agent_uid);
        let confirmed = |pushed: &mut Pushed| {
            observed
                .probe
                .as_ref()
                .is_some_and(|probe| pushed.is_confirmed_by(probe))
        };
        let work = self.memory.work();
        work.pushed.take_if(confirmed);
        observed.pushed.clone_from(&work.pushed);
        observed.may_disrupt = self.may_disrupt(desired, &observed);
        observed.outage = match &observed.probe {
            Some(probe) => probe.outcome.is_err() && self.context.rounds.outage(probe.at),
            None => self.context.rounds.outage(self.context.clock.now()),
        };
        observed
    }

    /// What status, the fleet view and this process know.
    fn remembered(&mut self, wish: &Result<Arc<Desired>, Why>) -> Observed {
        status::bound_times(&mut self.status, self.context.clock.now());
        let recorded = Recorded::from_status(&self.status);
        let uid = self.agent.uid().unwrap_or_default();
        if matches!(wish.as_deref(), Ok(Desired::Absent(_))) {
            self.context.fleet.want_fresh(&uid);
        }
        let ids: Vec<&str> = [&recorded.instance_id, &recorded.volume_id]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let view = self.context.fleet.view(&uid, &ids);
        let strangers = if status::is_in_doubt(&self.status, &uid, &view.unseen) {
            self.context.fleet.strangers(&uid, &ids)
        } else {
            BTreeSet::new()
        };
        let mut observed = Observed {
            has_finalizer: self.agent.finalizers().iter().any(|finalizer| finalizer == FINALIZER),
            instances: view.instances,
            volumes: view.volumes,
            seen_at: view.seen_at,
            changed_at: view.changed_at,
            unseen: view.unseen,
            strangers,
            bundle_gone: view.bundle_gone,
            stray_bundles: view.stray_bundles,
            bundles_deleted: self.memory.work().bundles_deleted.clone(),
            volume_deleted: self.memory.work().volume_deleted.clone(),
            tried_launch: self.memory.work().tried_launch.clone(),
            launch_trace: self.memory.launches.of(recorded.launch.as_ref()),
            refusal: self.memory.work().refused.last().cloned(),
            refused_before: self.memory.work().refused.before().to_vec(),
            recorded,
            ..Observed::default()
        };
        if let Ok(desired) = wish {
            let leaves = matches!(desired.as_ref(), Desired::Absent(_));
            observed.disown(desired.claim(), leaves, &mut self.status);
        }
        complete_sizes(&mut observed.volumes, &self.status);
        forget_past_boot(&mut observed);
        let now = self.context.clock.now();
        if let Some(instance) = current_instance(&observed).map(|instance| instance.id.clone()) {
            observed.console = self.memory.console(&instance, now);
            observed.set_up = self.memory.set_up(&instance);
        }
        let health = self.context.fleet.health();
        let health = health.borrow();
        if let Some(problem) = &health.problem {
            observed.blind = Some(failed_read(problem, health.failed, now));
            if observed.instances == Known::Unknown && observed.refusal.is_none() {
                let count = self.memory.work().failed_reads.saturating_add(1);
                observed.refusal = Some(failed_read(problem, count, now));
            }
        }
        observed
    }

    /// A recorded instance that nobody has looked for by its id yet: the first list after a start knows no ids, and may be short of one.
    pub(super) fn is_to_be_looked_for(&self, observed: &Observed) -> bool {
        let unseen = observed.recorded.instance_id.as_ref();
        let unseen = unseen.and_then(|id| observed.unseen.get(id));
        // Where the next list will be refused, too, that is to be told.
        let refused = observed.blind.as_ref();
        let refused = refused.is_some_and(|refused| refused.refusal.stalls(refused.count));
        unseen.is_some_and(|unseen| unseen.reads == 0) && !refused && !self.is_leaving()
    }

    /// What changes rarely, from the look-ups. What cannot be asked stays unknown; the first failure explains why.
    async fn look_up(&mut self, desired: &Desired, observed: &mut Observed) {
        let mut failed = None;
        match desired {
            // The last word on the data is written where it is known to belong; who does not say holds nobody for long.
            Desired::Absent(farewell) if farewell.force => {
                let _ = tokio::time::timeout(LAST_WORD, self.look_up_home(observed, &mut failed)).await;
            }
            Desired::Absent(farewell) => self.look_up_absent(farewell, observed, &mut failed).await,
            Desired::Present(agent) => self.look_up_present(agent, observed, &mut failed).await,
        }
        let failed_reads = &mut self.memory.work().failed_reads;
        *failed_reads = if failed.is_some() {
            failed_reads.saturating_add(1)
        } else {
            0
        };
        if let Some(error) = failed {
            let mut told = failed_read(&error, *failed_reads, self.context.clock.now());
            if matches!(desired, Desired::Absent(farewell) if farewell.force) {
                // Looks that are answered with the last failure are no tries.
                told.count = self.context.lookups.failed_at_home();
                observed.blind = Some(told.clone());
            }
            observed.refusal.get_or_insert(told);
        }
    }

    async fn look_up_home(&self, observed: &mut Observed, failed: &mut Option<CloudError>) {
        let lookups = &self.context.lookups;
        if let Some(place) = known(lookups.place().await, failed) {
            observed.place = Known::Present(place);
        }
        if lacks_credentials(failed.as_ref()) {
            return;
        }
        observed.owner = known(lookups.owner().await, failed).unwrap_or(OwnerRecord::Unknown);
    }

    async fn look_up_present(
        &mut self,
        agent: &DesiredAgent,
        observed: &mut Observed,
        failed: &mut Option<CloudError>,
    ) {
        let context = self.context;
        let lookups = &context.lookups;
        self.look_up_home(observed, failed).await;
        if lacks_credentials(failed.as_ref()) {
            return;
        }
        observed.image = match &agent.image {
            ImageWish::Id(id) => Known::Present(id.clone()),
            ImageWish::Parameter(name) => known(lookups.image(name).await, failed).unwrap_or_default(),
        };
        let recorded = self.status.volume.as_ref().and_then(|volume| volume.zone.clone());
        let zone = recorded.or_else(|| zone_of_left_volume(agent, observed));
        if let Some(subnets) = known(lookups.subnets(&agent.subnet_ids, zone.as_deref()).await, failed) {
            self.choose_offering(agent, subnets, observed);
        }
        if let Some(profile) = known(lookups.profile(&agent.identity.profile).await, failed) {
            observed.identity = Known::Present(self.wished_identity(agent, observed, &profile));
        }
        observed.security_group = self.security_group(agent, observed);
        if let Some(instance) = current_instance(observed) {
            observed.worn = self.context.fleet.worn(instance, observed.security_group.present());
        }
    }

    /// Where a launch would be asked for now: EC2 may lately have had no room for the first choice. What runs stays where it is.
    fn choose_offering(&mut self, agent: &DesiredAgent, mut subnets: Vec<Subnet>, observed: &mut Observed) {
        let types = std::iter::once(&agent.instance_type).chain(&agent.fallback_types);
        let now = self.context.clock.now();
        let lives = current_instance(observed).filter(|instance| !instance.state.is_dying());
        let first = match lives {
            Some(instance) => subnets
                .iter()
                .position(|subnet| instance.subnet_id.as_ref() == Some(&subnet.id)),
            None => {
                let offerings = &mut self.memory.work().offerings;
                *offerings = offering::all(types, &subnets);
                let exhausted = self.context.exhausted.lock().unwrap_or_else(PoisonError::into_inner);
                let chosen = offering::choose(offerings, &exhausted, now);
                observed.offered_type = chosen.map(|offering| offering.instance_type.clone());
                chosen.and_then(|chosen| subnets.iter().position(|subnet| subnet.id == chosen.subnet_id))
            }
        };
        observed.subnet = if subnets.is_empty() {
            Known::Absent
        } else {
            Known::Present(subnets.swap_remove(first.unwrap_or_default()))
        };
    }

    async fn look_up_absent(&mut self, farewell: &Farewell, observed: &mut Observed, failed: &mut Option<CloudError>) {
        self.look_up_home(observed, failed).await;
        if let Some(role) = &farewell.own_role
            && let Some(profile) = known(self.context.lookups.profile(role).await, failed)
        {
            observed.identity = Known::Present(as_identity(&profile, &farewell.claim.cluster_id, true));
        }
        if last_policy(farewell, observed) == DeletionPolicy::Snapshot && is_next_to_go(observed) {
            observed.snapshots = self.snapshots(farewell, failed).await;
        }
    }

    async fn snapshots(&mut self, farewell: &Farewell, failed: &mut Option<CloudError>) -> Known<Vec<Snapshot>> {
        let now = self.context.clock.now();
        let mut listed = match self.memory.snapshots_still_known(now) {
            Some(listed) => listed,
            None => {
                let claim = &farewell.claim;
                let asked = self.context.cloud.snapshots(&claim.cluster_id, &claim.agent_uid).await;
                let Some(listed) = known(asked, failed) else {
                    return Known::Unknown;
                };
                self.memory.work().listed_snapshots = Some((now, listed.clone()));
                listed
            }
        };
        self.memory.complete(&mut listed, now);
        if let Some(leaves_since) = &self.agent.metadata.deletion_timestamp {
            let own = &self.memory.work().own_snapshots;
            listed.retain(|snapshot| own.contains(&snapshot.id) || is_of_farewell(snapshot, leaves_since.0));
        }
        Known::Present(listed)
    }

    /// The profile that an agent wishes.
    fn wished_identity(&mut self, agent: &DesiredAgent, observed: &Observed, profile: &Profile) -> Identity {
        let current = match (observed.place.present(), &profile.facts.policy) {
            (Some(place), Some(policy)) => {
                let wished = Wished {
                    cluster_id: &agent.claim.cluster_id,
                    place,
                    models: &agent.role_models,
                    scope: &agent.identity.scope,
                };
                self.memory.policy.is_wished(wished, policy)
            }
            _ => false,
        };
        as_identity(profile, &agent.claim.cluster_id, current)
    }

    /// The group of the wished rule set, by name; a foreign one of that name is known only once a creation met it.
    fn security_group(&self, agent: &DesiredAgent, observed: &Observed) -> Known<koi_core::observed::SecurityGroup> {
        let Some(subnet) = observed.subnet.present() else {
            return Known::Unknown;
        };
        let rule_set = network::rule_set(&network::rules(&agent.ingress, subnet));
        let name = names::security_group(&agent.claim.cluster_id, &rule_set);
        match self.context.fleet.group(&subnet.vpc_id, &name) {
            None => Known::Unknown,
            Some(None) => Known::Absent,
            Some(Some(group)) => Known::Present(group.facts),
        }
    }

    /// The Secret and the bundle that it makes with the wish; or why it cannot be told.
    async fn secret_and_bundle(&mut self, desired: &Arc<Desired>, observed: &mut Observed, unread: Option<Why>) {
        let Desired::Present(agent) = desired.as_ref() else {
            return;
        };
        self.memory.work().unread = unread.is_some();
        let Some(secret) = self.secret() else {
            observed.secret = self.no_secret(unread.is_none());
            return;
        };
        let volume_id = current_instance(observed).and_then(|instance| data_volume_id(observed, instance));
        let mut facts = secret.facts();
        let to_be = volume_id.is_none();
        let volume_id = volume_id.unwrap_or_else(|| A_VOLUME.to_owned());
        let digest = match unread {
            Some(why) => Err(why),
            None => self.bundle_digest(agent, &secret, volume_id).await,
        };
        match digest {
            Ok(Some(Ok(sha256))) => facts.bundle_sha256 = Some(sha256).filter(|_| !to_be),
            Ok(Some(Err(too_large))) => facts.bundle_problem = Some(no_room(&too_large)),
            Ok(None) => {}
            Err(why) => {
                self.memory.work().unread = true;
                facts.bundle_problem = Some(why);
            }
        }
        if let Some(due) = &facts.bundle_sha256 {
            let recorded = &observed.recorded;
            let left = recorded.bundle.as_ref();
            let left = left.filter(|left| recorded.instance_id.as_ref() == Some(&left.instance_id));
            let left = left.map(|left| left.sha256.as_str());
            self.memory.handover.meet_bundle(left, due, self.context.clock.now());
        }
        observed.secret = Known::Present(facts);
    }

    /// What it means that there is no Secret of the agent's own, which could be asked for or not.
    fn no_secret(&mut self, asked: bool) -> Known<SecretFacts> {
        match asked {
            _ if self.memory.work().foreign_secret => Known::Present(foreign_secret()),
            true => Known::Absent,
            false => Known::Unknown,
        }
    }

    async fn bundle_digest(
        &mut self,
        agent: &DesiredAgent,
        secret: &GatewaySecret,
        volume_id: String,
    ) -> Result<Option<Result<String, TooLarge>>, Why> {
        let Some(wish) = self.memory.work().validated.as_ref().map(|validated| validated.from) else {
            return Ok(None);
        };
        let from = digest(&(wish, &secret.version, &volume_id));
        if let Some(known) = self.memory.bundle.as_ref().filter(|known| known.from == from) {
            return Ok(Some(known.sha256.map(hex::encode)));
        }
        if secret.content.is_none() {
            return Ok(None);
        }
        let Some(material) = self.material(secret).await? else {
            return Ok(None);
        };
        let sha256 = bundle::encoded(&bundle::bundle(agent, &volume_id, &material)).map(|(_, sha256)| sha256);
        self.memory.bundle = BundleDigest::of(from, &sha256);
        Ok(Some(sha256))
    }

    /// Tells the janitor what this agent shares with others.
    fn note_uses(&self, desired: &Desired, observed: &Observed) {
        let uses = match desired {
            Desired::Present(agent) => {
                let group = observed.security_group.present().map(|group| group.id.as_str());
                janitor::uses(group, &agent.identity.profile)
            }
            Desired::Absent(_) => BTreeSet::new(),
        };
        self.context.memories.note_uses(&desired.claim().agent_uid, uses);
    }

    /// Tells the probes whom to ask.
    fn aim(&mut self, desired: &Desired, observed: &Observed) {
        let uid = desired.claim().agent_uid.clone();
        let target = match desired {
            Desired::Present(agent) => {
                probe_target(desired, observed).and_then(|instance| self.target(agent, instance))
            }
            Desired::Absent(_) => None,
        };
        self.context.rounds.aim(&uid, target, past(&observed.recorded));
    }

    /// Whose wish cannot be settled is asked all the same, at any of its addresses.
    async fn aim_unsettled(&mut self, observed: &mut Observed) {
        self.memory.handover.wait(self.context.clock.now());
        // Who has no Secret, or may not read it, is not asked, and that is told.
        let asked = self.read_secret().await.is_ok();
        observed.secret = match self.secret() {
            Some(secret) => Known::Present(secret.facts()),
            None => self.no_secret(asked),
        };
        let running = current_instance(observed).filter(|instance| instance.state == InstanceState::Running);
        let target = running.and_then(|instance| {
            let there = |wanted| addresses(wanted, instance.private_ip.as_deref(), instance.public_ip.as_deref());
            self.target_at(ProbeAddress::default(), &instance.id, instance.launch_time, there)
        });
        let uid = self.agent.uid().unwrap_or_default();
        self.context.rounds.aim(&uid, target, past(&observed.recorded));
    }

    /// Before the first list the gateway is asked where status says that it is: whether it answers no cloud has to tell.
    pub(super) async fn aim_as_told(&mut self) {
        let wish = self.validate();
        let (Ok(Desired::Present(agent)), Some(told)) = (wish.as_deref(), self.status.instance.clone()) else {
            return;
        };
        // Who has no Secret, or may not read it, is not asked.
        let _ = self.read_secret().await;
        let target = self.target_at(
            agent.probe_address,
            &told.id,
            told.launch_time.map(|time| time.0),
            |wanted| addresses(wanted, told.private_ip.as_deref(), told.public_ip.as_deref()),
        );
        let past = past(&Recorded::from_status(&self.status));
        self.context.rounds.aim(&agent.claim.agent_uid, target, past);
    }

    /// The gateway of this instance.
    pub(super) fn target(&mut self, agent: &DesiredAgent, instance: &Instance) -> Option<Target> {
        self.target_at(agent.probe_address, &instance.id, instance.launch_time, |wanted| {
            addresses(wanted, instance.private_ip.as_deref(), instance.public_ip.as_deref())
        })
    }

    fn target_at(
        &mut self,
        wanted: ProbeAddress,
        instance_id: &str,
        launch_time: Option<Timestamp>,
        addresses: impl FnOnce(ProbeAddress) -> Box<[IpAddr]>,
    ) -> Option<Target> {
        let secret = self.secret()?;
        let content = secret.content.as_ref()?;
        let uid = self.agent.uid().unwrap_or_default();
        if self
            .context
            .rounds
            .has_taken(&uid, &content.token, content.pin.sha256())
        {
            self.memory.handover.finish();
        }
        let in_handover = self.memory.handover.remaining(self.context.clock.now()).is_some();
        Some(Target {
            instance_id: instance_id.to_owned(),
            launch_time,
            addresses: addresses(wanted),
            port: HTTPS,
            pin: self.memory.handover.pin(&content.pin),
            token: content.token.clone(),
            in_handover,
        })
    }
}

/// Where the data volume waits that a launch without any record of it takes over.
fn zone_of_left_volume(agent: &DesiredAgent, observed: &Observed) -> Option<String> {
    let launch = observed.recorded.launch.as_ref();
    let takes = |id: &String| launch.is_none_or(|launch| launch.kept_volume_id.as_ref() == Some(id));
    let left = observed.volumes.present()?.iter().find(|volume| {
        volume.state == VolumeState::Available && agent.claim.matches(&volume.tags) && takes(&volume.id)
    });
    left.map(|volume| volume.zone.clone())
}

/// A value, or nothing and the first error remembered.
fn known<T>(answer: Answer<T>, failed: &mut Option<CloudError>) -> Option<T> {
    answer.map_err(|error| failed.get_or_insert(error).clone()).ok()
}

/// Whoever has no credentials need not ask for anything else: to find out takes seconds each time.
fn lacks_credentials(failed: Option<&CloudError>) -> bool {
    failed.is_some_and(|error| error.code == NO_CREDENTIALS)
}

/// A failed read as the planner knows refusals.
fn failed_read(error: &CloudError, count: u32, now: Timestamp) -> Refused {
    let refusal = error.refusal();
    Refused {
        refusal,
        step: error.operation,
        about: None,
        count,
        retry_at: Some(now),
    }
}

/// What status tells of the gateway.
fn past(recorded: &Recorded) -> Past {
    match (recorded.was_healthy, recorded.is_well()) {
        (_, true) => Past::Well,
        (true, false) => Past::Silent,
        (false, false) => Past::New,
    }
}

/// A bundle that SSM would not take.
pub(super) fn no_room(too_large: &TooLarge) -> Why {
    Why {
        reason: Reason::BundleTooLarge,
        message: format!("{too_large}."),
    }
}

fn foreign_secret() -> SecretFacts {
    SecretFacts {
        problem: Some("exists and does not belong to this agent".to_owned()),
        foreign: true,
        tls_sha256: String::new(),
        not_after: Timestamp::MAX,
        ..SecretFacts::default()
    }
}

/// The same for what nobody wishes any more: which policy it has does not matter.
pub(crate) fn shared_identity(profile: &Profile, cluster_id: &str) -> Identity {
    as_identity(profile, cluster_id, true)
}

/// IAM's facts as the planner knows them.
fn as_identity(profile: &Profile, cluster_id: &str, policy_current: bool) -> Identity {
    let facts = &profile.facts;
    let claimed = |thing: &crate::cloud::Tagged| {
        thing
            .tags
            .get(names::TAG_CLUSTER)
            .is_some_and(|cluster| cluster == cluster_id)
    };
    // A profile decides; without one a role that is not ours would be a stranger's, too.
    let ours = facts.profile.as_ref().or(facts.role.as_ref()).is_none_or(claimed);
    Identity {
        profile_arn: facts.profile.as_ref().map(|profile| profile.arn.clone()),
        ours,
        role_exists: facts.role.is_some(),
        policy_current: policy_current && facts.policy.is_some(),
        has_policy: facts.policy.is_some(),
        role_in_profile: facts.role_in_profile,
        other_role: facts.other_role.clone().filter(|_| ours),
        changed_at: profile.changed_at,
    }
}

/// A volume that only a block device mapping names has the size of its launch.
fn complete_sizes(volumes: &mut Known<Vec<koi_core::observed::Volume>>, status: &KoiAgentStatus) {
    let Known::Present(volumes) = volumes else { return };
    let recorded = status.volume.as_ref().and_then(|volume| volume.size_gib);
    let launched = status
        .launch
        .as_ref()
        .and_then(|launch| launch.data_volume.as_ref())
        .map(|volume| volume.size_gib);
    for volume in volumes.iter_mut().filter(|volume| volume.size_gib == 0) {
        volume.size_gib = recorded.or(launched).unwrap_or(1).into();
    }
}

/// A volume is free: the next that is asked about it is its last snapshot.
fn is_next_to_go(observed: &Observed) -> bool {
    let mut volumes = observed.volumes.present().into_iter().flatten();
    volumes.any(|volume| matches!(volume.state, VolumeState::Available | VolumeState::Unrecognized))
}

/// Where a gateway may be reached, in the order in which to try.
fn addresses(wanted: ProbeAddress, private: Option<&str>, public: Option<&str>) -> Box<[IpAddr]> {
    let parse = |address: Option<&str>| address.and_then(|address| address.parse().ok());
    let (private, public) = (parse(private), parse(public));
    match wanted {
        ProbeAddress::Auto => private.into_iter().chain(public).collect(),
        ProbeAddress::Private => private.into_iter().collect(),
        ProbeAddress::Public => public.into_iter().collect(),
    }
}
