use super::*;
use aws_sdk_ec2::types::builders::InstanceBuilder;

fn tag(key: &str, value: &str) -> types::Tag {
    types::Tag::builder().key(key).value(value).build()
}

fn running() -> InstanceBuilder {
    let state = types::InstanceState::builder()
        .name(types::InstanceStateName::Running)
        .build();
    let ebs = types::EbsInstanceBlockDevice::builder().volume_id("vol-1").build();
    types::Instance::builder()
        .instance_id("i-1")
        .state(state)
        .private_ip_address("172.31.0.4")
        .public_ip_address("")
        .placement(types::Placement::builder().availability_zone("us-east-1a").build())
        .subnet_id("subnet-1")
        .image_id("ami-1")
        .instance_type(types::InstanceType::T3Small)
        .launch_time(DateTime::from_secs(1_800_000_000))
        .iam_instance_profile(
            types::IamInstanceProfile::builder()
                .arn("arn:aws:iam::1:instance-profile/p")
                .build(),
        )
        .security_groups(types::GroupIdentifier::builder().group_id("sg-1").build())
        .block_device_mappings(
            types::InstanceBlockDeviceMapping::builder()
                .device_name("/dev/sdf")
                .ebs(ebs)
                .build(),
        )
        .tags(tag(names::TAG_LAUNCH, "2-1"))
}

fn wanted() -> Instance {
    Instance {
        id: "i-1".into(),
        state: InstanceState::Running,
        state_reason: None,
        launch: Some((2, 1)),
        private_ip: Some("172.31.0.4".into()),
        public_ip: None,
        zone: "us-east-1a".into(),
        subnet_id: Some("subnet-1".into()),
        image_id: "ami-1".into(),
        instance_type: "t3.small".into(),
        launch_time: Some(Timestamp::from_second(1_800_000_000).unwrap()),
        profile_arn: Some("arn:aws:iam::1:instance-profile/p".into()),
        security_group_ids: vec!["sg-1".into()],
        block_devices: [("/dev/sdf".into(), "vol-1".into())].into(),
        client_token: None,
        impaired: None,
        events: Vec::new(),
        tags: [(names::TAG_LAUNCH.into(), "2-1".into())].into(),
    }
}

#[test]
fn a_whole_instance() {
    assert_eq!(instance(&running().build()), Some(wanted()));
    assert_eq!(instance(&types::Instance::builder().build()), None, "no id");
}

#[test]
fn reasons_of_a_state_come_with_their_code_once() {
    let reason = |code: &str, message: &str| {
        let reason = types::StateReason::builder().code(code).message(message).build();
        instance(&running().state_reason(reason).build())
            .unwrap()
            .state_reason
            .unwrap()
    };
    assert_eq!(
        reason("Client.UserInitiatedShutdown", "User initiated"),
        "Client.UserInitiatedShutdown: User initiated"
    );
    assert_eq!(reason("Server.X", "Server.X: why"), "Server.X: why");
}

#[test]
fn a_state_of_the_future_concludes_nothing() {
    let state = types::InstanceState::builder().name("resting".into()).build();
    assert_eq!(
        instance(&running().state(state).build()).unwrap().state,
        InstanceState::Unrecognized
    );
    let found = types::Volume::builder()
        .volume_id("vol-1")
        .state("melting".into())
        .build();
    assert_eq!(volume(&found).unwrap().state, VolumeState::Unrecognized);
}

#[test]
fn a_volume_is_held_until_it_is_detached() {
    let held = |state: types::VolumeAttachmentState| {
        let attachment = types::VolumeAttachment::builder()
            .instance_id("i-1")
            .state(state)
            .build();
        volume(
            &types::Volume::builder()
                .volume_id("vol-1")
                .size(8)
                .attachments(attachment)
                .build(),
        )
        .unwrap()
        .attached_to
    };
    assert_eq!(held(types::VolumeAttachmentState::Detaching).as_deref(), Some("i-1"));
    assert_eq!(held(types::VolumeAttachmentState::Detached), None);
}

#[test]
fn rules_are_canonical_whatever_form_they_come_in() {
    let permission = types::IpPermission::builder()
        .ip_protocol("6")
        .from_port(443)
        .to_port(443)
        .ip_ranges(
            types::IpRange::builder()
                .cidr_ip("10.1.2.3/16")
                .description("by hand")
                .build(),
        )
        .ipv6_ranges(types::Ipv6Range::builder().cidr_ipv6("2001:DB8:0:0::1/32").build())
        .user_id_group_pairs(types::UserIdGroupPair::builder().group_id("sg-2").build())
        .prefix_list_ids(types::PrefixListId::builder().prefix_list_id("pl-1").build())
        .build();
    let all = types::IpPermission::builder()
        .ip_protocol("-1")
        .ip_ranges(types::IpRange::builder().cidr_ip("0.0.0.0/0").build());
    let found = types::SecurityGroup::builder()
        .group_id("sg-1")
        .ip_permissions(permission)
        .ip_permissions(all.build());
    let wanted: BTreeSet<Rule> = [
        Rule::https(Source::Cidr("10.1.0.0/16".into())),
        Rule::https(Source::Cidr("2001:db8::/32".into())),
        Rule::https(Source::Group("sg-2".into())),
        Rule::https(Source::PrefixList("pl-1".into())),
        Rule {
            protocol: "-1".into(),
            from_port: -1,
            to_port: -1,
            source: Source::Cidr("0.0.0.0/0".into()),
        },
    ]
    .into();
    assert_eq!(
        group(&found.build(), "c").unwrap().facts,
        SecurityGroup {
            id: "sg-1".into(),
            ours: false,
            unclaimed: true,
            ingress: wanted
        }
    );
}

#[test]
fn a_group_is_ours_by_the_exact_claim() {
    let ours = |cluster: &str| {
        let found = types::SecurityGroup::builder()
            .group_id("sg-1")
            .tags(tag(names::TAG_CLUSTER, cluster))
            .build();
        group(&found, "c1").unwrap().facts.ours
    };
    assert_eq!((ours("c1"), ours("c10")), (true, false));
}

#[test]
fn a_subnet_has_all_blocks_of_its_vpc() {
    let more = types::VpcCidrBlockAssociation::builder()
        .cidr_block("10.9.0.0/16")
        .build();
    let six = types::VpcIpv6CidrBlockAssociation::builder()
        .ipv6_cidr_block("2001:db8::/56")
        .build();
    let vpc = types::Vpc::builder()
        .cidr_block("172.31.0.0/16")
        .cidr_block_association_set(more)
        .ipv6_cidr_block_association_set(six);
    let found = types::Subnet::builder()
        .subnet_id("subnet-1")
        .vpc_id("vpc-1")
        .availability_zone("z")
        .build();
    let wanted = Subnet {
        id: "subnet-1".into(),
        vpc_id: "vpc-1".into(),
        zone: "z".into(),
        vpc_cidrs: vec!["10.9.0.0/16".into(), "172.31.0.0/16".into(), "2001:db8::/56".into()],
    };
    assert_eq!(subnet(&found, Some(&vpc.build())), Some(wanted));
}

proptest::proptest! {
    #[test]
    fn a_canonical_network_stays_as_it_is(bits in proptest::num::u32::ANY, length in 0_u32..=32) {
        let once = network(&format!("{}/{length}", std::net::Ipv4Addr::from_bits(bits)));
        proptest::prop_assert_eq!(network(&once), once);
    }
}
