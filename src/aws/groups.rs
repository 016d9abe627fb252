//! Security groups, and the subnets and VPCs that they stand in.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{self, ResourceType};
use koi_core::observed::{Rule, Subnet};

use super::error::{ask, met};
use super::instances::PAGE;
use super::{convert, pages, request};
use crate::cloud::{Answer, CloudError, Group, SubnetChoice};

/// Every group with the installation's claim.
pub(super) async fn of_cluster(ec2: &Client, cluster_id: &str) -> Answer<Vec<Group>> {
    filtered(ec2, cluster_id, vec![request::claimed_by(cluster_id)]).await
}

/// The group of this name in this VPC, whoever owns it.
pub(super) async fn by_name(ec2: &Client, cluster_id: &str, vpc_id: &str, name: &str) -> Answer<Option<Group>> {
    let filters = vec![
        request::filter("group-name", [name.to_owned()]),
        request::filter("vpc-id", [vpc_id.to_owned()]),
    ];
    Ok(filtered(ec2, cluster_id, filters).await?.into_iter().next())
}

async fn filtered(ec2: &Client, cluster_id: &str, filters: Vec<types::Filter>) -> Answer<Vec<Group>> {
    pages::all(|next| {
        let call = ec2.describe_security_groups().set_filters(Some(filters.clone()));
        let call = call.max_results(PAGE).set_next_token(next);
        async move {
            let page = ask("DescribeSecurityGroups", || call.send()).await?;
            let groups = page.security_groups().iter();
            let groups = groups.filter_map(|group| convert::group(group, cluster_id));
            Ok((groups.collect(), page.next_token))
        }
    })
    .await
}

/// Creates, tagged in the same call. A VPC's new group lets everything out; that is wanted: the agent works on the internet.
pub(super) async fn create(ec2: &Client, name: &str, vpc_id: &str, tags: &BTreeMap<String, String>) -> Answer<String> {
    let call = ec2
        .create_security_group()
        .group_name(name)
        .description("Koi agents of one rule set: 443 only, kept by koi-operator")
        .vpc_id(vpc_id)
        .tag_specifications(request::tag_specification(ResourceType::SecurityGroup, tags));
    let answer = ask("CreateSecurityGroup", || call.send()).await?;
    answer
        .group_id()
        .map(ToOwned::to_owned)
        .ok_or_else(|| CloudError::unintelligible("CreateSecurityGroup", "the answer names no group"))
}

/// Adds rules. One duplicate fails the whole batch, so that after such an answer each rule goes alone.
pub(super) async fn authorize(ec2: &Client, id: &str, rules: &[Rule]) -> Answer<()> {
    const DUPLICATE: &str = "InvalidPermission.Duplicate";
    match authorize_at_once(ec2, id, rules).await {
        Err(error) if error.is(DUPLICATE) && rules.len() > 1 => {
            for rule in rules {
                met(
                    authorize_at_once(ec2, id, std::slice::from_ref(rule)).await,
                    &[DUPLICATE],
                )?;
            }
            Ok(())
        }
        answer => met(answer, &[DUPLICATE]),
    }
}

async fn authorize_at_once(ec2: &Client, id: &str, rules: &[Rule]) -> Answer<()> {
    let call = ec2
        .authorize_security_group_ingress()
        .group_id(id)
        .set_ip_permissions(Some(request::permissions(rules)));
    ask("AuthorizeSecurityGroupIngress", || call.send()).await.map(drop)
}

/// Takes rules away.
pub(super) async fn revoke(ec2: &Client, id: &str, rules: &[Rule]) -> Answer<()> {
    let call = ec2
        .revoke_security_group_ingress()
        .group_id(id)
        .set_ip_permissions(Some(request::permissions(rules)));
    met(
        ask("RevokeSecurityGroupIngress", || call.send()).await.map(drop),
        &["InvalidPermission.NotFound"],
    )
}

/// Deletes.
pub(super) async fn delete(ec2: &Client, id: &str) -> Answer<()> {
    met(
        ask("DeleteSecurityGroup", || {
            ec2.delete_security_group().group_id(id).send()
        })
        .await
        .map(drop),
        &["InvalidGroup.NotFound"],
    )
}

/// A subnet with the blocks of its VPC. Of the default ones it is the first by zone, so that the choice is stable.
pub(super) async fn subnet(ec2: &Client, choice: SubnetChoice<'_>) -> Answer<Option<Subnet>> {
    let call = ec2
        .describe_subnets()
        .set_filters(Some(request::subnet_filters(choice)));
    let answer = ask("DescribeSubnets", || call.send()).await?;
    let Some(found) = answer.subnets().iter().min_by_key(|subnet| subnet.availability_zone()) else {
        return Ok(None);
    };
    let Some(vpc_id) = found.vpc_id() else {
        return Ok(None);
    };
    let vpcs = ask("DescribeVpcs", || {
        ec2.describe_vpcs()
            .filters(request::filter("vpc-id", [vpc_id.to_owned()]))
            .send()
    })
    .await?;
    Ok(convert::subnet(found, vpcs.vpcs().first()))
}
