//! EBS volumes and snapshots.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{self, ResourceType};
use koi_core::fleet::Folded;
use koi_core::names;
use koi_core::observed::{Snapshot, Volume};

use super::error::{ask, met};
use super::instances::{FILTER_VALUES, PAGE};
use super::{convert, pages, request};
use crate::cloud::{Answer, CloudError};

/// Every volume with the installation's claim.
pub(super) async fn of_cluster(ec2: &Client, cluster_id: &str) -> Answer<Vec<Folded<Volume>>> {
    filtered(ec2, vec![request::claimed_by(cluster_id)]).await
}

/// Every volume with the claims of these agents.
pub(super) async fn of_agents(ec2: &Client, cluster_id: &str, agent_uids: &[String]) -> Answer<Vec<Folded<Volume>>> {
    let mut found = Vec::new();
    for some in agent_uids.chunks(FILTER_VALUES) {
        found.extend(filtered(ec2, request::claimed_by_agents(cluster_id, some)).await?);
    }
    Ok(found)
}

/// Those of these volumes that there are, whatever tags they carry.
pub(super) async fn by_id(ec2: &Client, ids: &[String]) -> Answer<Vec<Folded<Volume>>> {
    let mut found = Vec::new();
    for some in ids.chunks(FILTER_VALUES) {
        found.extend(filtered(ec2, vec![request::filter("volume-id", some.iter().cloned())]).await?);
    }
    Ok(found)
}

async fn filtered(ec2: &Client, filters: Vec<types::Filter>) -> Answer<Vec<Folded<Volume>>> {
    pages::all(|next| {
        let call = ec2.describe_volumes().set_filters(Some(filters.clone()));
        let call = call.max_results(PAGE).set_next_token(next);
        async move {
            let page = ask("DescribeVolumes", || call.send()).await?;
            let shown = page.volumes.unwrap_or_default().into_iter();
            let volumes = shown.filter_map(|found| convert::volume(&found).as_ref().map(Folded::of));
            Ok((volumes.collect(), page.next_token))
        }
    })
    .await
}

/// Every snapshot of our own account with this agent's claim.
pub(super) async fn snapshots(ec2: &Client, cluster_id: &str, agent_uid: &str) -> Answer<Vec<Snapshot>> {
    let filters = request::claimed_by_agents(cluster_id, &[agent_uid.to_owned()]);
    pages::all(|next| {
        let call = ec2
            .describe_snapshots()
            .owner_ids("self")
            .set_filters(Some(filters.clone()));
        let call = call.max_results(PAGE).set_next_token(next);
        async move {
            let page = ask("DescribeSnapshots", || call.send()).await?;
            Ok((
                page.snapshots().iter().filter_map(convert::snapshot).collect(),
                page.next_token,
            ))
        }
    })
    .await
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
