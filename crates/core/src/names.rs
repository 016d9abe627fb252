//! Names, claim tags and tokens: how a thing in the cloud is known to be ours, and whose it is.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Claim tag: id of the installation (`--cluster-id`).
pub const TAG_CLUSTER: &str = "skykoi:cluster";
/// Claim tag: UID of the KoiAgent. Absent on what several agents share.
pub const TAG_AGENT_UID: &str = "skykoi:agent-uid";
/// Claim tag for people: `namespace/name`, cut to the 256 characters that EC2 allows in a tag value.
pub const TAG_AGENT: &str = "skykoi:agent";
/// Instance only: `epoch-attempt` of the launch that made it; enough to rebuild a lost status.
pub const TAG_LAUNCH: &str = "skykoi:launch";
/// On the data volume, and on what is launched with it: the agent's `storage.deletionPolicy`, for when the agent is gone.
pub const TAG_DELETION_POLICY: &str = "skykoi:deletion-policy";
/// On the snapshot that is taken of a data volume before it is deleted.
pub const TAG_LAST_SNAPSHOT: &str = "skykoi:last-snapshot";
/// On an instance that is not the recorded one of its agent.
pub const TAG_ORPHAN: &str = "skykoi:orphan";
/// Security group only: the hash of the rule set that the group stands for.
pub const TAG_RULE_SET: &str = "skykoi:rule-set";
/// The tag of an SSM bundle that the instance role's policy compares with the caller's instance.
pub const TAG_INSTANCE_ID: &str = "InstanceId";
/// Device name of the data volume in the block device mapping; on the machine it is found by volume id.
pub const DATA_DEVICE: &str = "/dev/sdf";
/// Device name of the root volume in the block device mapping: Ubuntu's, whose images and derivatives the product supports.
pub const ROOT_DEVICE: &str = "/dev/sda1";
/// Name of the inline policy of a role that we made.
pub const ROLE_POLICY: &str = "koi";
/// The finalizer that keeps a KoiAgent until the cloud says that its things are gone.
pub const FINALIZER: &str = "skykoi.io/instance";
/// Label on Secrets made for an agent; the operator watches Secrets by it.
pub const LABEL_AGENT: &str = "skykoi.io/agent";
/// Annotation on such a Secret: the value of the agent's `skykoi.io/rotate-token` that its token was made for.
pub const ANNOTATION_ROTATION: &str = "skykoi.io/rotate-token";
/// Annotation on such a Secret: when a rotation replaced what is still good beside the new.
pub const ANNOTATION_ROTATED_AT: &str = "skykoi.io/rotated-at";
/// `app.kubernetes.io/managed-by` and the field manager of every write.
pub const MANAGER: &str = "koi-operator";
/// EC2's limit for a tag value, in characters.
const TAG_VALUE_MAX: usize = 256;

/// Who owns a thing: one agent of one installation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Id of the installation.
    pub cluster_id: String,
    /// UID of the KoiAgent.
    pub agent_uid: String,
    /// Namespace of the KoiAgent.
    pub namespace: String,
    /// Name of the KoiAgent.
    pub name: String,
}

impl Claim {
    /// The tags of everything that belongs to this agent alone, the plan's own tags under ours.
    #[must_use]
    pub fn tags(&self, plan_tags: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut tags = shared_tags(&self.cluster_id, plan_tags);
        let agent: String = format!("{}/{}", self.namespace, self.name)
            .chars()
            .take(TAG_VALUE_MAX)
            .collect();
        tags.insert(TAG_AGENT_UID.into(), self.agent_uid.clone());
        tags.insert(TAG_AGENT.into(), agent);
        tags.insert(
            "Name".into(),
            format!("koi-{}-{}", self.namespace, self.name)
                .chars()
                .take(TAG_VALUE_MAX)
                .collect(),
        );
        tags
    }

    /// Do these tags, read from the cloud, carry exactly this claim?
    #[must_use]
    pub fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(TAG_CLUSTER) == Some(&self.cluster_id) && tags.get(TAG_AGENT_UID) == Some(&self.agent_uid)
    }

    /// Whether somebody else's claim is on a thing; tags that are missing claim nothing.
    #[must_use]
    pub fn is_anothers(&self, tags: &BTreeMap<String, String>) -> bool {
        let other = |key: &str, ours: &String| tags.get(key).is_some_and(|value| value != ours);
        other(TAG_CLUSTER, &self.cluster_id) || other(TAG_AGENT_UID, &self.agent_uid)
    }
}

/// The tags of a thing that several agents share: the installation's claim and no agent.
#[must_use]
pub fn shared_tags(cluster_id: &str, plan_tags: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut tags = plan_tags.clone();
    tags.insert(TAG_CLUSTER.into(), cluster_id.into());
    tags
}

/// The idempotency token of a launch: at most 64 ASCII characters, the same for the same agent, epoch and attempt for ever.
#[must_use]
pub fn client_token(agent_uid: &str, epoch: i64, attempt: i64) -> String {
    format!("koi-{}-{epoch}-{attempt}", short_hash(&[agent_uid], 20))
}

/// No agent is launched more often: what is larger somebody else wrote.
pub const LAUNCHES_MAX: i64 = 1_000_000_000;

/// The value of [`TAG_LAUNCH`].
#[must_use]
pub fn launch_tag(epoch: i64, attempt: i64) -> String {
    format!("{epoch}-{attempt}")
}

/// Reads [`TAG_LAUNCH`] back.
#[must_use]
pub fn parse_launch_tag(value: &str) -> Option<(i64, i64)> {
    let (epoch, attempt) = value.split_once('-')?;
    let number = |text: &str| text.parse().ok().filter(|number| (1..=LAUNCHES_MAX).contains(number));
    Some((number(epoch)?, number(attempt)?))
}

/// Name of the SSM SecureString that only this instance can read.
#[must_use]
pub fn bundle_parameter(cluster_id: &str, agent_uid: &str, instance_id: &str) -> String {
    format!("/koi/{cluster_id}/{agent_uid}/{instance_id}")
}

/// The folder of all parameters of an installation.
#[must_use]
pub fn parameter_folder(cluster_id: &str) -> String {
    format!("/koi/{cluster_id}")
}

/// Whether a launch of this agent was made with this token: EC2 keeps the token of the creating call, and unlike tags nobody can copy it.
#[must_use]
pub fn is_token_of(agent_uid: &str, token: &str) -> bool {
    parse_client_token(agent_uid, token).is_some()
}

/// Epoch and attempt of a token of this agent.
#[must_use]
pub fn parse_client_token(agent_uid: &str, token: &str) -> Option<(i64, i64)> {
    let launch = token.strip_prefix(&format!("koi-{}-", short_hash(&[agent_uid], 20)))?;
    parse_launch_tag(launch)
}

/// Agent UID and instance id of such a name.
#[must_use]
pub fn parse_bundle_parameter(cluster_id: &str, name: &str) -> Option<(String, String)> {
    let rest = name
        .strip_prefix("/koi/")?
        .strip_prefix(cluster_id)?
        .strip_prefix('/')?;
    let (uid, instance_id) = rest.split_once('/')?;
    let fits = !uid.is_empty() && instance_id.starts_with("i-") && !instance_id.contains('/');
    fits.then(|| (uid.to_owned(), instance_id.to_owned()))
}

/// Name of the SSM String that binds the cluster id to one cluster in an account and region.
#[must_use]
pub fn owner_parameter(cluster_id: &str) -> String {
    format!("/koi/{cluster_id}/owner")
}

/// Whether a text is the id of a machine image, as EC2 writes it.
#[must_use]
pub fn is_image_id(text: &str) -> bool {
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    text.strip_prefix("ami-")
        .is_some_and(|id| matches!(id.len(), 8 | 17) && id.chars().all(hex))
}

/// Name of the security group that all agents of one VPC and rule set share.
#[must_use]
pub fn security_group(cluster_id: &str, rule_set: &str) -> String {
    format!("koi-{cluster_id}-{rule_set}")
}

/// Role and instance profile of an agent with an identity of its own: IAM allows 64 characters.
#[must_use]
pub fn agent_role(cluster_id: &str, agent_uid: &str) -> String {
    format!(
        "{}{}",
        agent_role_prefix(cluster_id),
        short_hash(&[cluster_id, agent_uid], 20)
    )
}

/// How the names of all such roles begin.
#[must_use]
pub fn agent_role_prefix(cluster_id: &str) -> String {
    let head: String = cluster_id.chars().take(24).collect();
    format!("koi-{head}-")
}

/// Name of the Secret with the gateway token and the TLS key pair.
#[must_use]
pub fn token_secret(agent: &str) -> String {
    format!("{agent}-gateway")
}

/// The fixed name in an agent's certificate. Addresses change, this does not.
#[must_use]
pub fn tls_name(agent_uid: &str) -> String {
    format!("{agent_uid}.koi.internal")
}

/// The first `digits` hex digits of a SHA-256 over the parts, each closed by a zero byte so that no two lists collide.
#[must_use]
pub fn short_hash(parts: &[&str], digits: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests;
