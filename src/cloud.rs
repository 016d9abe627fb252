//! The port: what the operator asks of any cloud, in our own words.
//!
//! Reads answer with whole things or an error, never with half a list. Each write is one call for one
//! [`koi_core::plan::Step`]. The AWS adapter stands behind it; controller and fleet know nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use koi_core::api::LaunchStatus;
use koi_core::desired::CloudWish;
use koi_core::fleet::Folded;
pub use koi_core::fleet::Group;
use koi_core::observed::{Checkup, Instance, Place, Rule, Snapshot, Subnet, Volume};
use koi_core::refusal::{Refusal, classify};

/// The answer to one question.
pub type Answer<T> = Result<T, CloudError>;

/// A call that did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {}{}", self.told(), self.request())]
pub struct CloudError {
    /// AWS's name of the operation.
    pub operation: &'static str,
    /// AWS's error code; empty when no answer came.
    pub code: String,
    /// AWS's message, or what happened on the way.
    pub message: String,
    /// AWS's id of the request, for its support.
    pub request_id: Option<String>,
    /// How far the call came.
    pub kind: ErrorKind,
}

/// How far a failed call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The cloud answered, and said no.
    Refused,
    /// No answer: connection, time-out. What it did is unknown.
    Unreachable,
    /// The call never left: no credentials, no region, a request that cannot be built.
    NotSent,
    /// An answer that makes no sense to us. What it did is unknown.
    Unintelligible,
}

impl CloudError {
    /// An answer without the part that it must have.
    #[must_use]
    pub fn unintelligible(operation: &'static str, message: impl Into<String>) -> Self {
        Self {
            operation,
            code: String::new(),
            message: message.into(),
            request_id: None,
            kind: ErrorKind::Unintelligible,
        }
    }

    /// A change that was not asked for, because this process may not change anything now.
    #[must_use]
    pub fn withheld(operation: &'static str) -> Self {
        Self {
            kind: ErrorKind::NotSent,
            ..Self::unintelligible(operation, "not sent: this process does not lead, or is about to end")
        }
    }

    /// Whether the cloud answered with this code.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// What it means, in our terms and for people.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        classify(self.operation, &self.code, &self.message)
    }

    fn told(&self) -> String {
        match (self.code.is_empty(), self.message.is_empty()) {
            (false, false) => format!("{}: {}", self.code, self.message),
            (false, true) => self.code.clone(),
            (true, _) => self.message.clone(),
        }
    }

    fn request(&self) -> String {
        self.request_id
            .as_ref()
            .map(|id| format!(" (request {id})"))
            .unwrap_or_default()
    }
}

/// An instance profile and the role of the same name, as IAM shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileFacts {
    /// The profile, if there is one.
    pub profile: Option<Tagged>,
    /// The role, if there is one.
    pub role: Option<Tagged>,
    /// The profile holds that role (or, for a profile that is not ours, any role).
    pub role_in_profile: bool,
    /// A profile of an installation like ours holds this role of another name.
    pub other_role: Option<String>,
    /// The text of the role's inline policy [`koi_core::names::ROLE_POLICY`], if it has one.
    pub policy: Option<String>,
}

/// A named thing of IAM with its tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tagged {
    /// Its ARN.
    pub arn: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// What a launch is made of: the record and what the record's user data says.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// `status.launch`; nothing else decides.
    pub record: &'a LaunchStatus,
    /// The user data that the record renders to.
    pub user_data: &'a [u8],
}

/// Which subnet is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubnetChoice<'a> {
    /// The one with this id.
    Id(&'a str),
    /// The default one of this zone.
    DefaultIn(&'a str),
    /// The default one of the first zone that has one.
    Default,
}

/// A role to make.
#[derive(Clone, Copy, Debug)]
pub struct Role<'a> {
    /// Its name.
    pub name: &'a str,
    /// Who may take it: the trust policy.
    pub trust: &'a str,
    /// What bounds it.
    pub boundary_arn: Option<&'a str>,
    /// Claim tags.
    pub tags: &'a BTreeMap<String, String>,
}

/// A SecureString to write.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    /// Parameter name.
    pub name: &'a str,
    /// The text; secret.
    pub text: &'a str,
    /// Tags of a new parameter. Ignored when overwriting: SSM takes one or the other.
    pub tags: &'a BTreeMap<String, String>,
    /// Whether the parameter exists and is to be overwritten.
    pub overwrite: bool,
}

/// What the operator asks of a cloud account in one region.
pub trait Cloud: Send + Sync + 'static {
    /// The account and region that a plan names; `None` when that is here. No call is made yet.
    fn elsewhere(&self, _wish: &CloudWish) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// The region that is here, where there are several.
    fn region(&self) -> Option<&str> {
        None
    }

    /// Whose account and which region our credentials work on.
    fn place(&self) -> impl Future<Output = Answer<Place>> + Send;
    /// A String parameter; `None` when there is none.
    fn parameter(&self, name: &str) -> impl Future<Output = Answer<Option<String>>> + Send;
    /// A subnet with its VPC.
    fn subnet(&self, choice: SubnetChoice<'_>) -> impl Future<Output = Answer<Option<Subnet>>> + Send;
    /// An instance profile with the role of the same name.
    fn profile(&self, name: &str) -> impl Future<Output = Answer<ProfileFacts>> + Send;

    /// Every instance with the claim of the installation, all pages.
    fn instances(&self, cluster_id: &str) -> impl Future<Output = Answer<Vec<Folded<Instance>>>> + Send;
    /// Every instance with the claims of these agents.
    fn instances_of(
        &self,
        cluster_id: &str,
        agent_uids: &[String],
    ) -> impl Future<Output = Answer<Vec<Folded<Instance>>>> + Send;
    /// Those of these instances that there are, whatever tags they carry.
    fn instances_by_id(&self, ids: &[String]) -> impl Future<Output = Answer<Vec<Folded<Instance>>>> + Send;
    /// Running instances that EC2 does not call well, or has plans for. Others of the account may be among them.
    fn checkups(&self) -> impl Future<Output = Answer<BTreeMap<String, Checkup>>> + Send;
    /// Every volume with the claim of the installation, all pages.
    fn volumes(&self, cluster_id: &str) -> impl Future<Output = Answer<Vec<Folded<Volume>>>> + Send;
    /// Every volume with the claims of these agents.
    fn volumes_of(
        &self,
        cluster_id: &str,
        agent_uids: &[String],
    ) -> impl Future<Output = Answer<Vec<Folded<Volume>>>> + Send;
    /// Those of these volumes that there are, whatever tags they carry.
    fn volumes_by_id(&self, ids: &[String]) -> impl Future<Output = Answer<Vec<Folded<Volume>>>> + Send;
    /// The names of all parameters of the installation, all pages.
    fn parameters(&self, cluster_id: &str) -> impl Future<Output = Answer<BTreeSet<String>>> + Send;
    /// Every snapshot with the claim of this agent.
    fn snapshots(&self, cluster_id: &str, agent_uid: &str) -> impl Future<Output = Answer<Vec<Snapshot>>> + Send;
    /// Every security group with the claim of the installation, all pages.
    fn groups(&self, cluster_id: &str) -> impl Future<Output = Answer<Vec<Group>>> + Send;
    /// The security group of this name in this VPC, whoever owns it.
    fn group(&self, cluster_id: &str, vpc_id: &str, name: &str) -> impl Future<Output = Answer<Option<Group>>> + Send;
    /// The end of an instance's console.
    fn console(&self, instance_id: &str) -> impl Future<Output = Answer<String>> + Send;

    /// Writes a String parameter that must not exist yet.
    fn create_parameter(&self, name: &str, value: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Writes a SecureString.
    fn put_bundle(&self, bundle: &Bundle<'_>) -> impl Future<Output = Answer<()>> + Send;
    /// Deletes a parameter; none there is success.
    fn delete_parameter(&self, name: &str) -> impl Future<Output = Answer<()>> + Send;

    /// A role, tagged in the same call.
    fn create_role(&self, role: &Role<'_>) -> impl Future<Output = Answer<()>> + Send;
    /// The inline policy [`koi_core::names::ROLE_POLICY`] of a role.
    fn put_role_policy(&self, role: &str, document: &str) -> impl Future<Output = Answer<()>> + Send;
    /// An empty instance profile.
    fn create_profile(&self, profile: &str, tags: &BTreeMap<String, String>)
    -> impl Future<Output = Answer<()>> + Send;
    /// Puts the role into the profile.
    fn add_role(&self, profile: &str, role: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Takes a role out of a profile; not there is success.
    fn remove_role(&self, profile: &str, role: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Deletes a profile; not there is success.
    fn delete_profile(&self, profile: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Deletes the inline policy; not there is success.
    fn delete_role_policy(&self, role: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Deletes a role; not there is success.
    fn delete_role(&self, role: &str) -> impl Future<Output = Answer<()>> + Send;

    /// A security group without inbound rules; answers its id.
    fn create_group(
        &self,
        name: &str,
        vpc_id: &str,
        tags: &BTreeMap<String, String>,
    ) -> impl Future<Output = Answer<String>> + Send;
    /// Adds inbound rules.
    fn authorize(&self, group_id: &str, rules: &[Rule]) -> impl Future<Output = Answer<()>> + Send;
    /// Takes inbound rules away.
    fn revoke(&self, group_id: &str, rules: &[Rule]) -> impl Future<Output = Answer<()>> + Send;
    /// Gives a live instance these security groups and no others.
    fn set_groups(&self, instance_id: &str, group_ids: &[String]) -> impl Future<Output = Answer<()>> + Send;
    /// Gives a stopped instance another type.
    fn set_type(&self, instance_id: &str, instance_type: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Deletes a security group; not there is success.
    fn delete_group(&self, group_id: &str) -> impl Future<Output = Answer<()>> + Send;

    /// The launch, built from the record alone; a repeated call with the same record answers with the same instance.
    fn launch(&self, launch: Launch<'_>) -> impl Future<Output = Answer<Instance>> + Send;
    /// Whether EC2 would take the launch: everything but what is free at the moment. Nothing is made.
    fn try_launch(&self, launch: Launch<'_>) -> impl Future<Output = Answer<()>> + Send;
    /// Starts a stopped instance.
    fn start(&self, instance_id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Stops an instance.
    fn stop(&self, instance_id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Boots an instance anew.
    fn reboot(&self, instance_id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Gives a live instance this profile, whichever it has.
    fn set_profile(&self, instance_id: &str, profile: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Lets a volume grow.
    fn grow(&self, volume_id: &str, size_gib: i64) -> impl Future<Output = Answer<()>> + Send;
    /// Terminates an instance; not there is success.
    fn terminate(&self, instance_id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Puts tags on an instance, a volume or a security group.
    fn tag(&self, id: &str, tags: &BTreeMap<String, String>) -> impl Future<Output = Answer<()>> + Send;
    /// Attaches the data volume as [`koi_core::names::DATA_DEVICE`].
    fn attach(&self, volume_id: &str, instance_id: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Begins a snapshot; answers its id.
    fn create_snapshot(
        &self,
        volume_id: &str,
        tags: &BTreeMap<String, String>,
    ) -> impl Future<Output = Answer<String>> + Send;
    /// The names of all roles and instance profiles that begin like this, all pages.
    fn identities(&self, prefix: &str) -> impl Future<Output = Answer<BTreeSet<String>>> + Send;
    /// Deletes a volume; not there is success.
    fn delete_volume(&self, volume_id: &str) -> impl Future<Output = Answer<()>> + Send;
}
