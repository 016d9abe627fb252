//! An agent that ought to be there: what it lacks, in the order in which the parts need each other.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::launch::{self, Parts, VISIBILITY, is_lost};
use super::{AT_ONCE, Halt, Plan, SHORTLY, Step, Verdict, Why, gate, unknown};
use crate::api::{Power, Reason};
use crate::desired::{DesiredAgent, span};
use crate::names;
use crate::observed::{
    Hop, Instance, InstanceState, Known, Observed, OwnerRecord, Place, Probe, ProbeFailure, SecurityGroup, Subnet,
    Volume, VolumeState,
};
use crate::render::identity::{role_policy, trust_policy};
use crate::render::network;

/// Tag of an instance that is not the recorded one.
const ORPHAN: &str = "skykoi:orphan";
/// A launch that died before it ever worked is not repeated faster than this.
const RELAUNCH_PAUSE: SignedDuration = SignedDuration::from_secs(300);
/// How much of the console goes into a message.
const CONSOLE_TAIL: usize = 1500;

pub(super) fn plan(agent: &DesiredAgent, observed: &Observed, now: Timestamp) -> Plan {
    let mut round = Round {
        agent,
        observed,
        now,
        steps: Vec::new(),
    };
    let outcome = round.walk();
    Plan::conclude(round.steps, outcome)
}

/// One round about one agent.
struct Round<'a> {
    agent: &'a DesiredAgent,
    observed: &'a Observed,
    now: Timestamp,
    steps: Vec<Step>,
}

/// The instances with our claim, sorted out.
struct Herd<'a> {
    /// The one that Ready is about, alive or dying.
    current: Option<&'a Instance>,
    /// Other live ones.
    orphans: Vec<&'a Instance>,
    /// The highest epoch that any of them carries.
    epoch: i64,
}

impl<'a> Round<'a> {
    fn walk(&mut self) -> Result<(), Halt> {
        if !self.observed.has_finalizer {
            self.steps.push(Step::AddFinalizer);
        }
        let place = self.place()?;
        let herd = self.herd()?;
        self.stop_orphans(&herd);
        if self.agent.power == Power::Suspended {
            return self.suspend(&herd);
        }
        self.secret()?;
        if let Some(instance) = herd.current.filter(|instance| !instance.state.is_dying()) {
            return self.maintain(&herd, instance, place);
        }
        // Neither needs the other: both begin in the same round.
        let identity = self.identity(place);
        let network = self.network(&herd);
        identity?;
        let (subnet, group_id) = network?;
        self.bring_up(&herd, place, subnet, group_id)
    }

    /// What runs goes on running while the things around it are looked at and repaired; what is not known of them does not count.
    fn maintain(&mut self, herd: &Herd<'_>, instance: &Instance, place: &Place) -> Result<(), Halt> {
        let Observed {
            identity,
            subnet,
            security_group,
            ..
        } = self.observed;
        let identity = if *identity == Known::Unknown {
            Ok(())
        } else {
            self.identity(place)
        };
        let unseen = *subnet == Known::Unknown || *security_group == Known::Unknown;
        let network = if unseen { Ok(()) } else { self.network(herd).map(|_| ()) };
        self.keep(instance).and(identity).and(network)
    }

    fn place(&self) -> Result<&'a Place, Halt> {
        let here = self
            .observed
            .place
            .present()
            .ok_or_else(|| unknown(self.observed, "The AWS account that the credentials belong to"))?;
        if let OwnerRecord::Foreign { kube_system_uid } = &self.observed.owner {
            let why = gate::foreign(kube_system_uid);
            return Err(Halt::blocked(why.reason, why.message));
        }
        match &self.observed.recorded.place {
            Some(recorded) if recorded != here => Err(account_changed(recorded, here)),
            _ => Ok(here),
        }
    }

    fn herd(&self) -> Result<Herd<'a>, Halt> {
        let instances: &[Instance] = match &self.observed.instances {
            Known::Present(instances) => instances,
            Known::Absent => &[],
            Known::Unknown => return Err(unknown(self.observed, "Which instances there are")),
        };
        Ok(sort_out(instances, self.observed))
    }

    /// A second live instance may hold what the agent wrote: it is stopped and told, never terminated.
    fn stop_orphans(&mut self, herd: &Herd<'_>) {
        let running = herd.orphans.iter().filter(|orphan| {
            orphan.state == InstanceState::Running
                || (orphan.state == InstanceState::Stopped && !orphan.tags.contains_key(ORPHAN))
        });
        self.steps.extend(running.map(|orphan| Step::StopOrphan {
            instance_id: orphan.id.clone(),
        }));
    }

    fn suspend(&mut self, herd: &Herd<'_>) -> Result<(), Halt> {
        let Some(instance) = herd.current.filter(|instance| !instance.state.is_dying()) else {
            return self.unseen_instance().and_then(|()| self.unseen_launch());
        };
        let wait = |what: &str| {
            Err(Halt::converging(
                Reason::Suspending,
                format!("Instance {} {what}.", instance.id),
                SHORTLY * 2,
            ))
        };
        match instance.state {
            InstanceState::Stopped => Ok(()),
            InstanceState::Running => {
                self.steps.push(Step::StopInstance {
                    instance_id: instance.id.clone(),
                });
                wait("is being stopped; the data volume stays")
            }
            _ => wait("is in transit; it is stopped when it runs"),
        }
    }

    fn secret(&mut self) -> Result<(), Halt> {
        match &self.observed.secret {
            Known::Unknown => Err(Halt::converging(
                Reason::Pending,
                "The gateway's Secret is not read yet.",
                SHORTLY,
            )),
            Known::Absent => {
                self.steps.push(Step::CreateSecret);
                Ok(())
            }
            Known::Present(facts) => facts.problem.as_ref().map_or(Ok(()), |problem| {
                let name = names::token_secret(&self.agent.claim.name);
                let message = format!("Secret {name}: {problem}. Mend it, or delete it: a new one is made then.");
                Err(Halt::blocked(Reason::InvalidSpec, message))
            }),
        }
    }

    /// Role, policy, profile, in the order in which IAM can take them. A profile that is not ours is used as it is.
    fn identity(&mut self, place: &Place) -> Result<(), Halt> {
        let identity = match &self.observed.identity {
            Known::Present(identity) => identity.clone(),
            Known::Absent => crate::observed::Identity::absent(),
            Known::Unknown => return Err(unknown(self.observed, "The instance profile")),
        };
        if !identity.ours {
            return Ok(());
        }
        let wish = &self.agent.identity;
        let (name, tags) = (&wish.profile, self.identity_tags());
        if !identity.role_exists {
            self.steps.push(Step::CreateRole {
                role: name.clone(),
                trust: trust_policy(&place.region),
                boundary_arn: wish.boundary_arn.clone(),
                tags: tags.clone(),
            });
        }
        if !identity.policy_current {
            let document = role_policy(
                &self.agent.claim.cluster_id,
                place,
                &self.agent.role_models,
                &wish.scope,
            );
            self.steps.push(Step::PutRolePolicy {
                role: name.clone(),
                document,
            });
        }
        if identity.profile_arn.is_none() {
            self.steps.push(Step::CreateInstanceProfile {
                profile: name.clone(),
                tags,
            });
        }
        if !identity.role_in_profile {
            self.steps.push(Step::AddRoleToInstanceProfile {
                profile: name.clone(),
                role: name.clone(),
            });
        }
        let whole = identity.role_exists && identity.profile_arn.is_some() && identity.role_in_profile;
        if whole {
            return Ok(());
        }
        Err(Halt::converging(
            Reason::WaitingForIdentity,
            launch::fresh_profile(name),
            AT_ONCE,
        ))
    }

    fn identity_tags(&self) -> std::collections::BTreeMap<String, String> {
        let claim = &self.agent.claim;
        if self.agent.identity.is_own() {
            claim.tags(&self.agent.tags)
        } else {
            names::shared_tags(&claim.cluster_id, &self.agent.tags)
        }
    }

    /// The group of the rule set, with exactly its rules.
    fn network(&mut self, herd: &Herd<'_>) -> Result<(&'a Subnet, &'a str), Halt> {
        let subnet = match &self.observed.subnet {
            Known::Present(subnet) => subnet,
            Known::Unknown => return Err(unknown(self.observed, "The subnet")),
            Known::Absent => return Err(no_subnet(self.agent)),
        };
        let rules = network::rules(&self.agent.ingress, subnet);
        let rule_set = network::rule_set(&rules);
        let name = names::security_group(&self.agent.claim.cluster_id, &rule_set);
        let group = match &self.observed.security_group {
            Known::Present(group) => group,
            Known::Unknown => return Err(unknown(self.observed, "The security group")),
            Known::Absent => {
                let mut tags = names::shared_tags(&self.agent.claim.cluster_id, &self.agent.tags);
                tags.insert(names::TAG_RULE_SET.into(), rule_set);
                tags.insert("Name".into(), name.clone());
                self.steps.push(Step::CreateSecurityGroup {
                    name: name.clone(),
                    vpc_id: subnet.vpc_id.clone(),
                    tags,
                });
                return Err(Halt::converging(
                    Reason::Launching,
                    format!("Security group {name} is being made."),
                    AT_ONCE,
                ));
            }
        };
        if !group.ours {
            let message = format!(
                "A security group {name:?} exists in {} and does not carry our claim; it is not touched. Delete or rename it.",
                subnet.vpc_id
            );
            return Err(Halt::blocked(Reason::NameConflict, message));
        }
        self.mend_rules(group, &rules);
        self.wear(herd, group);
        Ok((subnet, &group.id))
    }

    fn mend_rules(&mut self, group: &SecurityGroup, wanted: &std::collections::BTreeSet<crate::observed::Rule>) {
        let missing: Vec<_> = wanted.difference(&group.ingress).cloned().collect();
        let foreign: Vec<_> = group.ingress.difference(wanted).cloned().collect();
        if !missing.is_empty() {
            self.steps.push(Step::AuthorizeIngress {
                group_id: group.id.clone(),
                rules: missing,
            });
        }
        if !foreign.is_empty() {
            self.steps.push(Step::RevokeIngress {
                group_id: group.id.clone(),
                rules: foreign,
            });
        }
    }

    /// A live instance has the group of the present rule set and no other.
    fn wear(&mut self, herd: &Herd<'_>, group: &SecurityGroup) {
        let settled = |state| matches!(state, InstanceState::Running | InstanceState::Stopped);
        let Some(instance) = herd.current.filter(|instance| settled(instance.state)) else {
            return;
        };
        if instance.security_group_ids != [group.id.clone()] {
            self.steps.push(Step::SetSecurityGroups {
                instance_id: instance.id.clone(),
                group_ids: vec![group.id.clone()],
            });
        }
    }

    /// No live instance: launch one, as recorded, or record a launch.
    fn bring_up(
        &mut self,
        herd: &Herd<'a>,
        place: &'a Place,
        subnet: &'a Subnet,
        group_id: &'a str,
    ) -> Result<(), Halt> {
        let Observed { recorded, .. } = self.observed;
        self.unseen_instance()?;
        launch::propagated(self.agent, self.observed, self.now)?;
        let used = recorded
            .launch
            .as_ref()
            .is_some_and(|launch| launch::token_was_used(self.observed, launch));
        let replacing = herd.epoch > 0 || recorded.instance_id.is_some() || used;
        if let Some(dying) = herd.current {
            self.buried(dying)?;
        }
        let kept = if replacing || recorded.volume_id.is_some() {
            launch::kept_volume(self.observed, self.now)?
        } else {
            self.left_volume()
        };
        same_zone(kept, subnet)?;
        let parts = Parts {
            place,
            subnet,
            group_id,
            image: self.image()?,
            kept,
        };
        let successor = |instance: &Instance| match (&recorded.launch, instance.launch) {
            (Some(launch), Some((epoch, _))) => epoch < launch.epoch,
            _ => false,
        };
        let died = herd
            .current
            .map_or(recorded.instance_id.is_some(), |instance| !successor(instance));
        let step = match &recorded.launch {
            Some(launch) if !died => launch::pursue(self.agent, self.observed, &parts, launch, self.now)?,
            launch => {
                let epoch = launch.as_ref().map_or(0, |launch| launch.epoch).max(herd.epoch) + 1;
                let launch = Box::new(launch::record(self.agent, &parts, epoch, 1, self.now)?);
                let predecessor = herd
                    .current
                    .map(|instance| &instance.id)
                    .or(recorded.instance_id.as_ref());
                self.steps.extend(predecessor.map(|id| Step::DeleteBundle {
                    instance_id: id.clone(),
                }));
                Step::RecordLaunch {
                    launch,
                    place: place.clone(),
                }
            }
        };
        let (reason, message) = self.launching(kept.map(|volume| &volume.id));
        self.steps.push(step);
        Err(Halt::converging(reason, message, AT_ONCE))
    }

    /// The same words from the record until the instance runs, so that status is written once.
    fn launching(&self, kept: Option<&String>) -> (Reason, String) {
        match kept {
            Some(volume) => (
                Reason::Replacing,
                format!("A new instance is being launched; the data volume {volume} is kept."),
            ),
            None => (
                Reason::Launching,
                format!("An instance of type {} is being launched.", self.agent.instance_type),
            ),
        }
    }

    /// A recorded instance that EC2 does not show is believed to be there until enough reads over enough time say otherwise.
    fn unseen_instance(&self) -> Result<(), Halt> {
        let Some(id) = &self.observed.recorded.instance_id else {
            return Ok(());
        };
        let shown = self
            .observed
            .instances
            .present()
            .is_some_and(|instances| instances.iter().any(|instance| instance.id == *id));
        if shown || is_lost(self.observed, id, self.now) {
            return Ok(());
        }
        let recorded = &self.observed.recorded;
        let launched_at = recorded.launch.as_ref().and_then(|launch| launch.recorded_at.as_ref());
        if launched_at.is_some_and(|at| self.now.duration_since(at.0) < VISIBILITY) && !recorded.was_healthy {
            // EC2 shows a fresh instance after a while.
            let kept = recorded
                .launch
                .as_ref()
                .and_then(|launch| launch.kept_volume_id.as_ref());
            let (reason, message) = self.launching(kept);
            return Err(Halt::converging(reason, message, SHORTLY));
        }
        let limit = span::show(Duration::try_from(VISIBILITY).unwrap_or_default());
        let message =
            format!("EC2 does not show instance {id}. It counts as gone when two whole reads over {limit} agree.");
        Err(Halt::converging(Reason::Repairing, message, SHORTLY * 5))
    }

    /// A recorded launch may have happened just before the wish turned.
    fn unseen_launch(&self) -> Result<(), Halt> {
        let recorded = &self.observed.recorded;
        match &recorded.launch {
            Some(launch) if recorded.instance_id.is_none() => {
                launch::certain_of_absence(self.observed, launch, self.now)
            }
            _ => Ok(()),
        }
    }

    /// The predecessor is wholly gone, and a launch that never worked is not repeated in a loop.
    fn buried(&self, dying: &Instance) -> Result<(), Halt> {
        let told = dying.state_reason.as_deref().unwrap_or("EC2 gives no reason");
        if dying.state == InstanceState::ShuttingDown {
            let message = format!(
                "Instance {} is going ({told}); it is replaced when it is gone.",
                dying.id
            );
            return Err(Halt::converging(Reason::Replacing, message, SHORTLY * 2));
        }
        let by_hand = dying
            .state_reason
            .as_deref()
            .is_none_or(|reason| reason.contains("UserInitiated"));
        let recorded = &self.observed.recorded;
        let Some(tried_at) = recorded.launch.as_ref().and_then(|launch| launch.recorded_at.as_ref()) else {
            return Ok(());
        };
        let again_at = tried_at.0.saturating_add(RELAUNCH_PAUSE).unwrap_or(tried_at.0);
        if by_hand || recorded.was_healthy || again_at <= self.now {
            return Ok(());
        }
        let (reason, stalled) = death_reason(told);
        let why = Why {
            reason,
            message: format!(
                "EC2 ended instance {} by itself: {told}. Launched again later.",
                dying.id
            ),
        };
        let verdict = if stalled {
            Verdict::Blocked(why)
        } else {
            Verdict::Converging(why)
        };
        Err(Halt {
            verdict,
            check_again: gate::until(again_at, self.now),
        })
    }

    /// A first launch that failed after all may have left a volume; it is used instead of a second one.
    fn left_volume(&self) -> Option<&'a Volume> {
        let recorded = &self.observed.recorded;
        if let Some(launch) = &recorded.launch {
            let id = launch.kept_volume_id.as_ref()?;
            return self.observed.volumes.present()?.iter().find(|volume| volume.id == *id);
        }
        None
    }

    fn image(&self) -> Result<&'a str, Halt> {
        match &self.observed.image {
            Known::Present(image) => Ok(image),
            Known::Unknown => Err(unknown(self.observed, "The image")),
            Known::Absent => {
                let wish = match &self.agent.image {
                    crate::desired::ImageWish::Id(id) => format!("image {id}"),
                    crate::desired::ImageWish::Parameter(name) => format!("SSM parameter {name}"),
                };
                let message = format!("There is no {wish} in this region. Name another one in spec.instance.image.");
                Err(Halt::blocked(Reason::ImageNotFound, message))
            }
        }
    }

    /// A live instance: running, with its volume, its bundle and a gateway that answers.
    fn keep(&mut self, instance: &Instance) -> Result<(), Halt> {
        self.volume(instance)?;
        self.bundle(instance);
        self.running(instance)?;
        self.gateway(instance)
    }

    fn volume(&mut self, instance: &Instance) -> Result<(), Halt> {
        if instance.block_devices.contains_key(names::DATA_DEVICE) {
            return Ok(());
        }
        let Some(id) = data_volume_id(self.observed, instance) else {
            return Err(self.no_volume(instance));
        };
        let volume = self
            .observed
            .volumes
            .present()
            .and_then(|volumes| volumes.iter().find(|volume| volume.id == id));
        let settled = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
        let waiting = |what: &str| {
            let message = format!("The data volume {id} {what}.");
            Err(Halt::converging(Reason::Repairing, message, SHORTLY))
        };
        match volume {
            None if is_lost(self.observed, &id, self.now) => Err(Halt::blocked(
                Reason::VolumeNotFound,
                format!(
                    "The data volume {id} is gone, although nobody asked for that. Delete the agent and make it anew, from a snapshot if there is one."
                ),
            )),
            None => waiting("is not shown by EC2; looked for again"),
            Some(volume) => match (&volume.attached_to, volume.state) {
                (Some(holder), _) if *holder == instance.id => Ok(()),
                (Some(holder), VolumeState::InUse) => {
                    waiting(&format!("is attached to {holder}; waiting until it is free"))
                }
                (_, VolumeState::Available) if settled => {
                    self.steps.push(Step::AttachVolume {
                        volume_id: id.clone(),
                        instance_id: instance.id.clone(),
                    });
                    // The machine waits for the device; the rest of the round does not depend on it.
                    Ok(())
                }
                _ => waiting("is attached as soon as instance and volume allow it"),
            },
        }
    }

    /// EC2 shows the volumes of a launch a moment after the instance; after minutes there is none.
    fn no_volume(&self, instance: &Instance) -> Halt {
        let since = self.observed.recorded.booting_since.unwrap_or(self.now);
        let settled = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
        if settled && self.now.duration_since(since) >= VISIBILITY {
            let message = format!(
                "Instance {} has no data volume, and there is none with this agent's claim. Delete the agent and make it anew.",
                instance.id
            );
            return Halt::blocked(Reason::VolumeNotFound, message);
        }
        self.pending(instance)
    }

    fn bundle(&mut self, instance: &Instance) {
        let Some(volume_id) = data_volume_id(self.observed, instance) else {
            return;
        };
        let Known::Present(secret) = &self.observed.secret else {
            return;
        };
        let written = self.observed.recorded.bundle.as_ref();
        let overwrite = written.is_some_and(|bundle| bundle.instance_id == instance.id);
        let current = overwrite
            && secret
                .bundle_sha256
                .is_none_or_equal(written.map(|bundle| bundle.sha256.as_str()));
        if current {
            return;
        }
        if let Some(old) = written.filter(|bundle| bundle.instance_id != instance.id) {
            self.steps.push(Step::DeleteBundle {
                instance_id: old.instance_id.clone(),
            });
        }
        self.steps.push(Step::PutBundle {
            instance_id: instance.id.clone(),
            volume_id,
            overwrite,
        });
    }

    fn running(&mut self, instance: &Instance) -> Result<(), Halt> {
        let id = &instance.id;
        match instance.state {
            InstanceState::Running => Ok(()),
            InstanceState::Stopped => {
                self.steps.push(Step::StartInstance {
                    instance_id: id.clone(),
                });
                let (reason, message) = if self.observed.recorded.suspended {
                    (Reason::Resuming, format!("Instance {id} is being started."))
                } else {
                    let told = instance.state_reason.as_deref().unwrap_or("EC2 gives no reason");
                    (
                        Reason::Repairing,
                        format!("Instance {id} was stopped from outside ({told}); it is being started."),
                    )
                };
                Err(Halt::converging(reason, message, SHORTLY))
            }
            InstanceState::Stopping => Err(Halt::converging(
                Reason::Repairing,
                format!("Instance {id} is stopping; it is started when it has stopped."),
                SHORTLY * 2,
            )),
            _ => Err(self.pending(instance)),
        }
    }

    fn pending(&self, instance: &Instance) -> Halt {
        let recorded = &self.observed.recorded;
        let kept = recorded
            .launch
            .as_ref()
            .and_then(|launch| launch.kept_volume_id.as_ref());
        let (reason, message) = if recorded.suspended {
            (Reason::Resuming, format!("Instance {} is being started.", instance.id))
        } else {
            self.launching(kept)
        };
        Halt::converging(reason, message, SHORTLY)
    }

    fn gateway(&mut self, instance: &Instance) -> Result<(), Halt> {
        let probe = valid_probe(self.observed, instance);
        let recorded = &self.observed.recorded;
        match probe.map(|probe| &probe.outcome) {
            Some(Ok(health)) if health.ok => self.seed(instance, health.workspace_seeded),
            // Nothing has been asked since the operator started: what was true stays until the first answer.
            None if recorded.was_healthy => Ok(()),
            outcome => {
                let (reason, told) = match outcome {
                    Some(Ok(health)) => (
                        Reason::GatewayUnhealthy,
                        format!(
                            "The gateway says that it is not well: {}",
                            health.detail.as_deref().unwrap_or("it does not say why")
                        ),
                    ),
                    Some(Err(failure)) => (hop_reason(failure.hop), describe_failure(failure)),
                    None => (Reason::Booting, "The gateway was not asked yet".into()),
                };
                Err(self.unanswered(instance, reason, &told))
            }
        }
    }

    /// A gateway that does not answer: a boot in progress, a boot that failed, or one that broke later.
    fn unanswered(&mut self, instance: &Instance, reason: Reason, told: &str) -> Halt {
        let recorded = &self.observed.recorded;
        if recorded.was_healthy {
            return Halt::converging(reason, format!("{told}."), SHORTLY * 5);
        }
        let since = recorded.booting_since.unwrap_or(self.now);
        let deadline = SignedDuration::try_from(self.agent.boot_deadline).unwrap_or(SignedDuration::MAX);
        let limit = span::show(self.agent.boot_deadline);
        if self.now.duration_since(since) < deadline {
            let message = format!(
                "Instance {} boots; its gateway has {limit} to answer, counted from {since:.0}.",
                instance.id
            );
            return Halt::converging(Reason::Booting, message, SHORTLY);
        }
        if self.observed.console.is_none() {
            self.steps.push(Step::FetchConsole {
                instance_id: instance.id.clone(),
            });
        }
        let message = format!(
            "The gateway did not answer within {limit}. {told}. {}",
            console_end(self.observed.console.as_deref())
        );
        Halt::converging(Reason::BootTimeout, message, SHORTLY * 10)
    }

    fn seed(&mut self, instance: &Instance, seeded: bool) -> Result<(), Halt> {
        if seeded || self.observed.recorded.workspace_seeded || !self.agent.seeds_workspace() {
            return Ok(());
        }
        self.steps.push(Step::SeedWorkspace {
            instance_id: instance.id.clone(),
        });
        Err(Halt::converging(
            Reason::Pushing,
            "The workspace files of the spec are being handed over.",
            AT_ONCE,
        ))
    }
}

/// `None` says nothing; a value says something when it differs.
trait NoneOrEqual {
    fn is_none_or_equal(&self, other: Option<&str>) -> bool;
}

impl NoneOrEqual for Option<String> {
    fn is_none_or_equal(&self, other: Option<&str>) -> bool {
        self.as_deref().is_none_or(|text| other == Some(text))
    }
}

pub(super) fn account_changed(recorded: &Place, here: &Place) -> Halt {
    let message = format!(
        "The agent lives in account {} region {}, the operator's credentials are for account {} region {}. Nothing is made anew there: give \
         the operator (or the plan's aws.roleArn and aws.region) credentials for the first.",
        recorded.account, recorded.region, here.account, here.region
    );
    Halt::blocked(Reason::AccountChanged, message)
}

fn no_subnet(agent: &DesiredAgent) -> Halt {
    let message = if agent.subnet_ids.is_empty() {
        "There is no default subnet in this account and region. Name subnets in network.subnetIds of the plan, or in spec.instance.subnetId.".to_owned()
    } else {
        format!(
            "None of the subnets {} exists in this account and region.",
            agent.subnet_ids.join(", ")
        )
    };
    Halt::blocked(Reason::SubnetNotFound, message)
}

fn same_zone(kept: Option<&Volume>, subnet: &Subnet) -> Result<(), Halt> {
    match kept {
        Some(volume) if volume.zone != subnet.zone => {
            let message = format!(
                "The data volume {} never leaves {}, and subnet {} is in {}. Give the plan (or spec.instance.subnetId) a subnet in {}.",
                volume.id, volume.zone, subnet.id, subnet.zone, volume.zone
            );
            Err(Halt::blocked(Reason::SubnetNotFound, message))
        }
        _ => Ok(()),
    }
}

fn sort_out<'a>(instances: &'a [Instance], observed: &Observed) -> Herd<'a> {
    let recorded = &observed.recorded;
    let launch = recorded.launch.as_ref().map(|launch| (launch.epoch, launch.attempt));
    let mut live: Vec<&Instance> = instances.iter().filter(|instance| !instance.state.is_dying()).collect();
    // The one of the recorded launch before others, later launches before earlier ones.
    live.sort_by_key(|instance| {
        (
            instance.launch != launch,
            std::cmp::Reverse(instance.launch),
            instance.id.clone(),
        )
    });
    let by_id = recorded
        .instance_id
        .as_ref()
        .and_then(|id| instances.iter().find(|instance| instance.id == *id));
    let unshown = recorded.instance_id.is_some() && by_id.is_none();
    let dying = instances
        .iter()
        .filter(|instance| instance.state.is_dying() && instance.launch == launch && launch.is_some());
    let current = by_id
        .filter(|instance| !instance.state.is_dying())
        // A recorded one that EC2 hides for the moment is not supplanted by another.
        .or_else(|| {
            if unshown && !live.is_empty() && !lost_recorded(observed) {
                None
            } else {
                live.first().copied()
            }
        })
        .or(by_id)
        .or_else(|| dying.max_by_key(|instance| &instance.id));
    let orphans = live
        .into_iter()
        .filter(|instance| current.is_none_or(|current| current.id != instance.id));
    let orphans = if unshown && current.is_none() {
        Vec::new()
    } else {
        orphans.collect()
    };
    let epoch = instances
        .iter()
        .filter_map(|instance| instance.launch.map(|(epoch, _)| epoch))
        .max()
        .unwrap_or_default();
    Herd {
        current,
        orphans,
        epoch,
    }
}

fn lost_recorded(observed: &Observed) -> bool {
    observed
        .recorded
        .instance_id
        .as_ref()
        .and_then(|id| observed.unseen.get(id))
        .is_some_and(|unseen| unseen.reads >= 2)
}

/// The instance that status is about: the recorded one, or the one that is adopted. Not the predecessor of a recorded launch.
#[must_use]
pub fn current_instance(observed: &Observed) -> Option<&Instance> {
    let current = sort_out(observed.instances.present()?, observed).current?;
    let launch = observed.recorded.launch.as_ref();
    let past = current.state.is_dying()
        && launch.is_some_and(|launch| current.launch.is_some_and(|(epoch, _)| epoch < launch.epoch));
    (!past).then_some(current)
}

/// The data volume of an instance: what it carries, else what its launch was to take over, else what status remembers.
#[must_use]
pub fn data_volume_id(observed: &Observed, instance: &Instance) -> Option<String> {
    let recorded = &observed.recorded;
    let carried = instance.block_devices.get(names::DATA_DEVICE);
    let kept = recorded
        .launch
        .as_ref()
        .and_then(|launch| launch.kept_volume_id.as_ref());
    carried
        .or(kept)
        .or(recorded.volume_id.as_ref())
        .cloned()
        .or_else(|| free_volume(observed, instance))
}

/// A volume of this agent that was detached before it was ever recorded.
fn free_volume(observed: &Observed, instance: &Instance) -> Option<String> {
    let shown = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
    let volumes = observed.volumes.present().filter(|_| shown)?;
    volumes
        .iter()
        .filter(|volume| volume.state == VolumeState::Available)
        .map(|volume| volume.id.clone())
        .min()
}

/// A probe of this instance in its present boot.
pub(crate) fn valid_probe<'a>(observed: &'a Observed, instance: &Instance) -> Option<&'a Probe> {
    let since = observed.recorded.booting_since;
    observed
        .probe
        .as_ref()
        .filter(|probe| probe.instance_id == instance.id && since.is_none_or(|since| probe.at >= since))
}

pub(super) fn probe_target<'a>(agent: &DesiredAgent, observed: &'a Observed) -> Option<&'a Instance> {
    let instances = observed.instances.present()?;
    let instance = sort_out(instances, observed)
        .current
        .filter(|instance| instance.state == InstanceState::Running)?;
    let told = observed
        .recorded
        .bundle
        .as_ref()
        .is_some_and(|bundle| bundle.instance_id == instance.id);
    (agent.power == Power::Running && told).then_some(instance)
}

pub(crate) fn hop_reason(hop: Hop) -> Reason {
    match hop {
        Hop::Connect | Hop::Upgrade => Reason::GatewayUnreachable,
        Hop::Tls => Reason::CertificateMismatch,
        Hop::Handshake => Reason::GatewayUnauthorized,
        Hop::Health => Reason::GatewayUnhealthy,
    }
}

/// What broke, where, and where to look.
pub(crate) fn describe_failure(failure: &ProbeFailure) -> String {
    let message = failure.message.trim().trim_end_matches('.');
    match failure.hop {
        Hop::Connect => format!(
            "Connect: {message}. Is nginx running, does the security group let the operator in, is there a route?"
        ),
        Hop::Tls => format!(
            "TLS: {message}. What answers on 443 does not hold the certificate of the Secret; send no secrets there"
        ),
        Hop::Upgrade => {
            format!("Upgrade: {message}. nginx answers, the gateway behind it does not: look at skykoi-gateway.service")
        }
        Hop::Handshake => format!("Handshake: {message}. The gateway does not take the operator's token or device key"),
        Hop::Health => format!("Health: {message}"),
    }
}

fn console_end(console: Option<&str>) -> String {
    let Some(console) = console.map(str::trim_end).filter(|console| !console.is_empty()) else {
        return "EC2 has no console output of it yet.".into();
    };
    let skip = console.chars().count().saturating_sub(CONSOLE_TAIL);
    let end: String = console.chars().skip(skip).collect();
    format!("The console ends with: {end}")
}

/// EC2's reason for an instance that died by itself, in our words, and whether people must act.
fn death_reason(told: &str) -> (Reason, bool) {
    let has = |code: &str| told.contains(code);
    if has("InsufficientInstanceCapacity") {
        (Reason::InsufficientCapacity, false)
    } else if has("LimitExceeded") {
        (Reason::QuotaExceeded, true)
    } else if has("InvalidSnapshot") {
        (Reason::SnapshotNotFound, true)
    } else if has("Client.InternalError") {
        // EC2's word for a KMS key that it may not use.
        (Reason::InvalidSpec, true)
    } else {
        (Reason::Replacing, false)
    }
}
