//! SSM parameters: public ones, the owner record, and the bundles.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::{ParameterStringFilter, ParameterType, Tag};
use koi_core::names::parameter_folder;

use super::error::{ask, met};
use super::pages;
use crate::cloud::{Answer, Bundle, CloudError};

/// SSM's "it is not there".
const NOT_THERE: &[&str] = &["ParameterNotFound"];

/// A String parameter.
pub(super) async fn parameter(ssm: &Client, name: &str) -> Answer<Option<String>> {
    match ask("GetParameter", || ssm.get_parameter().name(name).send()).await {
        Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
        Err(error) if NOT_THERE.contains(&error.code.as_str()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// SSM's largest page of descriptions.
const PAGE: i32 = 50;

/// The names of all parameters of the installation. Descriptions, not values: five times as many fit into a page, and no secret travels.
pub(super) async fn names(ssm: &Client, cluster_id: &str) -> Answer<BTreeSet<String>> {
    const OPERATION: &str = "DescribeParameters";
    let below = ParameterStringFilter::builder()
        .key("Path")
        .option("Recursive")
        .values(parameter_folder(cluster_id))
        .build()
        .map_err(|error| CloudError::unintelligible(OPERATION, format!("the filter cannot be sent: {error}")))?;
    let found = pages::all(|next| {
        let call = ssm.describe_parameters().parameter_filters(below.clone());
        let call = call.max_results(PAGE).set_next_token(next);
        async move {
            let page = ask(OPERATION, || call.send()).await?;
            let names = page.parameters().iter().filter_map(|parameter| parameter.name.clone());
            Ok((names.collect(), page.next_token))
        }
    });
    Ok(found.await?.into_iter().collect())
}

/// Writes a String parameter that must not exist.
pub(super) async fn create(ssm: &Client, name: &str, value: &str) -> Answer<()> {
    let call = ssm
        .put_parameter()
        .name(name)
        .value(value)
        .r#type(ParameterType::String)
        .overwrite(false);
    ask("PutParameter", || call.send()).await.map(drop)
}

/// Writes a bundle.
pub(super) async fn put_bundle(ssm: &Client, bundle: &Bundle<'_>) -> Answer<()> {
    let call = ssm
        .put_parameter()
        .name(bundle.name)
        .value(bundle.text)
        .r#type(ParameterType::SecureString)
        .overwrite(bundle.overwrite);
    let call = if bundle.overwrite {
        call
    } else {
        call.set_tags(Some(tags(bundle.tags)?))
    };
    ask("PutParameter", || call.send()).await.map(drop)
}

/// Deletes.
pub(super) async fn delete(ssm: &Client, name: &str) -> Answer<()> {
    met(
        ask("DeleteParameter", || ssm.delete_parameter().name(name).send())
            .await
            .map(drop),
        NOT_THERE,
    )
}

fn tags(wanted: &BTreeMap<String, String>) -> Answer<Vec<Tag>> {
    wanted
        .iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect::<Result<_, _>>()
        .map_err(|error| CloudError::unintelligible("PutParameter", format!("the tags cannot be sent: {error}")))
}
