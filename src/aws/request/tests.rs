use koi_core::api::LaunchDataVolume;

use super::*;

fn record() -> LaunchStatus {
    LaunchStatus {
        epoch: 3,
        attempt: 2,
        client_token: "koi-token-3-2".into(),
        image: "ami-1".into(),
        instance_type: "t3.small".into(),
        subnet_id: "subnet-1".into(),
        security_group_ids: vec!["sg-1".into()],
        profile: "p".into(),
        public_address: None,
        data_volume: Some(LaunchDataVolume {
            size_gib: 20,
            kms_key_id: Some("alias/k".into()),
            snapshot_id: Some("snap-1".into()),
        }),
        kept_volume_id: None,
        tags: [
            (names::TAG_CLUSTER.into(), "c".into()),
            (names::TAG_LAUNCH.into(), "3-2".into()),
        ]
        .into(),
        ..LaunchStatus::default()
    }
}

fn request(record: &LaunchStatus) -> RunInstancesInput {
    run_instances(Launch {
        record,
        user_data: b"#!/bin/sh\n",
    })
    .unwrap()
}

#[test]
fn the_same_record_makes_the_same_request() {
    assert_eq!(request(&record()), request(&record()));
    assert_eq!(request(&record()).client_token(), Some("koi-token-3-2"));
}

#[test]
fn the_machine_is_locked_down() {
    let request = request(&record());
    let metadata = request.metadata_options().unwrap();
    assert_eq!(metadata.http_tokens(), Some(&types::HttpTokensState::Required));
    assert_eq!(metadata.http_put_response_hop_limit(), Some(1));
    assert_eq!(
        request.instance_initiated_shutdown_behavior(),
        Some(&types::ShutdownBehavior::Stop)
    );
    assert_eq!((request.min_count(), request.max_count()), (Some(1), Some(1)));
    assert_eq!(request.user_data(), Some(STANDARD.encode("#!/bin/sh\n").as_str()));
    assert!(request.key_name().is_none());
}

#[test]
fn both_volumes_are_encrypted_and_only_the_data_outlives_the_instance() {
    let told: Vec<_> = request(&record())
        .block_device_mappings()
        .iter()
        .map(|mapping| {
            (
                mapping.device_name().unwrap().to_owned(),
                mapping.ebs().unwrap().clone(),
            )
        })
        .collect();
    let ebs = types::EbsBlockDevice::builder()
        .volume_type(types::VolumeType::Gp3)
        .encrypted(true);
    let data = ebs
        .clone()
        .delete_on_termination(false)
        .volume_size(20)
        .kms_key_id("alias/k")
        .snapshot_id("snap-1")
        .build();
    let root = ebs.delete_on_termination(true).build();
    assert_eq!(
        told,
        [
            (names::ROOT_DEVICE.to_owned(), root),
            (names::DATA_DEVICE.to_owned(), data)
        ]
    );
    let kept = LaunchStatus {
        data_volume: None,
        kept_volume_id: Some("vol-1".into()),
        ..record()
    };
    assert_eq!(
        request(&kept).block_device_mappings().len(),
        1,
        "a kept volume is attached later"
    );
}

#[test]
fn the_claim_is_on_everything_and_the_launch_on_the_instance_alone() {
    let request = request(&record());
    let tagged = |kind: types::ResourceType| {
        let found = request
            .tag_specifications()
            .iter()
            .find(|spec| spec.resource_type() == Some(&kind))
            .unwrap();
        super::super::convert::tags(found.tags())
    };
    let shared: BTreeMap<String, String> = [(names::TAG_CLUSTER.into(), "c".into())].into();
    assert_eq!(tagged(types::ResourceType::Instance), record().tags);
    assert_eq!(tagged(types::ResourceType::Volume), shared);
    assert_eq!(tagged(types::ResourceType::NetworkInterface), shared);
}

#[test]
fn a_network_interface_is_described_only_where_a_public_address_is_asked_for() {
    let plain = request(&record());
    assert_eq!(
        (plain.subnet_id(), plain.network_interfaces().len()),
        (Some("subnet-1"), 0)
    );
    let told = request(&LaunchStatus {
        public_address: Some(false),
        ..record()
    });
    let interface = &told.network_interfaces()[0];
    assert_eq!((told.subnet_id(), told.security_group_ids()), (None, &[][..]));
    assert_eq!(
        (interface.subnet_id(), interface.associate_public_ip_address()),
        (Some("subnet-1"), Some(false))
    );
    assert_eq!(interface.groups(), ["sg-1"]);
}

#[test]
fn rules_survive_the_way_there_and_back() {
    let rules = vec![
        Rule::https(Source::Cidr("10.0.0.0/8".into())),
        Rule::https(Source::Cidr("2001:db8::/32".into())),
        Rule::https(Source::Group("sg-2".into())),
        Rule {
            protocol: "-1".into(),
            from_port: -1,
            to_port: -1,
            source: Source::PrefixList("pl-1".into()),
        },
    ];
    let group = types::SecurityGroup::builder()
        .group_id("sg-1")
        .set_ip_permissions(Some(permissions(&rules)))
        .build();
    let back = super::super::convert::group(&group, "c").unwrap().facts.ingress;
    assert_eq!(back, rules.into_iter().collect());
}

#[test]
fn a_default_subnet_may_be_asked_for_by_zone() {
    let shown = |choice| {
        let filters = subnet_filters(choice).into_iter();
        let shown = filters.map(|filter| format!("{}={}", filter.name().unwrap(), filter.values().join(",")));
        shown.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(SubnetChoice::Id("subnet-1")), "subnet-id=subnet-1");
    assert_eq!(shown(SubnetChoice::Default), "default-for-az=true");
    assert_eq!(
        shown(SubnetChoice::DefaultIn("us-east-1b")),
        "default-for-az=true availability-zone=us-east-1b"
    );
}
