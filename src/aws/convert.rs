//! From the SDK's types to ours: pure, total; what is missing stays empty and is never guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aws_sdk_ec2::types;
use aws_smithy_types::DateTime;
use jiff::Timestamp;
use koi_core::names;
use koi_core::observed::{
    Instance, InstanceState, Rule, SecurityGroup, Snapshot, SnapshotState, Source, Subnet, Volume, VolumeState,
};

use crate::cloud::Group;

/// EC2's tags as a map; a tag without a key is dropped.
pub(super) fn tags(tags: &[types::Tag]) -> BTreeMap<String, String> {
    tags.iter()
        .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())))
        .collect()
}

/// An instance; `None` without an id.
pub(super) fn instance(found: &types::Instance) -> Option<Instance> {
    let tags = tags(found.tags());
    Some(Instance {
        id: found.instance_id()?.to_owned(),
        state: instance_state(found.state().and_then(types::InstanceState::name)),
        state_reason: state_reason(found),
        launch: tags
            .get(names::TAG_LAUNCH)
            .and_then(|value| names::parse_launch_tag(value)),
        private_ip: text(found.private_ip_address()),
        public_ip: text(found.public_ip_address()),
        zone: found
            .placement()
            .and_then(types::Placement::availability_zone)
            .unwrap_or_default()
            .to_owned(),
        subnet_id: text(found.subnet_id()),
        image_id: found.image_id().unwrap_or_default().to_owned(),
        instance_type: found
            .instance_type()
            .map(|kind| kind.as_str().to_owned())
            .unwrap_or_default(),
        launch_time: found.launch_time().and_then(timestamp),
        profile_arn: found.iam_instance_profile().and_then(|profile| text(profile.arn())),
        security_group_ids: found
            .security_groups()
            .iter()
            .filter_map(|group| text(group.group_id()))
            .collect(),
        block_devices: found.block_device_mappings().iter().filter_map(block_device).collect(),
        client_token: text(found.client_token()),
        impaired: None,
        events: Vec::new(),
        tags,
    })
}

fn block_device(mapping: &types::InstanceBlockDeviceMapping) -> Option<(String, String)> {
    Some((
        mapping.device_name()?.to_owned(),
        mapping.ebs()?.volume_id()?.to_owned(),
    ))
}

fn instance_state(name: Option<&types::InstanceStateName>) -> InstanceState {
    match name {
        Some(types::InstanceStateName::Pending) => InstanceState::Pending,
        Some(types::InstanceStateName::Running) => InstanceState::Running,
        Some(types::InstanceStateName::Stopping) => InstanceState::Stopping,
        Some(types::InstanceStateName::Stopped) => InstanceState::Stopped,
        Some(types::InstanceStateName::ShuttingDown) => InstanceState::ShuttingDown,
        Some(types::InstanceStateName::Terminated) => InstanceState::Terminated,
        _ => InstanceState::Unrecognized,
    }
}

/// The structured reason where EC2 gives one, else the older text of the transition.
fn state_reason(found: &types::Instance) -> Option<String> {
    found
        .state_reason()
        .and_then(|reason| match (text(reason.code()), text(reason.message())) {
            (Some(code), Some(message)) if message.starts_with(&code) => Some(message),
            (Some(code), Some(message)) => Some(format!("{code}: {message}")),
            (code, message) => code.or(message),
        })
        .or_else(|| text(found.state_transition_reason()))
}

/// A volume; `None` without an id.
pub(super) fn volume(found: &types::Volume) -> Option<Volume> {
    Some(Volume {
        id: found.volume_id()?.to_owned(),
        state: match found.state() {
            Some(types::VolumeState::Creating) => VolumeState::Creating,
            Some(types::VolumeState::Available) => VolumeState::Available,
            Some(types::VolumeState::InUse) => VolumeState::InUse,
            Some(types::VolumeState::Deleting) => VolumeState::Deleting,
            Some(types::VolumeState::Deleted) => VolumeState::Deleted,
            _ => VolumeState::Unrecognized,
        },
        size_gib: found.size().unwrap_or_default().into(),
        zone: found.availability_zone().unwrap_or_default().to_owned(),
        growing_to: None,
        attached_to: found.attachments().iter().find_map(holder),
        tags: tags(found.tags()),
    })
}

/// The instance behind an attachment that still holds the volume.
fn holder(attachment: &types::VolumeAttachment) -> Option<String> {
    match attachment.state() {
        Some(types::VolumeAttachmentState::Detached) => None,
        _ => text(attachment.instance_id()),
    }
}

/// A snapshot; `None` without an id.
pub(super) fn snapshot(found: &types::Snapshot) -> Option<Snapshot> {
    Some(Snapshot {
        id: found.snapshot_id()?.to_owned(),
        volume_id: found.volume_id().unwrap_or_default().to_owned(),
        state: match found.state() {
            Some(types::SnapshotState::Pending) => SnapshotState::Pending,
            Some(types::SnapshotState::Completed) => SnapshotState::Completed,
            _ => SnapshotState::Unrecognized,
        },
        last: tags(found.tags()).contains_key(names::TAG_LAST_SNAPSHOT),
        started_at: found.start_time.as_ref().and_then(timestamp),
    })
}

/// A security group; `None` without an id.
pub(super) fn group(found: &types::SecurityGroup, cluster_id: &str) -> Option<Group> {
    let tags = tags(found.tags());
    Some(Group {
        name: found.group_name().unwrap_or_default().to_owned(),
        vpc_id: found.vpc_id().unwrap_or_default().to_owned(),
        facts: SecurityGroup {
            id: found.group_id()?.to_owned(),
            ours: tags
                .get(names::TAG_CLUSTER)
                .is_some_and(|cluster| cluster == cluster_id),
            unclaimed: !tags.contains_key(names::TAG_CLUSTER),
            ingress: found.ip_permissions().iter().flat_map(rules).collect(),
        },
        tags,
    })
}

/// One permission of EC2 is many rules of ours: one for each source.
fn rules(permission: &types::IpPermission) -> BTreeSet<Rule> {
    let v4 = permission
        .ip_ranges()
        .iter()
        .filter_map(|range| range.cidr_ip())
        .map(|cidr| Source::Cidr(network(cidr)));
    let v6 = permission
        .ipv6_ranges()
        .iter()
        .filter_map(|range| range.cidr_ipv6())
        .map(|cidr| Source::Cidr(network(cidr)));
    let groups = permission
        .user_id_group_pairs()
        .iter()
        .filter_map(|pair| text(pair.group_id()))
        .map(Source::Group);
    let lists = permission
        .prefix_list_ids()
        .iter()
        .filter_map(|list| text(list.prefix_list_id()))
        .map(Source::PrefixList);
    v4.chain(v6)
        .chain(groups)
        .chain(lists)
        .map(|source| Rule {
            protocol: protocol(permission.ip_protocol().unwrap_or("-1")),
            from_port: permission.from_port().unwrap_or(-1),
            to_port: permission.to_port().unwrap_or(-1),
            source,
        })
        .collect()
}

/// EC2 takes protocols by name and by number; we compare names.
fn protocol(told: &str) -> String {
    match told {
        "6" => "tcp".into(),
        "17" => "udp".into(),
        "1" => "icmp".into(),
        "58" => "icmpv6".into(),
        other => other.to_lowercase(),
    }
}

/// The canonical text of a network: host bits cleared, IPv6 in its short form. Anything else stays as it is.
pub(super) fn network(cidr: &str) -> String {
    let parsed = cidr
        .split_once('/')
        .and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok()?)));
    match parsed {
        Some((IpAddr::V4(address), length @ 0..=32)) => {
            let bits = address.to_bits() & u32::MAX.checked_shl(32 - length).unwrap_or(0);
            format!("{}/{length}", std::net::Ipv4Addr::from_bits(bits))
        }
        Some((IpAddr::V6(address), length @ 0..=128)) => {
            let bits = address.to_bits() & u128::MAX.checked_shl(128 - length).unwrap_or(0);
            format!("{}/{length}", std::net::Ipv6Addr::from_bits(bits))
        }
        _ => cidr.to_owned(),
    }
}

/// A subnet with the blocks of its VPC; `None` without its ids.
pub(super) fn subnet(found: &types::Subnet, vpc: Option<&types::Vpc>) -> Option<Subnet> {
    let blocks = vpc.map(vpc_networks).unwrap_or_default();
    Some(Subnet {
        id: found.subnet_id()?.to_owned(),
        vpc_id: found.vpc_id()?.to_owned(),
        zone: found.availability_zone().unwrap_or_default().to_owned(),
        vpc_cidrs: blocks,
    })
}

/// All blocks of a VPC, the secondary and the IPv6 ones included, sorted.
fn vpc_networks(vpc: &types::Vpc) -> Vec<String> {
    let main = vpc.cidr_block().into_iter();
    let more = vpc
        .cidr_block_association_set()
        .iter()
        .filter_map(|block| block.cidr_block());
    let six = vpc
        .ipv6_cidr_block_association_set()
        .iter()
        .filter_map(|block| block.ipv6_cidr_block());
    let networks: BTreeSet<String> = main
        .chain(more)
        .chain(six)
        .filter(|cidr| !cidr.is_empty())
        .map(network)
        .collect();
    networks.into_iter().collect()
}

fn text(value: Option<&str>) -> Option<String> {
    value.filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

/// A moment.
pub(super) fn timestamp(time: &DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

#[cfg(test)]
mod tests;
