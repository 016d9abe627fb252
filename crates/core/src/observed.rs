//! What we know of an agent's world, in our own words: the planner's only view of the cloud and the cluster.

mod strangers;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

use crate::api::{
    ActionKind, AppliedStatus, ConditionType, KoiAgentStatus, LaunchStatus, PlannedAction, Power, Reason, Remedy,
};
use crate::names;
use crate::plan::Why;
use crate::refusal::Refusal;

/// The result of asking for one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Known<T> {
    /// Not asked yet, or the answer did not come: nothing may be concluded from it.
    #[default]
    Unknown,
    /// The cloud says that there is none.
    Absent,
    /// There it is.
    Present(T),
}

impl<T> Known<T> {
    /// The thing, where it is known to be there.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(thing) => Some(thing),
            Self::Unknown | Self::Absent => None,
        }
    }
}

/// Everything that [`crate::plan::plan`] looks at besides the wish.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// What earlier rounds wrote into status.
    pub recorded: Recorded,
    /// Whether our finalizer is on the object.
    pub has_finalizer: bool,
    /// The account and region that our credentials work on now.
    pub place: Known<Place>,
    /// Whose name stands in the account's owner record for our cluster id.
    pub owner: OwnerRecord,
    /// The Secret `<agent>-gateway`.
    pub secret: Known<SecretFacts>,
    /// The image that the wish resolves to (an id as given, or what the SSM parameter says now).
    pub image: Known<String>,
    /// The subnet that a launch would use now, with its VPC.
    pub subnet: Known<Subnet>,
    /// The type that a launch would ask for now, where another than the wished one has room: see [`crate::offering`].
    pub offered_type: Option<String>,
    /// The instance profile that the wish names. For an agent that goes: the profile and role of its own ([`crate::names::agent_role`]),
    /// asked for only where [`crate::desired::Farewell::own_role`] says that there may be one.
    pub identity: Known<Identity>,
    /// The security group of the wished rule set in that VPC, found by name.
    pub security_group: Known<SecurityGroup>,
    /// Groups that the present instance wears and that a sweep showed, where it wears others than just the wished one.
    pub worn: Vec<WornGroup>,
    /// Every instance with this agent's claim that is not known to be long gone (terminated ones included while EC2 shows them).
    /// `Unknown` until one whole sweep has succeeded since the operator started.
    pub instances: Known<Vec<Instance>>,
    /// Every volume with this agent's claim (root volumes carry it too; they go with their instance).
    pub volumes: Known<Vec<Volume>>,
    /// Snapshots with this agent's claim; asked for only while an agent goes whose deletion policy is `Snapshot`.
    pub snapshots: Known<Vec<Snapshot>>,
    /// When the read began that `instances` and `volumes` come from (the older one of the two).
    pub seen_at: Option<Timestamp>,
    /// When our own last change to the cloud for this agent was answered, as far as this process remembers. A view that is older than this
    /// proves nothing about absence.
    pub changed_at: Option<Timestamp>,
    /// Whether something may have come of the recorded launch that is not seen yet.
    pub launch_trace: LaunchTrace,
    /// A launch that EC2 said it would take, as far as this process remembers.
    pub tried_launch: Option<Box<LaunchStatus>>,
    /// Recorded instances and volumes, by id, that the latest whole reads did not show.
    pub unseen: BTreeMap<String, Unseen>,
    /// Recorded instances and volumes, by id, that are another agent's.
    pub strangers: BTreeSet<String>,
    /// SSM, listed whole since it was written, does not show the recorded bundle.
    pub bundle_gone: bool,
    /// Instances that status does not name and that SSM lists a bundle of: an operator that no longer led may have written one.
    pub stray_bundles: Vec<String>,
    /// The instances whose bundle this process has deleted, and not written again.
    pub bundles_deleted: BTreeSet<String>,
    /// The data volume that this process deleted.
    pub volume_deleted: Option<String>,
    /// The last answer of the gateway, if one was asked since the last change to the instance.
    pub probe: Option<Probe>,
    /// The config that was last handed to the running gateway, as far as this process remembers.
    pub pushed: Option<Pushed>,
    /// The power that the spec asks for, where nothing else of the wish can be settled.
    pub unsettled_power: Option<Power>,
    /// The plan has a place for one more agent that is interrupted by what its own spec did not ask for. Asked for only where
    /// [`crate::change::wants_place`] says so.
    pub may_disrupt: bool,
    /// Since when the gateway does not answer that had answered before, as far as this process saw that.
    pub silent_since: Option<Timestamp>,
    /// Since when this process sees it fail.
    pub failing_since: Option<Timestamp>,
    /// So many other gateways fell silent together that what they have in common is the likelier fault, wherever it shows.
    pub outage: bool,
    /// The end of the console, fetched when a boot takes too long.
    pub console: Option<String>,
    /// What the set-up said on the console when that was last read, however long ago.
    pub set_up: Option<SetUpWord>,
    /// What the cloud last refused to this agent, until a step of that kind succeeds. A change of the wish sets its `retry_at` to that
    /// moment and keeps the rest: which launch was refused decides whether the record may be changed.
    pub refusal: Option<Refused>,
    /// Refusals before it, of other steps, that still stand.
    pub refused_before: Vec<Refused>,
    /// Why the last sweep came to nothing, if it did: what `instances` and `volumes` show is then older than it seems.
    pub blind: Option<Refused>,
}

/// What our own programs on the machine said on its console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetUpWord {
    /// When it was read.
    pub at: Timestamp,
    /// Which of them does not work; `None`: none of them says so.
    pub failing: Option<String>,
}

impl SetUpWord {
    /// Out of a console that was read then.
    #[must_use]
    pub fn of(console: &str, at: Timestamp) -> Self {
        Self {
            at,
            failing: crate::plan::failing_word(console),
        }
    }
}

/// What the calls of the recorded launch may have left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaunchTrace {
    /// Nobody kept count: conclusions wait for minutes.
    #[default]
    Unknown,
    /// This process wrote the record, and every call since then was surely refused ([`Refusal::definite`]): nothing.
    Clean,
    /// Possibly an instance, since this time at the latest: of the last call that was not surely refused, or of the operator's start for
    /// a record without an instance that it found.
    Since(Timestamp),
}

/// A recorded thing that whole reads do not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The first whole read without it.
    pub since: Timestamp,
    /// How many whole reads in a row did not show it.
    pub reads: u32,
}

/// A snapshot of a data volume with our claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// `snap-...`.
    pub id: String,
    /// The volume that it was made of.
    pub volume_id: String,
    /// How far it is.
    pub state: SnapshotState,
    /// It was begun as the last one of a volume that is to be deleted: [`crate::names::TAG_LAST_SNAPSHOT`].
    pub last: bool,
    /// When it was begun, where that is known.
    pub started_at: Option<Timestamp>,
}

/// The states of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotState {
    /// Being copied.
    Pending,
    /// Done.
    Completed,
    /// Failed, or a state that this version does not know.
    Unrecognized,
}

/// What status remembers; survives the operator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// The recorded intent to launch.
    pub launch: Option<LaunchStatus>,
    /// Where this agent lives: never elsewhere again.
    pub place: Option<Place>,
    /// Id of the instance that Ready is about. Of a new epoch only once an instance of it was seen.
    pub instance_id: Option<String>,
    /// EC2's launch time of that instance when it was last reported; EC2 gives a new one at each start.
    pub launch_time: Option<Timestamp>,
    /// The type that the instance had.
    pub instance_type: Option<String>,
    /// The type that it had when its gateway was last well, where that is another one.
    pub previous_type: Option<String>,
    /// When the instance was launched or last started, as far as we know; the boot deadline counts from here.
    pub booting_since: Option<Timestamp>,
    /// Id of the data volume.
    pub volume_id: Option<String>,
    /// Its size in GiB when it was last reported.
    pub volume_gib: Option<i64>,
    /// The bundle that was last written: for which instance, and the SHA-256 of its text.
    pub bundle: Option<BundleRecord>,
    /// Whether the gateway of this agent was healthy at least once since `booting_since`.
    pub was_healthy: bool,
    /// SHA-256 of the config that the gateway last said it runs with.
    pub config_sha256: Option<String>,
    /// Whether the workspace files of the spec were handed over.
    pub workspace_seeded: bool,
    /// Whether the agent was at rest, or on its way there, by its own wish.
    pub suspended: bool,
    /// Whether the last report spoke of a repair.
    pub repairing: bool,
    /// A change that was announced.
    pub planned: Option<PlannedAction>,
    /// What the agent's own spec said when it was last as wished.
    pub applied: Option<AppliedStatus>,
    /// Since when the gateway, healthy before in this boot, is not.
    pub silent_since: Option<Timestamp>,
    /// What was told of that.
    pub silence: Option<Why>,
    /// The remedy that was last begun.
    pub repair: Option<Repair>,
    /// Id of the security group that the agent wears.
    pub security_group_id: Option<String>,
}

/// A remedy that was begun; written down before it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Of which instance.
    pub instance_id: String,
    /// What is done.
    pub remedy: Remedy,
    /// When it was begun.
    pub at: Timestamp,
    /// How many there were in this episode, this one included.
    pub count: u32,
    /// When an instance of this agent was last replaced as a remedy.
    pub replaced_at: Option<Timestamp>,
    /// The scheduled event that it answers.
    pub event_id: Option<String>,
}

impl Observed {
    /// All that the cloud refused to this agent and that still stands, what it refused last first.
    pub fn standing(&self) -> impl Iterator<Item = &Refused> {
        self.refusal.iter().chain(&self.refused_before)
    }

    /// The present instance wears a group of ours in another VPC than the one that the wish leads to.
    #[must_use]
    pub fn lives_in_another_vpc(&self) -> bool {
        let wished = self.subnet.present();
        let elsewhere = |worn: &WornGroup| worn.facts.ours && wished.is_some_and(|wished| wished.vpc_id != worn.vpc_id);
        self.worn.iter().any(elsewhere)
    }

    /// Why an instance is on its way down, or gone, in words for people. EC2 calls our own calls, too, a user's.
    #[must_use]
    pub fn end_of<'a>(&self, instance: &'a Instance) -> &'a str {
        let recorded = &self.recorded;
        let changes = |planned: &PlannedAction| planned.kind == ActionKind::Replace && planned.waiting_for.is_none();
        let heals = |repair: &Repair| repair.remedy == Remedy::Replace && repair.instance_id == instance.id;
        let ours = recorded.planned.as_ref().is_some_and(changes) || recorded.repair.as_ref().is_some_and(heals);
        match instance.state_reason.as_deref() {
            Some(reason) if !(ours && reason.contains("UserInitiated")) => reason,
            _ if ours => "the operator replaces it",
            _ => "EC2 gives no reason",
        }
    }
}

impl Recorded {
    /// What an earlier round wrote.
    #[must_use]
    pub fn from_status(status: &KoiAgentStatus) -> Self {
        let instance = status.instance.as_ref();
        let gateway = status.gateway.as_ref();
        Self {
            launch: status.launch.clone(),
            place: status.cloud.as_ref().map(|cloud| Place {
                account: cloud.account.clone(),
                region: cloud.region.clone(),
            }),
            instance_id: instance
                .map(|instance| instance.id.clone())
                .filter(|id| is_id(id, "i-")),
            booting_since: instance
                .and_then(|instance| instance.booting_since.as_ref())
                .map(|time| time.0),
            launch_time: instance
                .and_then(|instance| instance.launch_time.as_ref())
                .map(|time| time.0),
            instance_type: instance.and_then(|instance| instance.instance_type.clone()),
            previous_type: instance.and_then(|instance| instance.previous_type.clone()),
            volume_id: status
                .volume
                .as_ref()
                .map(|volume| volume.id.clone())
                .filter(|id| is_id(id, "vol-")),
            volume_gib: status.volume.as_ref().and_then(|volume| volume.size_gib).map(i64::from),
            bundle: status.bundle.as_ref().map(|bundle| BundleRecord {
                instance_id: bundle.instance_id.clone(),
                sha256: bundle.sha256.clone(),
            }),
            was_healthy: gateway.is_some_and(|gateway| gateway.healthy_since.is_some()),
            config_sha256: gateway.and_then(|gateway| gateway.config_sha256.clone()),
            workspace_seeded: status
                .workspace
                .as_ref()
                .is_some_and(|workspace| workspace.seeded_at.is_some()),
            planned: status.planned_action.clone(),
            applied: status.applied.clone(),
            suspended: status.conditions.iter().any(|condition| {
                condition.type_ == ConditionType::Suspended.as_str()
                    && (condition.status == "True" || condition.reason == Reason::Suspending.as_str())
            }),
            repairing: status.conditions.iter().any(|condition| {
                condition.type_ == ConditionType::Reconciling.as_str() && condition.reason == Reason::Repairing.as_str()
            }),
            silent_since: silence(status).map(|condition| condition.last_transition_time.0),
            silence: silence(status).map(told),
            repair: status.repair.as_ref().map(|repair| Repair {
                instance_id: repair.instance_id.clone(),
                remedy: repair.remedy,
                at: repair.at.0,
                count: u32::try_from(repair.count).unwrap_or(1),
                replaced_at: repair.replaced_at.as_ref().map(|time| time.0),
                event_id: repair.event_id.clone(),
            }),
            security_group_id: status.security_group_id.clone(),
        }
    }

    /// The type that this instance had when its gateway was last well, where that is not the one that it has.
    #[must_use]
    pub fn type_before(&self, instance: &Instance) -> Option<&String> {
        if self.instance_id.as_ref() != Some(&instance.id) {
            return None;
        }
        let there = &instance.instance_type;
        let changed = self.instance_type.as_ref().filter(|recorded| *recorded != there);
        self.previous_type
            .as_ref()
            .or(changed)
            .filter(|before| *before != there)
    }

    fn forget_instance(&mut self) {
        (self.instance_id, self.booting_since, self.launch_time) = (None, None, None);
        (self.instance_type, self.previous_type) = (None, None);
        (self.was_healthy, self.silent_since, self.silence) = (false, None, None);
    }

    /// The gateway was well when it was last asked.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.was_healthy && self.silent_since.is_none()
    }

    /// Forgets what is remembered of the recorded instance's boot when EC2 started it anew between two looks.
    pub fn keep_boot(&mut self, launch_time: Option<Timestamp>) {
        // Status keeps whole seconds.
        let second = |time: Option<Timestamp>| time.map(Timestamp::as_second);
        let (before, now) = (second(self.launch_time), second(launch_time));
        if before.is_some() && now.is_some() && before != now {
            self.launch_time = launch_time;
            self.booting_since = None;
            self.was_healthy = false;
        }
    }
}

fn silence(status: &KoiAgentStatus) -> Option<&Condition> {
    let mut conditions = status.conditions.iter();
    conditions
        .find(|condition| condition.type_ == ConditionType::GatewayHealthy.as_str() && condition.status == "False")
}

fn told(condition: &Condition) -> Why {
    let mut reasons = Reason::ALL.iter().copied();
    let reason = reasons.find(|reason| reason.as_str() == condition.reason);
    Why {
        reason: reason.unwrap_or(Reason::GatewayUnreachable),
        message: condition.message.clone(),
    }
}

/// EC2's ids are a short word and a number in hexadecimal; what somebody else wrote into status leads nowhere.
fn is_id(id: &str, kind: &str) -> bool {
    let number = id.strip_prefix(kind);
    number.is_some_and(|number| !number.is_empty() && number.chars().all(|digit| digit.is_ascii_hexdigit()))
}

/// An AWS account and region.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Twelve digits.
    pub account: String,
    /// For example `us-east-1`.
    pub region: String,
}

/// The SSM parameter `/koi/<cluster-id>/owner`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OwnerRecord {
    /// Not read yet.
    #[default]
    Unknown,
    /// None: must be written before the first launch.
    Unbound,
    /// It names this cluster.
    Ours,
    /// It names another cluster; nothing may be changed.
    Foreign {
        /// UID of the other cluster's kube-system namespace.
        kube_system_uid: String,
    },
}

/// What the planner may know of the Secret: never the secret values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFacts {
    /// Every key is there, the certificate matches the key and the agent's TLS name. Otherwise what is wrong.
    pub problem: Option<String>,
    /// SHA-256 of the certificate (DER), hex.
    pub tls_sha256: String,
    /// End of the certificate's validity.
    pub not_after: Timestamp,
    /// SHA-256 of the bundle text that this Secret and the current wish make for the recorded instance and volume, if both are known.
    pub bundle_sha256: Option<String>,
    /// Why they make no bundle: it would be too large (with a volume id of the usual length where there is no volume yet), or what goes into it
    /// cannot be read now.
    pub bundle_problem: Option<Why>,
    /// It exists and is not this agent's.
    pub foreign: bool,
    /// When the certificate is to be renewed, where it says how long it lasts.
    pub renew_at: Option<Timestamp>,
    /// The value of the annotation that asked for the present (or the staged) token.
    pub rotation: Option<String>,
    /// A new token stands beside the old one and has not taken its place.
    pub staged: bool,
    /// When a rotation of ours replaced what is still good beside the new.
    pub rotated_at: Option<Timestamp>,
}

/// A subnet and what we need of its VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// `subnet-...`.
    pub id: String,
    /// `vpc-...`.
    pub vpc_id: String,
    /// Availability zone name.
    pub zone: String,
    /// The VPC's own blocks: who may reach 443 when nobody says anything.
    pub vpc_cidrs: Vec<String>,
}

/// An instance profile with its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// ARN of the profile, if the profile exists.
    pub profile_arn: Option<String>,
    /// The profile carries our claim, or does not exist yet: we may change it. A foreign one is used as it is.
    pub ours: bool,
    /// The role of the same name exists.
    pub role_exists: bool,
    /// The role's inline policy is, semantically, the one that we render.
    pub policy_current: bool,
    /// The role has that inline policy, whatever it says.
    pub has_policy: bool,
    /// The profile holds the role.
    pub role_in_profile: bool,
    /// The profile is ours and holds this role of another name instead.
    pub other_role: Option<String>,
    /// When we last changed it; a launch waits out IAM's propagation from here. `None`: older than we remember.
    pub changed_at: Option<Timestamp>,
}

impl Identity {
    /// Nothing is there yet; all of it is ours to make.
    #[must_use]
    pub fn absent() -> Self {
        Self {
            profile_arn: None,
            ours: true,
            role_exists: false,
            policy_current: false,
            has_policy: false,
            role_in_profile: false,
            other_role: None,
            changed_at: None,
        }
    }
}

/// A security group found by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-...`.
    pub id: String,
    /// It carries our installation's claim.
    pub ours: bool,
    /// It carries no installation's claim at all: ours, too, if it is the one that status names.
    pub unclaimed: bool,
    /// Its inbound rules in canonical form.
    pub ingress: BTreeSet<Rule>,
}

/// A security group that an instance wears, whatever is wished now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WornGroup {
    /// Its name, which nobody can change.
    pub name: String,
    /// Its VPC.
    pub vpc_id: String,
    /// What it is.
    pub facts: SecurityGroup,
}

/// One inbound rule in canonical form: protocol by name, host bits cleared, description ignored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// `tcp`, `udp`, `icmp`, or `-1` for all.
    pub protocol: String,
    /// First port; `-1` where the protocol has none.
    pub from_port: i32,
    /// Last port.
    pub to_port: i32,
    /// Who may come in.
    pub source: Source,
}

impl Rule {
    /// TLS from somewhere: the only kind of rule that we make.
    #[must_use]
    pub fn https(source: Source) -> Self {
        Self {
            protocol: "tcp".into(),
            from_port: 443,
            to_port: 443,
            source,
        }
    }
}

/// The far end of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An IPv4 or IPv6 network in canonical form.
    Cidr(String),
    /// Members of another group.
    Group(String),
    /// A prefix list; never ours.
    PrefixList(String),
}

/// The states of an EC2 instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InstanceState {
    /// Starting.
    Pending,
    /// Runs.
    Running,
    /// On its way to stopped.
    Stopping,
    /// Stopped, can be started.
    Stopped,
    /// On its way to terminated.
    ShuttingDown,
    /// Gone for good.
    Terminated,
    /// A state that this version does not know: wait, conclude nothing.
    #[default]
    Unrecognized,
}

impl InstanceState {
    /// It will never run again.
    #[must_use]
    pub fn is_dying(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// An instance with our claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// `i-...`.
    pub id: String,
    /// State as last seen.
    pub state: InstanceState,
    /// EC2's own words on why it is in this state (`Client.UserInitiatedShutdown: ...`), if any.
    pub state_reason: Option<String>,
    /// Value of the launch tag.
    pub launch: Option<(i64, i64)>,
    /// Private IPv4 address.
    pub private_ip: Option<String>,
    /// Public IPv4 address.
    pub public_ip: Option<String>,
    /// Availability zone.
    pub zone: String,
    /// Subnet id.
    pub subnet_id: Option<String>,
    /// Image id.
    pub image_id: String,
    /// Instance type.
    pub instance_type: String,
    /// When it was launched or last started.
    pub launch_time: Option<Timestamp>,
    /// ARN of its instance profile.
    pub profile_arn: Option<String>,
    /// Its security groups.
    pub security_group_ids: Vec<String>,
    /// Device name to volume id, root included.
    pub block_devices: BTreeMap<String, String>,
    /// The token of the call that launched it: EC2 keeps it, nobody can change it.
    pub client_token: Option<String>,
    /// Status checks that fail.
    pub impaired: Option<Impairment>,
    /// What AWS has announced.
    pub events: Vec<ScheduledEvent>,
    /// All tags.
    pub tags: BTreeMap<String, String>,
}

impl Instance {
    /// The volume that it holds as its data device; its root volume carries the claim, too.
    #[must_use]
    pub fn data_device(&self) -> Option<&String> {
        self.block_devices.get(names::DATA_DEVICE)
    }
}

/// Status checks that fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impairment {
    /// EC2's side: host, power, network.
    pub system: bool,
    /// The machine's side: its operating system does not answer.
    pub instance: bool,
    /// Since when, as EC2 says, or else as we saw it.
    pub since: Option<Timestamp>,
}

impl Impairment {
    /// For people.
    #[must_use]
    pub fn told(&self) -> &'static str {
        match (self.system, self.instance) {
            (true, true) => "its system and instance status checks fail",
            (true, false) => "its system status check fails (EC2's host or network)",
            (false, _) => "its instance status check fails (the operating system)",
        }
    }
}

/// Something that AWS will do to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledEvent {
    /// AWS's id of it.
    pub id: String,
    /// `instance-retirement`, `instance-stop`, `system-reboot` and the like.
    pub code: String,
    /// Not before this.
    pub not_before: Option<Timestamp>,
}

/// What EC2 says of a running instance's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkup {
    /// Status checks that fail.
    pub impaired: Option<Impairment>,
    /// What AWS has announced and not done yet.
    pub events: Vec<ScheduledEvent>,
}

/// The states of an EBS volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VolumeState {
    /// Being made.
    Creating,
    /// Free.
    Available,
    /// Attached.
    InUse,
    /// Going.
    Deleting,
    /// Gone.
    Deleted,
    /// `error`, or a state that this version does not know.
    #[default]
    Unrecognized,
}

/// A data volume with our claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// `vol-...`.
    pub id: String,
    /// State as last seen.
    pub state: VolumeState,
    /// Size in GiB.
    pub size_gib: i64,
    /// The size that we asked EC2 to let it grow to; EC2 shows the old one until that is done.
    pub growing_to: Option<i64>,
    /// Availability zone; it never leaves it.
    pub zone: String,
    /// The instance that holds it.
    pub attached_to: Option<String>,
    /// All tags.
    pub tags: BTreeMap<String, String>,
}

/// A config that was handed to a running gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// When.
    pub at: Timestamp,
    /// To which instance.
    pub instance_id: String,
    /// SHA-256 of its canonical JSON.
    pub sha256: String,
}

impl Pushed {
    /// A later answer of the same gateway says that it runs with it: another config from then on is somebody else's doing.
    #[must_use]
    pub fn is_confirmed_by(&self, probe: &Probe) -> bool {
        let runs_with = |health: &GatewayHealth| health.config_sha256.as_ref() == Some(&self.sha256);
        probe.instance_id == self.instance_id && probe.at > self.at && probe.outcome.as_ref().is_ok_and(runs_with)
    }
}

/// What the probe saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// When.
    pub at: Timestamp,
    /// The instance that was asked.
    pub instance_id: String,
    /// Its launch time when it was asked; EC2 gives a new one at each start.
    pub launch_time: Option<Timestamp>,
    /// The gateway's own word on its health, or the hop that is broken.
    pub outcome: Result<GatewayHealth, ProbeFailure>,
}

/// A gateway that shook hands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayHealth {
    /// `health.ok`.
    pub ok: bool,
    /// The gateway's version.
    pub version: String,
    /// SHA-256 of the config document that it runs with.
    pub config_sha256: Option<String>,
    /// SHA-256 of what of that document takes hold with a start only.
    pub config_restart_sha256: Option<String>,
    /// Whether the workspace files of the spec were seeded.
    pub workspace_seeded: bool,
    /// What is not ok, in the gateway's words.
    pub detail: Option<String>,
}

/// Where the way from the operator to the gateway's hello-ok breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    /// The broken hop.
    pub hop: Hop,
    /// What happened there, for people.
    pub message: String,
}

/// The hops from the operator to a healthy gateway, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hop {
    /// TCP to port 443: address, route, security group, nginx listening.
    Connect,
    /// The TLS handshake, before a certificate was seen.
    Tls,
    /// The certificate that was seen: it must be the pinned one.
    Certificate,
    /// nginx to the gateway: the WebSocket upgrade.
    Upgrade,
    /// The gateway's handshake: challenge, device key, token.
    Handshake,
    /// The health request after hello-ok.
    Health,
}

/// A bundle that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleRecord {
    /// For which instance.
    pub instance_id: String,
    /// SHA-256 of the text, hex.
    pub sha256: String,
}

/// A refusal that still stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Why, in our terms.
    pub refusal: Refusal,
    /// Which kind of step was refused: [`crate::plan::Step::name`].
    pub step: &'static str,
    /// What exactly: [`crate::plan::Step::about`]; `None`: whatever it is.
    pub about: Option<String>,
    /// How often in a row.
    pub count: u32,
    /// Not before this; `None`: not before the wish changes.
    pub retry_at: Option<Timestamp>,
}

/// The longest pause after a refusal, and some.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(70);

impl Refused {
    /// Whether it is too early to ask again. A time that lies further ahead than any pause was noted before the clock was set back.
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> bool {
        let ahead = |at: Timestamp| at.duration_since(now);
        self.retry_at.is_none_or(|at| at > now && ahead(at) <= LONGEST_PAUSE)
    }
}
