//! The AWS adapter: the one place that speaks to the SDK.
//!
//! One file for each service, pure conversions in [`convert`] and [`request`], errors in [`error`]. Nothing here decides anything:
//! a write whose goal is met already ("not there" when deleting) is success, everything else is told as AWS told it.

mod checkups;
mod convert;
mod error;
mod groups;
mod iam;
mod instances;
mod meter;
mod pages;
mod profiles;
mod request;
mod session;
mod ssm;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use koi_core::desired::CloudWish;
use koi_core::fleet::Folded;
use koi_core::observed::{Checkup, Instance, Place, Rule, Snapshot, Subnet, Volume};

use crate::cloud::{Answer, Bundle, Cloud, CloudError, Group, Launch, ProfileFacts, Role, SubnetChoice};
use crate::metrics::Metrics;
use error::ask;
use session::Session;

/// How the operator is called in the user agent of its requests.
const APP_NAME: &str = "koi-operator";
/// The region when nobody names one, as the product's documentation says.
const DEFAULT_REGION: &str = "us-east-1";

/// The clients of one account and region.
pub struct Aws {
    ec2: aws_sdk_ec2::Client,
    iam: aws_sdk_iam::Client,
    ssm: aws_sdk_ssm::Client,
    sts: aws_sdk_sts::Client,
    region: String,
    base: SdkConfig,
    metrics: Arc<Metrics>,
    /// The account has so many instances that looking through all of them costs more than asking for the troubled ones.
    crowded: std::sync::atomic::AtomicBool,
}

impl Aws {
    /// Clients from the SDK's standard chain and variables; no call is made yet.
    pub async fn from_standard_chain(metrics: &Arc<Metrics>) -> Self {
        let regions = aws_config::meta::region::RegionProviderChain::default_provider().or_else(DEFAULT_REGION);
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(regions)
            // The controller has pauses of its own, and only it knows whose turn is next.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts());
        if let Ok(name) = AppName::new(APP_NAME) {
            loader = loader.app_name(name);
        }
        let config = Box::pin(loader.load()).await;
        Self::new(&config, metrics)
    }

    fn new(config: &SdkConfig, metrics: &Arc<Metrics>) -> Self {
        let meter = meter::Meter::new(Arc::clone(metrics));
        Self {
            ec2: aws_sdk_ec2::Client::from_conf(
                aws_sdk_ec2::config::Builder::from(config)
                    .interceptor(meter.clone())
                    .build(),
            ),
            iam: aws_sdk_iam::Client::from_conf(
                aws_sdk_iam::config::Builder::from(config)
                    .interceptor(meter.clone())
                    .build(),
            ),
            ssm: aws_sdk_ssm::Client::from_conf(
                aws_sdk_ssm::config::Builder::from(config)
                    .interceptor(meter.clone())
                    .build(),
            ),
            sts: aws_sdk_sts::Client::from_conf(aws_sdk_sts::config::Builder::from(config).interceptor(meter).build()),
            region: config
                .region()
                .map_or_else(|| DEFAULT_REGION.to_owned(), ToString::to_string),
            base: config.clone(),
            metrics: Arc::clone(metrics),
            crowded: std::sync::atomic::AtomicBool::new(false),
        }
    }
}

/// The SDK sets a connect time-out only: without these a call that hangs would hold its agent for ever.
fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(15))
        .operation_timeout(Duration::from_secs(20))
        .build()
}

impl Cloud for Aws {
    fn elsewhere(&self, wish: &CloudWish) -> Option<Self> {
        let region = wish.region.as_ref().filter(|region| **region != self.region);
        if region.is_none() && wish.role_arn.is_none() {
            return None;
        }
        let mut there = self.base.to_builder();
        if let Some(region) = region {
            there.set_region(Some(Region::new(region.clone())));
        }
        if let Some(role_arn) = &wish.role_arn {
            let session = Session::new(self.sts.clone(), role_arn.clone(), wish.external_id.clone());
            there.set_credentials_provider(Some(SharedCredentialsProvider::new(session)));
            // The cache holds one identity: this one needs another.
            there.set_identity_cache(Some(IdentityCache::lazy().build()));
        }
        Some(Self::new(&there.build(), &self.metrics))
    }

    fn region(&self) -> Option<&str> {
        Some(&self.region)
    }

    async fn place(&self) -> Answer<Place> {
        let answer = ask("GetCallerIdentity", || self.sts.get_caller_identity().send()).await?;
        let account = answer
            .account()
            .ok_or_else(|| CloudError::unintelligible("GetCallerIdentity", "the answer names no account"))?;
        Ok(Place {
            account: account.to_owned(),
            region: self.region.clone(),
        })
    }

    async fn parameter(&self, name: &str) -> Answer<Option<String>> {
        ssm::parameter(&self.ssm, name).await
    }

    async fn subnet(&self, choice: SubnetChoice<'_>) -> Answer<Option<Subnet>> {
        groups::subnet(&self.ec2, choice).await
    }

    async fn profile(&self, name: &str) -> Answer<ProfileFacts> {
        iam::profile(&self.iam, name).await
    }

    async fn instances(&self, cluster_id: &str) -> Answer<Vec<Folded<Instance>>> {
        instances::of_cluster(&self.ec2, cluster_id).await
    }

    async fn instances_of(&self, cluster_id: &str, agent_uids: &[String]) -> Answer<Vec<Folded<Instance>>> {
        instances::of_agents(&self.ec2, cluster_id, agent_uids).await
    }

    async fn instances_by_id(&self, ids: &[String]) -> Answer<Vec<Folded<Instance>>> {
        instances::by_id(&self.ec2, ids).await
    }

    async fn checkups(&self) -> Answer<BTreeMap<String, Checkup>> {
        checkups::all(&self.ec2, &self.crowded).await
    }

    async fn volumes_by_id(&self, ids: &[String]) -> Answer<Vec<Folded<Volume>>> {
        volumes::by_id(&self.ec2, ids).await
    }

    async fn parameters(&self, cluster_id: &str) -> Answer<BTreeSet<String>> {
        ssm::names(&self.ssm, cluster_id).await
    }

    async fn volumes(&self, cluster_id: &str) -> Answer<Vec<Folded<Volume>>> {
        volumes::of_cluster(&self.ec2, cluster_id).await
    }

    async fn volumes_of(&self, cluster_id: &str, agent_uids: &[String]) -> Answer<Vec<Folded<Volume>>> {
        volumes::of_agents(&self.ec2, cluster_id, agent_uids).await
    }

    async fn snapshots(&self, cluster_id: &str, agent_uid: &str) -> Answer<Vec<Snapshot>> {
        volumes::snapshots(&self.ec2, cluster_id, agent_uid).await
    }

    async fn groups(&self, cluster_id: &str) -> Answer<Vec<Group>> {
        groups::of_cluster(&self.ec2, cluster_id).await
    }

    async fn group(&self, cluster_id: &str, vpc_id: &str, name: &str) -> Answer<Option<Group>> {
        groups::by_name(&self.ec2, cluster_id, vpc_id, name).await
    }

    async fn console(&self, instance_id: &str) -> Answer<String> {
        instances::console(&self.ec2, instance_id).await
    }

    async fn create_parameter(&self, name: &str, value: &str) -> Answer<()> {
        ssm::create(&self.ssm, name, value).await
    }

    async fn put_bundle(&self, bundle: &Bundle<'_>) -> Answer<()> {
        ssm::put_bundle(&self.ssm, bundle).await
    }

    async fn delete_parameter(&self, name: &str) -> Answer<()> {
        ssm::delete(&self.ssm, name).await
    }

    async fn create_role(&self, role: &Role<'_>) -> Answer<()> {
        iam::create_role(&self.iam, role).await
    }

    async fn put_role_policy(&self, role: &str, document: &str) -> Answer<()> {
        iam::put_role_policy(&self.iam, role, document).await
    }

    async fn create_profile(&self, profile: &str, tags: &BTreeMap<String, String>) -> Answer<()> {
        iam::create_profile(&self.iam, profile, tags).await
    }

    async fn add_role(&self, profile: &str, role: &str) -> Answer<()> {
        iam::add_role(&self.iam, profile, role).await
    }

    async fn remove_role(&self, profile: &str, role: &str) -> Answer<()> {
        iam::remove_role(&self.iam, profile, role).await
    }

    async fn delete_profile(&self, profile: &str) -> Answer<()> {
        iam::delete_profile(&self.iam, profile).await
    }

    async fn delete_role_policy(&self, role: &str) -> Answer<()> {
        iam::delete_role_policy(&self.iam, role).await
    }

    async fn delete_role(&self, role: &str) -> Answer<()> {
        iam::delete_role(&self.iam, role).await
    }

    async fn create_group(&self, name: &str, vpc_id: &str, tags: &BTreeMap<String, String>) -> Answer<String> {
        groups::create(&self.ec2, name, vpc_id, tags).await
    }

    async fn authorize(&self, group_id: &str, rules: &[Rule]) -> Answer<()> {
        groups::authorize(&self.ec2, group_id, rules).await
    }

    async fn revoke(&self, group_id: &str, rules: &[Rule]) -> Answer<()> {
        groups::revoke(&self.ec2, group_id, rules).await
    }

    async fn set_groups(&self, instance_id: &str, group_ids: &[String]) -> Answer<()> {
        instances::set_groups(&self.ec2, instance_id, group_ids).await
    }

    async fn set_type(&self, instance_id: &str, instance_type: &str) -> Answer<()> {
        instances::set_type(&self.ec2, instance_id, instance_type).await
    }

    async fn delete_group(&self, group_id: &str) -> Answer<()> {
        groups::delete(&self.ec2, group_id).await
    }

    async fn launch(&self, launch: Launch<'_>) -> Answer<Instance> {
        instances::launch(&self.ec2, launch).await
    }

    async fn try_launch(&self, launch: Launch<'_>) -> Answer<()> {
        instances::try_launch(&self.ec2, launch).await
    }

    async fn start(&self, instance_id: &str) -> Answer<()> {
        instances::start(&self.ec2, instance_id).await
    }

    async fn stop(&self, instance_id: &str) -> Answer<()> {
        instances::stop(&self.ec2, instance_id).await
    }

    async fn reboot(&self, instance_id: &str) -> Answer<()> {
        instances::reboot(&self.ec2, instance_id).await
    }

    async fn set_profile(&self, instance_id: &str, profile: &str) -> Answer<()> {
        profiles::set(&self.ec2, instance_id, profile).await
    }

    async fn grow(&self, volume_id: &str, size_gib: i64) -> Answer<()> {
        volumes::grow(&self.ec2, volume_id, size_gib).await
    }

    async fn terminate(&self, instance_id: &str) -> Answer<()> {
        instances::terminate(&self.ec2, instance_id).await
    }

    async fn tag(&self, id: &str, tags: &BTreeMap<String, String>) -> Answer<()> {
        instances::tag(&self.ec2, id, tags).await
    }

    async fn attach(&self, volume_id: &str, instance_id: &str) -> Answer<()> {
        volumes::attach(&self.ec2, volume_id, instance_id).await
    }

    async fn create_snapshot(&self, volume_id: &str, tags: &BTreeMap<String, String>) -> Answer<String> {
        volumes::snapshot(&self.ec2, volume_id, tags).await
    }

    async fn identities(&self, prefix: &str) -> Answer<BTreeSet<String>> {
        iam::named(&self.iam, prefix).await
    }

    async fn delete_volume(&self, volume_id: &str) -> Answer<()> {
        volumes::delete(&self.ec2, volume_id).await
    }
}

#[cfg(test)]
mod tests;
