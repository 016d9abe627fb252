//! IAM: instance profiles, roles and their inline policy.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_iam::Client;
use aws_sdk_iam::types::{InstanceProfile, Role, Tag};
use koi_core::names::{ROLE_POLICY, TAG_CLUSTER};

use super::error::{ask, met};
use super::pages;
use crate::cloud::{self, Answer, CloudError, ProfileFacts, Tagged};

/// The most that one page may hold.
const PAGE: i32 = 1000;
/// IAM's "it is not there".
const NOT_THERE: &[&str] = &["NoSuchEntity", "NoSuchEntityException"];

/// The profile, its role and that role's inline policy. A profile that exists and holds a role says most of it in one call.
pub(super) async fn profile(iam: &Client, name: &str) -> Answer<ProfileFacts> {
    let answer = ask("GetInstanceProfile", || {
        iam.get_instance_profile().instance_profile_name(name).send()
    })
    .await;
    let found = there(answer)?.and_then(|answer| answer.instance_profile);
    let held = found.as_ref().and_then(|profile| profile.roles().first());
    let tagged = |profile: &InstanceProfile| profile.tags().iter().any(|tag| tag.key() == TAG_CLUSTER);
    // What nobody tagged is used as it is, with whatever role.
    let other = held.filter(|role| role.role_name() != name && found.as_ref().is_some_and(tagged));
    let role = match held.filter(|_| other.is_none()) {
        Some(role) => Some(role.clone()),
        None => role_named(iam, name).await?,
    };
    Ok(ProfileFacts {
        profile: found.as_ref().map(|profile| Tagged {
            arn: profile.arn().to_owned(),
            tags: tags(profile.tags()),
        }),
        role_in_profile: held.is_some() && other.is_none(),
        other_role: other.map(|role| role.role_name().to_owned()),
        policy: match &role {
            Some(role) => policy(iam, role.role_name()).await?,
            None => None,
        },
        role: role.map(|role| Tagged {
            arn: role.arn().to_owned(),
            tags: tags(role.tags()),
        }),
    })
}

async fn role_named(iam: &Client, name: &str) -> Answer<Option<Role>> {
    let answer = ask("GetRole", || iam.get_role().role_name(name).send()).await;
    Ok(there(answer)?.and_then(|answer| answer.role))
}

/// The inline policy's text. IAM answers with it URL-encoded.
async fn policy(iam: &Client, role: &str) -> Answer<Option<String>> {
    let answer = ask("GetRolePolicy", || {
        iam.get_role_policy().role_name(role).policy_name(ROLE_POLICY).send()
    })
    .await;
    Ok(there(answer)?.map(|answer| percent_decoded(answer.policy_document())))
}

fn there<T>(answer: Answer<T>) -> Answer<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if NOT_THERE.contains(&error.code.as_str()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates the role, tagged in the same call.
pub(super) async fn create_role(iam: &Client, role: &cloud::Role<'_>) -> Answer<()> {
    let call = iam
        .create_role()
        .role_name(role.name)
        .description("Koi agent: what its instance may do, kept by koi-operator")
        .assume_role_policy_document(role.trust)
        .set_permissions_boundary(role.boundary_arn.map(ToOwned::to_owned))
        .set_tags(Some(iam_tags("CreateRole", role.tags)?));
    ask("CreateRole", || call.send()).await.map(drop)
}

/// Writes the inline policy.
pub(super) async fn put_role_policy(iam: &Client, role: &str, document: &str) -> Answer<()> {
    let call = iam
        .put_role_policy()
        .role_name(role)
        .policy_name(ROLE_POLICY)
        .policy_document(document);
    ask("PutRolePolicy", || call.send()).await.map(drop)
}

/// Creates the profile, tagged in the same call.
pub(super) async fn create_profile(iam: &Client, profile: &str, wanted: &BTreeMap<String, String>) -> Answer<()> {
    let wanted = iam_tags("CreateInstanceProfile", wanted)?;
    let call = iam
        .create_instance_profile()
        .instance_profile_name(profile)
        .set_tags(Some(wanted));
    ask("CreateInstanceProfile", || call.send()).await.map(drop)
}

/// Puts the role into the profile. `LimitExceeded` says that a role is in it already: the next read shows which.
pub(super) async fn add_role(iam: &Client, profile: &str, role: &str) -> Answer<()> {
    let call = iam
        .add_role_to_instance_profile()
        .instance_profile_name(profile)
        .role_name(role);
    ask("AddRoleToInstanceProfile", || call.send()).await.map(drop)
}

/// Takes a role out of a profile.
pub(super) async fn remove_role(iam: &Client, profile: &str, role: &str) -> Answer<()> {
    let call = iam
        .remove_role_from_instance_profile()
        .instance_profile_name(profile)
        .role_name(role);
    met(
        ask("RemoveRoleFromInstanceProfile", || call.send()).await.map(drop),
        NOT_THERE,
    )
}

/// Deletes the profile.
pub(super) async fn delete_profile(iam: &Client, profile: &str) -> Answer<()> {
    let call = iam.delete_instance_profile().instance_profile_name(profile);
    met(ask("DeleteInstanceProfile", || call.send()).await.map(drop), NOT_THERE)
}

/// Deletes the inline policy.
pub(super) async fn delete_role_policy(iam: &Client, role: &str) -> Answer<()> {
    let call = iam.delete_role_policy().role_name(role).policy_name(ROLE_POLICY);
    met(ask("DeleteRolePolicy", || call.send()).await.map(drop), NOT_THERE)
}

/// Deletes the role.
pub(super) async fn delete_role(iam: &Client, role: &str) -> Answer<()> {
    met(
        ask("DeleteRole", || iam.delete_role().role_name(role).send())
            .await
            .map(drop),
        NOT_THERE,
    )
}

/// The names of all roles and instance profiles that begin like this: IAM filters by path alone.
pub(super) async fn named(iam: &Client, prefix: &str) -> Answer<BTreeSet<String>> {
    let roles = pages::all(|next| {
        let call = iam.list_roles().max_items(PAGE).set_marker(next);
        async move {
            let page = ask("ListRoles", || call.send()).await?;
            let names = page.roles().iter().map(|role| role.role_name().to_owned());
            Ok((names.collect(), page.marker.filter(|_| page.is_truncated)))
        }
    });
    let profiles = pages::all(|next| {
        let call = iam.list_instance_profiles().max_items(PAGE).set_marker(next);
        async move {
            let page = ask("ListInstanceProfiles", || call.send()).await?;
            let profiles = page.instance_profiles().iter();
            let names = profiles.map(|profile| profile.instance_profile_name().to_owned());
            Ok((names.collect(), page.marker.filter(|_| page.is_truncated)))
        }
    });
    let mut found: BTreeSet<String> = roles.await?.into_iter().collect();
    found.extend(profiles.await?);
    found.retain(|name| name.starts_with(prefix));
    Ok(found)
}

fn tags(found: &[Tag]) -> BTreeMap<String, String> {
    found
        .iter()
        .map(|tag| (tag.key().to_owned(), tag.value().to_owned()))
        .collect()
}

fn iam_tags(operation: &'static str, wanted: &BTreeMap<String, String>) -> Answer<Vec<Tag>> {
    wanted
        .iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect::<Result<_, _>>()
        .map_err(|error| CloudError::unintelligible(operation, format!("the tags cannot be sent: {error}")))
}

/// Undoes URL encoding; what is not an escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| hex::decode(digits).ok());
        if let Some(decoded) = escaped {
            bytes.extend(decoded);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn policies_come_url_encoded() {
        assert_eq!(percent_decoded("%7B%22a%22%3A%20%22%C3%A9%22%7D"), r#"{"a": "é"}"#);
        assert_eq!(percent_decoded(r#"{"plain": "100%"}"#), r#"{"plain": "100%"}"#);
        assert_eq!(percent_decoded("%zz%4"), "%zz%4");
    }
}
