//! EBS volumes and snapshots.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{self, ResourceType};
use koi_core::names;
use koi_core::observed::{Snapshot, Volume};

use super::error::{ask, met};
use super::instances::{FILTER_VALUES, PAGE};
use super::{convert, request};
use crate::cloud::{Answer, CloudError};

/// Every volume with the installation's claim.
pub(super) async fn of_cluster(ec2: &Client, cluster_id: &str) -> Answer<Vec<Volume>> {
    filtered(ec2, vec![request::claimed_by(cluster_id)]).await
}

/// Every volume with the claims of these agents.
pub(super) async fn of_agents(ec2: &Client, cluster_id: &str, agent_uids: &[String]) -> Answer<Vec<Volume>> {
    let mut found = Vec::new();
    for some in agent_uids.chunks(FILTER_VALUES) {
        found.extend(filtered(ec2, request::claimed_by_agents(cluster_id, some)).await?);
    }
    Ok(found)
}

/// Those of these volumes that there are, whatever tags they carry.
pub(super) async fn by_id(ec2: &Client, ids: &[String]) -> Answer<Vec<Volume>> {
    let mut found = Vec::new();
    for some in ids.chunks(FILTER_VALUES) {
        found.extend(filtered(ec2, vec![request::filter("volume-id", some.iter().cloned())]).await?);
    }
    Ok(found)
}

async fn filtered(ec2: &Client, filters: Vec<types::Filter>) -> Answer<Vec<Volume>> {
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let call = ec2
            .describe_volumes()
            .set_filters(Some(filters.clone()))
            .max_results(PAGE)
            .set_next_token(next);
        let page = ask("DescribeVolumes", || call.send()).await?;
        found.extend(page.volumes().iter().filter_map(convert::volume));
        next = page
            .next_token()
            .filter(|token| !token.is_empty())
            .map(ToOwned::to_owned);
        if next.is_none() {
            return Ok(found);
        }
    }
}

/// Every snapshot of our own account with this agent's claim.
pub(super) async fn snapshots(ec2: &Client, cluster_id: &str, agent_uid: &str) -> Answer<Vec<Snapshot>> {
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let call = ec2
            .describe_snapshots()
            .owner_ids("self")
            .set_filters(Some(request::claimed_by_agents(cluster_id, &[agent_uid.to_owned()])))
            .max_results(PAGE)
            .set_next_token(next);
        let page = ask("DescribeSnapshots", || call.send()).await?;
        found.extend(page.snapshots().iter().filter_map(convert::snapshot));
        next = page
            .next_token()
            .filter(|token| !token.is_empty())
            .map(ToOwned::to_owned);
        if next.is_none() {
            return Ok(found);
        }
    }
}

/// Attaches the data volume.
pub(super) async fn attach(ec2: &Client, volume_id: &str, instance_id: &str) -> Answer<()> {
    let call = ec2
        .attach_volume()
        .volume_id(volume_id)
        .instance_id(instance_id)
        .device(names::DATA_DEVICE);
    ask("AttachVolume", || call.send()).await.map(drop)
}

/// Grows; the file system follows on the machine.
pub(super) async fn grow(ec2: &Client, volume_id: &str, size_gib: i64) -> Answer<()> {
    let size = i32::try_from(size_gib)
        .map_err(|_| CloudError::unintelligible("ModifyVolume", format!("{size_gib} GiB is no size of a volume")))?;
    ask("ModifyVolume", || {
        ec2.modify_volume().volume_id(volume_id).size(size).send()
    })
    .await
    .map(drop)
}

/// Begins a snapshot, tagged in the same call; answers its id.
pub(super) async fn snapshot(ec2: &Client, volume_id: &str, tags: &BTreeMap<String, String>) -> Answer<String> {
    let call = ec2
        .create_snapshot()
        .volume_id(volume_id)
        .description(format!("last state of {volume_id}"))
        .tag_specifications(request::tag_specification(ResourceType::Snapshot, tags));
    let answer = ask("CreateSnapshot", || call.send()).await?;
    answer
        .snapshot_id
        .ok_or_else(|| CloudError::unintelligible("CreateSnapshot", "the answer names no snapshot"))
}

/// Deletes.
pub(super) async fn delete(ec2: &Client, volume_id: &str) -> Answer<()> {
    let answer = ask("DeleteVolume", || ec2.delete_volume().volume_id(volume_id).send()).await;
    met(answer.map(drop), &["InvalidVolume.NotFound"])
}
