//! The port over that account: wall-clock time, and the same metrics of calls as on AWS.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use koi_core::fleet::{Folded, fold};
use koi_core::observed::{Checkup, Instance, Place, Rule, Snapshot, Subnet, Volume};
use koi_operator::cloud::{
    Answer, Bundle, Cloud, CloudError, ErrorKind, Group, Launch, ProfileFacts, Role, SubnetChoice, Tagged,
};
use koi_operator::metrics::Metrics;
use koi_sim::{Account, GroupRecord, Refused, Sight, Wanted};

/// EC2's largest page, SSM's largest page of descriptions.
const PAGES: (usize, usize) = (1000, 50);
/// EC2's largest number of values in one filter.
const FILTER_VALUES: usize = 200;

/// An account, where its bundles are shown, and who counts its calls.
pub(crate) struct Memory {
    account: Mutex<Account>,
    bundles: PathBuf,
    metrics: Arc<Metrics>,
}

impl Memory {
    pub(crate) fn new(account: Account, bundles: PathBuf, metrics: Arc<Metrics>) -> Self {
        Self {
            account: Mutex::new(account),
            bundles,
            metrics,
        }
    }

    fn with<T>(&self, deed: impl FnOnce(&mut Account) -> T) -> T {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.advance(Timestamp::now());
        deed(&mut account)
    }

    /// A change.
    fn call<T>(&self, operation: &'static str, deed: impl FnOnce(&mut Account) -> koi_sim::Answer<T>) -> Answer<T> {
        let answer = self.with(deed);
        let result = match &answer {
            Ok(_) => "ok",
            Err(refused) if refused.code.contains("Throttl") || refused.code.contains("RequestLimit") => "throttled",
            Err(_) => "refused",
        };
        self.metrics.count_request(service(operation), operation, result);
        answer.map_err(|refused| told(operation, refused))
    }

    /// A deletion: "not there" is success.
    fn delete(&self, operation: &'static str, deed: impl FnOnce(&mut Account) -> koi_sim::Answer) -> Answer<()> {
        const NOT_THERE: [&str; 5] = [
            "InvalidInstanceID.NotFound",
            "InvalidGroup.NotFound",
            "InvalidVolume.NotFound",
            "NoSuchEntity",
            "ParameterNotFound",
        ];
        match self.call(operation, deed) {
            Err(error) if NOT_THERE.contains(&error.code.as_str()) => Ok(()),
            answer => answer,
        }
    }

    /// A listing of so many pages.
    fn list<T>(&self, operation: &'static str, pages: impl Fn(&T) -> usize, look: impl FnOnce(&Account) -> T) -> T {
        let found = self.with(|account| look(account));
        for _ in 0..pages(&found).max(1) {
            self.metrics.count_request(service(operation), operation, "ok");
        }
        found
    }

    fn show(&self, parameter: &str, text: Option<&str>) {
        // /koi/<cluster id>/<agent UID>/<instance id>
        let Some(uid) = parameter.split('/').nth(3) else { return };
        let path = self.bundles.join(uid);
        let _ = match text {
            Some(text) => std::fs::write(path, text),
            None => std::fs::remove_file(path),
        };
    }
}

fn service(operation: &str) -> &'static str {
    match operation {
        "GetCallerIdentity" => "sts",
        name if name.contains("Parameter") => "ssm",
        name if name.contains("Role") || name.contains("Profile") => "iam",
        _ => "ec2",
    }
}

fn told(operation: &'static str, refused: Refused) -> CloudError {
    CloudError {
        operation,
        code: refused.code.to_owned(),
        message: refused.message,
        request_id: None,
        kind: ErrorKind::Refused,
    }
}

fn group_of(record: &GroupRecord, cluster_id: &str) -> Group {
    Group {
        name: record.name.clone(),
        vpc_id: record.vpc_id.clone(),
        facts: record.facts(cluster_id),
        tags: record.tags.clone(),
    }
}

fn by_values<T>(ids: &[String]) -> impl Fn(&T) -> usize {
    let calls = ids.len().div_ceil(FILTER_VALUES);
    move |_| calls
}

#[expect(clippy::ptr_arg, reason = "it is handed on as what measures a whole answer")]
fn by_page<T>(found: &Vec<T>) -> usize {
    found.len().div_ceil(PAGES.0)
}

impl Cloud for Memory {
    async fn place(&self) -> Answer<Place> {
        Ok(self.list("GetCallerIdentity", |_| 1, |account| account.place.clone()))
    }

    async fn parameter(&self, name: &str) -> Answer<Option<String>> {
        let look = |account: &Account| match account.parameter(name) {
            Some(found) => Some(found.value.clone()),
            // Public parameters name images.
            None => name.starts_with("/aws/").then(|| "ami-0123456789abcdef0".to_owned()),
        };
        Ok(self.list("GetParameter", |_| 1, look))
    }

    async fn subnet(&self, choice: SubnetChoice<'_>) -> Answer<Option<Subnet>> {
        let fits = |subnet: &&Subnet| match choice {
            SubnetChoice::Id(id) => subnet.id == id,
            SubnetChoice::DefaultIn(zone) => subnet.zone == zone,
            SubnetChoice::Default => true,
        };
        Ok(self.list(
            "DescribeSubnets",
            |_| 1,
            |account| account.subnets.iter().find(fits).cloned(),
        ))
    }

    async fn profile(&self, name: &str) -> Answer<ProfileFacts> {
        let look = |account: &Account| {
            let (profile, role) = account.identity(name);
            let arn = account.profile_arn(name);
            let tagged = |tags: &BTreeMap<String, String>| Tagged {
                arn: arn.clone(),
                tags: tags.clone(),
            };
            ProfileFacts {
                profile: profile.map(|profile| tagged(&profile.tags)),
                role: role.map(|role| tagged(&role.tags)),
                role_in_profile: profile.is_some_and(|profile| profile.role.is_some()),
                other_role: None,
                policy: role.and_then(|role| role.policy.clone()),
            }
        };
        Ok(self.list("GetInstanceProfile", |_| 1, look))
    }

    async fn instances(&self, cluster_id: &str) -> Answer<Vec<Folded<Instance>>> {
        let _ = std::fs::write(self.bundles.with_extension("live"), crate::HEAP.allocated().to_string());
        let sight = Sight::default();
        let look =
            |account: &Account| -> Vec<_> { account.each_instance(cluster_id, &[], &sight).map(Folded::of).collect() };
        Ok(self.list("DescribeInstances", by_page, look))
    }

    async fn instances_of(&self, cluster_id: &str, agent_uids: &[String]) -> Answer<Vec<Folded<Instance>>> {
        let sight = Sight::default();
        let look = |account: &Account| -> Vec<_> {
            account
                .each_instance(cluster_id, agent_uids, &sight)
                .map(Folded::of)
                .collect()
        };
        Ok(self.list("DescribeInstances", by_values(agent_uids), look))
    }

    async fn instances_by_id(&self, ids: &[String]) -> Answer<Vec<Folded<Instance>>> {
        Ok(self.list("DescribeInstances", by_values(ids), |account| {
            fold(account.instances_by_id(ids))
        }))
    }

    async fn checkups(&self) -> Answer<BTreeMap<String, Checkup>> {
        // The adapter asks a crowded account three questions, each for one kind of trouble.
        Ok(self.list("DescribeInstanceStatus", |_| 3, Account::checkups))
    }

    async fn volumes(&self, cluster_id: &str) -> Answer<Vec<Folded<Volume>>> {
        let sight = Sight::default();
        let look =
            |account: &Account| -> Vec<_> { account.each_volume(cluster_id, &[], &sight).map(Folded::of).collect() };
        Ok(self.list("DescribeVolumes", by_page, look))
    }

    async fn volumes_of(&self, cluster_id: &str, agent_uids: &[String]) -> Answer<Vec<Folded<Volume>>> {
        let sight = Sight::default();
        let look = |account: &Account| -> Vec<_> {
            account
                .each_volume(cluster_id, agent_uids, &sight)
                .map(Folded::of)
                .collect()
        };
        Ok(self.list("DescribeVolumes", by_values(agent_uids), look))
    }

    async fn volumes_by_id(&self, ids: &[String]) -> Answer<Vec<Folded<Volume>>> {
        Ok(self.list("DescribeVolumes", by_values(ids), |account| {
            fold(account.volumes_by_id(ids))
        }))
    }

    async fn parameters(&self, _cluster_id: &str) -> Answer<BTreeSet<String>> {
        let pages = |names: &BTreeSet<String>| names.len().div_ceil(PAGES.1);
        Ok(self.list("DescribeParameters", pages, |account| {
            account.parameters().map(ToOwned::to_owned).collect()
        }))
    }

    async fn snapshots(&self, cluster_id: &str, agent_uid: &str) -> Answer<Vec<Snapshot>> {
        let look = |account: &Account| account.snapshots(cluster_id, agent_uid);
        Ok(self.list("DescribeSnapshots", by_page, look))
    }

    async fn groups(&self, cluster_id: &str) -> Answer<Vec<Group>> {
        let look = |account: &Account| {
            let groups = account.groups(cluster_id);
            groups.map(|record| group_of(record, cluster_id)).collect()
        };
        Ok(self.list("DescribeSecurityGroups", by_page, look))
    }

    async fn group(&self, cluster_id: &str, vpc_id: &str, name: &str) -> Answer<Option<Group>> {
        let look = |account: &Account| {
            let found = account.group(vpc_id, name);
            found.map(|record| group_of(record, cluster_id))
        };
        Ok(self.list("DescribeSecurityGroups", |_| 1, look))
    }

    async fn console(&self, _instance_id: &str) -> Answer<String> {
        Ok(self.list("GetConsoleOutput", |_| 1, |_| String::new()))
    }

    async fn create_parameter(&self, name: &str, value: &str) -> Answer<()> {
        let none = BTreeMap::new();
        self.call("PutParameter", |account| {
            account.put_parameter(name, value, &none, false)
        })
    }

    async fn put_bundle(&self, bundle: &Bundle<'_>) -> Answer<()> {
        let none = BTreeMap::new();
        let tags = if bundle.overwrite { &none } else { bundle.tags };
        // The text is with whoever plays the gateways.
        self.call("PutParameter", |account| {
            account.put_parameter(bundle.name, "", tags, bundle.overwrite)
        })?;
        self.show(bundle.name, Some(bundle.text));
        Ok(())
    }

    async fn delete_parameter(&self, name: &str) -> Answer<()> {
        self.delete("DeleteParameter", |account| account.delete_parameter(name))?;
        self.show(name, None);
        Ok(())
    }

    async fn create_role(&self, role: &Role<'_>) -> Answer<()> {
        self.call("CreateRole", |account| account.create_role(role.name, role.tags))
    }

    async fn put_role_policy(&self, role: &str, document: &str) -> Answer<()> {
        self.call("PutRolePolicy", |account| account.put_role_policy(role, document))
    }

    async fn create_profile(&self, profile: &str, tags: &BTreeMap<String, String>) -> Answer<()> {
        self.call("CreateInstanceProfile", |account| account.create_profile(profile, tags))
    }

    async fn add_role(&self, profile: &str, role: &str) -> Answer<()> {
        debug_assert_eq!(profile, role);
        self.call("AddRoleToInstanceProfile", |account| account.add_role(profile, role))
    }

    async fn remove_role(&self, profile: &str, role: &str) -> Answer<()> {
        self.delete("RemoveRoleFromInstanceProfile", |account| {
            account.remove_role(profile, role)
        })
    }

    async fn delete_profile(&self, profile: &str) -> Answer<()> {
        self.delete("DeleteInstanceProfile", |account| account.delete_profile(profile))
    }

    async fn delete_role_policy(&self, role: &str) -> Answer<()> {
        self.delete("DeleteRolePolicy", |account| account.delete_role_policy(role))
    }

    async fn delete_role(&self, role: &str) -> Answer<()> {
        self.delete("DeleteRole", |account| account.delete_role(role))
    }

    async fn create_group(&self, name: &str, vpc_id: &str, tags: &BTreeMap<String, String>) -> Answer<String> {
        self.call("CreateSecurityGroup", |account| {
            account.create_group(name, vpc_id, tags)
        })
    }

    async fn authorize(&self, group_id: &str, rules: &[Rule]) -> Answer<()> {
        self.call("AuthorizeSecurityGroupIngress", |account| {
            account.authorize(group_id, rules)
        })
    }

    async fn revoke(&self, group_id: &str, rules: &[Rule]) -> Answer<()> {
        self.call("RevokeSecurityGroupIngress", |account| account.revoke(group_id, rules))
    }

    async fn set_groups(&self, instance_id: &str, group_ids: &[String]) -> Answer<()> {
        self.call("ModifyInstanceAttribute", |account| {
            account.set_groups(instance_id, group_ids)
        })
    }

    async fn set_type(&self, instance_id: &str, instance_type: &str) -> Answer<()> {
        self.call("ModifyInstanceAttribute", |account| {
            account.set_type(instance_id, instance_type)
        })
    }

    async fn delete_group(&self, group_id: &str) -> Answer<()> {
        self.delete("DeleteSecurityGroup", |account| account.delete_group(group_id))
    }

    async fn launch(&self, launch: Launch<'_>) -> Answer<Instance> {
        self.call("RunInstances", |account| {
            account.run_instances(&Wanted::from(launch.record))
        })
    }

    async fn try_launch(&self, launch: Launch<'_>) -> Answer<()> {
        self.call("RunInstances", |account| {
            account.try_launch(&Wanted::from(launch.record))
        })
    }

    async fn start(&self, instance_id: &str) -> Answer<()> {
        self.call("StartInstances", |account| account.start_instance(instance_id))
    }

    async fn stop(&self, instance_id: &str) -> Answer<()> {
        self.call("StopInstances", |account| account.stop_instance(instance_id))
    }

    async fn reboot(&self, instance_id: &str) -> Answer<()> {
        self.call("RebootInstances", |account| account.reboot_instance(instance_id))
    }

    async fn set_profile(&self, instance_id: &str, profile: &str) -> Answer<()> {
        self.call("ReplaceIamInstanceProfileAssociation", |account| {
            account.set_profile(instance_id, profile)
        })
    }

    async fn grow(&self, volume_id: &str, size_gib: i64) -> Answer<()> {
        self.call("ModifyVolume", |account| account.grow_volume(volume_id, size_gib))
    }

    async fn terminate(&self, instance_id: &str) -> Answer<()> {
        self.delete("TerminateInstances", |account| account.terminate_instance(instance_id))
    }

    async fn tag(&self, id: &str, tags: &BTreeMap<String, String>) -> Answer<()> {
        self.call("CreateTags", |account| account.create_tags(id, tags))
    }

    async fn attach(&self, volume_id: &str, instance_id: &str) -> Answer<()> {
        self.call("AttachVolume", |account| account.attach_volume(volume_id, instance_id))
    }

    async fn create_snapshot(&self, volume_id: &str, tags: &BTreeMap<String, String>) -> Answer<String> {
        self.call("CreateSnapshot", |account| account.create_snapshot(volume_id, tags))
    }

    async fn identities(&self, prefix: &str) -> Answer<BTreeSet<String>> {
        let look = |account: &Account| {
            let found = account.identities().into_iter();
            found
                .filter(|name| name.starts_with(prefix))
                .map(ToOwned::to_owned)
                .collect()
        };
        Ok(self.list("ListInstanceProfiles", |_| 2, look))
    }

    async fn delete_volume(&self, volume_id: &str) -> Answer<()> {
        self.delete("DeleteVolume", |account| account.delete_volume(volume_id))
    }
}
