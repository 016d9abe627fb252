//! EC2 instances: the paged sweep, targeted reads, and the power switches.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::run_instances::{RunInstancesInput, RunInstancesOutput};
use aws_sdk_ec2::types;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use koi_core::fleet::Folded;
use koi_core::observed::Instance;

use super::error::{ask, met};
use super::{convert, pages, request};
use crate::cloud::{Answer, CloudError, Launch};

/// EC2's largest page.
pub(super) const PAGE: i32 = 1000;
/// EC2's largest number of values in one filter.
pub(super) const FILTER_VALUES: usize = 200;
const DESCRIBE: &str = "DescribeInstances";
const RUN: &str = "RunInstances";
/// How much of the console is worth keeping: the last steps of bootstrap.
const CONSOLE_MAX: usize = 4096;

/// Every instance with the installation's claim.
pub(super) async fn of_cluster(ec2: &Client, cluster_id: &str) -> Answer<Vec<Folded<Instance>>> {
    filtered(ec2, vec![request::claimed_by(cluster_id)]).await
}

/// Every instance with the claims of these agents. By tag, not by id: one id that EC2 does not show (yet) would fail the call for all.
pub(super) async fn of_agents(ec2: &Client, cluster_id: &str, agent_uids: &[String]) -> Answer<Vec<Folded<Instance>>> {
    let mut found = Vec::new();
    for some in agent_uids.chunks(FILTER_VALUES) {
        found.extend(filtered(ec2, request::claimed_by_agents(cluster_id, some)).await?);
    }
    Ok(found)
}

/// Those of these instances that there are. By filter: an id that EC2 does not show would fail a call that names it.
pub(super) async fn by_id(ec2: &Client, ids: &[String]) -> Answer<Vec<Folded<Instance>>> {
    let mut found = Vec::new();
    for some in ids.chunks(FILTER_VALUES) {
        found.extend(filtered(ec2, vec![request::filter("instance-id", some.iter().cloned())]).await?);
    }
    Ok(found)
}

async fn filtered(ec2: &Client, filters: Vec<types::Filter>) -> Answer<Vec<Folded<Instance>>> {
    pages::all(|next| {
        let call = ec2.describe_instances().set_filters(Some(filters.clone()));
        let call = call.max_results(PAGE).set_next_token(next);
        async move {
            let page = ask(DESCRIBE, || call.send()).await?;
            // Each is let go as soon as it is read: a page of them weighs many times what is kept of it.
            let reservations = page.reservations.unwrap_or_default().into_iter();
            let shown = reservations.flat_map(|reservation| reservation.instances.unwrap_or_default());
            let instances = shown.filter_map(|found| convert::instance(&found).as_ref().map(Folded::of));
            Ok((instances.collect(), page.next_token))
        }
    })
    .await
}

/// The launch.
pub(super) async fn launch(ec2: &Client, launch: Launch<'_>) -> Answer<Instance> {
    let answer = run_instances(ec2, request::run_instances(launch)?).await?;
    answer
        .instances()
        .first()
        .and_then(convert::instance)
        .ok_or_else(|| CloudError::unintelligible(RUN, "the answer names no instance"))
}

/// The same as a question. Without the token, which is for the launch itself.
pub(super) async fn try_launch(ec2: &Client, launch: Launch<'_>) -> Answer<()> {
    let mut input = request::run_instances(launch)?;
    (input.dry_run, input.client_token) = (Some(true), None);
    let answer = run_instances(ec2, input).await.map(drop);
    // EC2's word for yes.
    met(answer, &["DryRunOperation"])
}

async fn run_instances(ec2: &Client, input: RunInstancesInput) -> Answer<RunInstancesOutput> {
    let call = ec2.run_instances();
    let call = call
        .set_dry_run(input.dry_run)
        .set_min_count(input.min_count)
        .set_max_count(input.max_count)
        .set_client_token(input.client_token)
        .set_image_id(input.image_id)
        .set_instance_type(input.instance_type)
        .set_subnet_id(input.subnet_id)
        .set_security_group_ids(input.security_group_ids)
        .set_network_interfaces(input.network_interfaces)
        .set_iam_instance_profile(input.iam_instance_profile)
        .set_instance_initiated_shutdown_behavior(input.instance_initiated_shutdown_behavior)
        .set_metadata_options(input.metadata_options)
        .set_user_data(input.user_data)
        .set_block_device_mappings(input.block_device_mappings)
        .set_tag_specifications(input.tag_specifications);
    ask(RUN, || call.send()).await
}

/// Starts.
pub(super) async fn start(ec2: &Client, id: &str) -> Answer<()> {
    ask("StartInstances", || ec2.start_instances().instance_ids(id).send())
        .await
        .map(drop)
}

/// Stops; the guest gets its time to shut down.
pub(super) async fn stop(ec2: &Client, id: &str) -> Answer<()> {
    ask("StopInstances", || ec2.stop_instances().instance_ids(id).send())
        .await
        .map(drop)
}

/// Reboots.
pub(super) async fn reboot(ec2: &Client, id: &str) -> Answer<()> {
    ask("RebootInstances", || ec2.reboot_instances().instance_ids(id).send())
        .await
        .map(drop)
}

/// Terminates.
pub(super) async fn terminate(ec2: &Client, id: &str) -> Answer<()> {
    let answer = ask("TerminateInstances", || {
        ec2.terminate_instances().instance_ids(id).send()
    })
    .await;
    met(answer.map(drop), &["InvalidInstanceID.NotFound"])
}

/// Puts tags on a thing of EC2.
pub(super) async fn tag(ec2: &Client, id: &str, tags: &BTreeMap<String, String>) -> Answer<()> {
    let call = ec2.create_tags().resources(id).set_tags(Some(request::tags(tags)));
    ask("CreateTags", || call.send()).await.map(drop)
}

/// Gives an instance these groups and no others.
pub(super) async fn set_groups(ec2: &Client, id: &str, group_ids: &[String]) -> Answer<()> {
    let call = ec2
        .modify_instance_attribute()
        .instance_id(id)
        .set_groups(Some(group_ids.to_vec()));
    ask("ModifyInstanceAttribute", || call.send()).await.map(drop)
}

/// Gives a stopped instance another type.
pub(super) async fn set_type(ec2: &Client, id: &str, instance_type: &str) -> Answer<()> {
    let value = types::AttributeValue::builder().value(instance_type).build();
    let call = ec2.modify_instance_attribute().instance_id(id).instance_type(value);
    ask("ModifyInstanceAttribute", || call.send()).await.map(drop)
}

/// The end of the console.
pub(super) async fn console(ec2: &Client, id: &str) -> Answer<String> {
    const OPERATION: &str = "GetConsoleOutput";
    let answer = ask(OPERATION, || ec2.get_console_output().instance_id(id).send()).await?;
    let encoded = answer.output().unwrap_or_default();
    let bytes = STANDARD
        .decode(encoded.trim())
        .map_err(|error| CloudError::unintelligible(OPERATION, format!("the console is not base64: {error}")))?;
    Ok(tail(&String::from_utf8_lossy(&bytes)))
}

/// The last characters, cut at the start of a line.
fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(CONSOLE_MAX);
    let cut: String = text.chars().skip(skip).collect();
    match (skip, cut.split_once('\n')) {
        (1.., Some((_, rest))) => rest.to_owned(),
        _ => cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_console_keeps_its_end_from_the_start_of_a_line() {
        let text = format!("{}\nfirst whole line\nlast", "x".repeat(CONSOLE_MAX));
        assert_eq!(tail(&text), "first whole line\nlast");
        assert_eq!(tail("short"), "short");
    }
}
