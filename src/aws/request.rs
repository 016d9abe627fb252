//! From our words to the SDK's request types: pure; the same record always makes the same request.

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::run_instances::RunInstancesInput;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use koi_core::api::LaunchStatus;
use koi_core::names;
use koi_core::observed::{Rule, Source};

use crate::cloud::{CloudError, Launch, SubnetChoice};

/// The whole RunInstances request, made of the record and nothing else: a repeated call is byte-equal.
pub(super) fn run_instances(launch: Launch<'_>) -> Result<RunInstancesInput, CloudError> {
    let record = launch.record;
    let request = RunInstancesInput::builder()
        .min_count(1)
        .max_count(1)
        .client_token(&record.client_token)
        .image_id(&record.image)
        .instance_type(types::InstanceType::from(record.instance_type.as_str()))
        .iam_instance_profile(
            types::IamInstanceProfileSpecification::builder()
                .name(&record.profile)
                .build(),
        )
        .instance_initiated_shutdown_behavior(types::ShutdownBehavior::Stop)
        .metadata_options(metadata_options())
        .user_data(STANDARD.encode(launch.user_data))
        .set_block_device_mappings(Some(block_devices(record)))
        .set_tag_specifications(Some(tag_specifications(record)));
    placed(request, record)
        .build()
        .map_err(|error| CloudError::unintelligible("RunInstances", format!("the request cannot be built: {error}")))
}

/// Where it stands. EC2 takes subnet and groups at the top only while no network interface is described; a public address can be
/// asked for in the description alone.
fn placed(request: RunInstancesInputBuilder, record: &LaunchStatus) -> RunInstancesInputBuilder {
    let Some(public) = record.public_address else {
        return request
            .subnet_id(&record.subnet_id)
            .set_security_group_ids(Some(record.security_group_ids.clone()));
    };
    request.network_interfaces(
        types::InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .subnet_id(&record.subnet_id)
            .set_groups(Some(record.security_group_ids.clone()))
            .associate_public_ip_address(public)
            .delete_on_termination(true)
            .build(),
    )
}

/// Tokens are required, and one hop is enough: gateway and tools run on the host, not in containers.
fn metadata_options() -> types::InstanceMetadataOptionsRequest {
    types::InstanceMetadataOptionsRequest::builder()
        .http_endpoint(types::InstanceMetadataEndpointState::Enabled)
        .http_tokens(types::HttpTokensState::Required)
        .http_put_response_hop_limit(1)
        .build()
}

fn block_devices(record: &LaunchStatus) -> Vec<types::BlockDeviceMapping> {
    let root = types::EbsBlockDevice::builder()
        .volume_type(types::VolumeType::Gp3)
        .encrypted(true)
        .delete_on_termination(true);
    let mut mappings = vec![
        types::BlockDeviceMapping::builder()
            .device_name(names::ROOT_DEVICE)
            .ebs(root.build())
            .build(),
    ];
    if let Some(volume) = &record.data_volume {
        let data = types::EbsBlockDevice::builder()
            .volume_type(types::VolumeType::Gp3)
            .volume_size(volume.size_gib)
            .encrypted(true)
            .set_kms_key_id(volume.kms_key_id.clone())
            .set_snapshot_id(volume.snapshot_id.clone())
            .delete_on_termination(false);
        mappings.push(
            types::BlockDeviceMapping::builder()
                .device_name(names::DATA_DEVICE)
                .ebs(data.build())
                .build(),
        );
    }
    mappings
}

/// The claim goes on everything that the call makes, in the call. The launch tag is the instance's alone.
fn tag_specifications(record: &LaunchStatus) -> Vec<types::TagSpecification> {
    let mut shared = record.tags.clone();
    shared.remove(names::TAG_LAUNCH);
    let mut of_instance = shared.clone();
    of_instance.insert(
        names::TAG_LAUNCH.into(),
        names::launch_tag(record.epoch, record.attempt),
    );
    vec![
        tag_specification(types::ResourceType::Instance, &of_instance),
        tag_specification(types::ResourceType::Volume, &shared),
        tag_specification(types::ResourceType::NetworkInterface, &shared),
    ]
}

/// The tags of one kind of resource in a creating call.
pub(super) fn tag_specification(
    kind: types::ResourceType,
    wanted: &BTreeMap<String, String>,
) -> types::TagSpecification {
    types::TagSpecification::builder()
        .resource_type(kind)
        .set_tags(Some(tags(wanted)))
        .build()
}

/// Tags in EC2's form.
pub(super) fn tags(wanted: &BTreeMap<String, String>) -> Vec<types::Tag> {
    wanted
        .iter()
        .map(|(key, value)| types::Tag::builder().key(key).value(value).build())
        .collect()
}

/// A filter on one name.
pub(super) fn filter(name: impl Into<String>, values: impl IntoIterator<Item = String>) -> types::Filter {
    types::Filter::builder()
        .name(name)
        .set_values(Some(values.into_iter().collect()))
        .build()
}

/// The filters that find a subnet.
pub(super) fn subnet_filters(choice: SubnetChoice<'_>) -> Vec<types::Filter> {
    let default = || filter("default-for-az", ["true".to_owned()]);
    match choice {
        SubnetChoice::Id(id) => vec![filter("subnet-id", [id.to_owned()])],
        SubnetChoice::Default => vec![default()],
        SubnetChoice::DefaultIn(zone) => vec![default(), filter("availability-zone", [zone.to_owned()])],
    }
}

/// The filter for our installation's claim.
pub(super) fn claimed_by(cluster_id: &str) -> types::Filter {
    filter(format!("tag:{}", names::TAG_CLUSTER), [cluster_id.to_owned()])
}

/// The filters for the claims of some of our agents.
pub(super) fn claimed_by_agents(cluster_id: &str, agent_uids: &[String]) -> Vec<types::Filter> {
    vec![
        claimed_by(cluster_id),
        filter(format!("tag:{}", names::TAG_AGENT_UID), agent_uids.iter().cloned()),
    ]
}

/// One permission for each rule.
pub(super) fn permissions(rules: &[Rule]) -> Vec<types::IpPermission> {
    rules.iter().map(permission).collect()
}

fn permission(rule: &Rule) -> types::IpPermission {
    let base = types::IpPermission::builder().ip_protocol(&rule.protocol);
    // "All protocols" has no ports, and EC2 refuses a rule that names some.
    let base = if rule.protocol == "-1" {
        base
    } else {
        base.from_port(rule.from_port).to_port(rule.to_port)
    };
    match &rule.source {
        Source::Cidr(cidr) if cidr.contains(':') => {
            base.ipv6_ranges(types::Ipv6Range::builder().cidr_ipv6(cidr).build())
        }
        Source::Cidr(cidr) => base.ip_ranges(types::IpRange::builder().cidr_ip(cidr).build()),
        Source::Group(id) => base.user_id_group_pairs(types::UserIdGroupPair::builder().group_id(id).build()),
        Source::PrefixList(id) => base.prefix_list_ids(types::PrefixListId::builder().prefix_list_id(id).build()),
    }
    .build()
}

#[cfg(test)]
mod tests;
