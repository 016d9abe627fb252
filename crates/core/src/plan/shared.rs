//! What several agents share and nobody uses any more: security groups of rule sets, shared roles and profiles with our claim.

use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use crate::observed::Identity;

/// For so many sweeps nobody may have used a thing before it is removed: two agents that leave together would each see the other in the
/// first.
const UNUSED_SWEEPS: u32 = 2;
/// At least once in so many sweeps it is tried again to remove what cannot be removed, such as a group that an instance of somebody else
/// wears.
const SWEEPS_BETWEEN: u32 = 64;

/// A security group with our installation's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedGroup {
    /// `sg-...`.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A role and profile with our installation's claim and no agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedIdentity {
    /// Name of both.
    pub name: String,
    /// What is there.
    pub identity: Identity,
}

/// For how many sweeps in a row each shared thing had no user. `users` holds names and ids: of what instances have, and of what the
/// agents' wishes name.
#[must_use]
pub fn count_unused<'a>(
    before: &BTreeMap<String, u32>,
    there: impl IntoIterator<Item = &'a str>,
    users: &BTreeSet<String>,
) -> BTreeMap<String, u32> {
    let unused = there.into_iter().filter(|key| !users.contains(*key));
    unused
        .map(|key| (key.to_owned(), before.get(key).copied().unwrap_or_default() + 1))
        .collect()
}

/// Removes what had no user for two sweeps, with growing pauses where that does not help. `unused` counts groups by id and identities by
/// name.
#[must_use]
pub fn plan_shared(groups: &[SharedGroup], identities: &[SharedIdentity], unused: &BTreeMap<String, u32>) -> Vec<Step> {
    let due = |count: u32| count >= UNUSED_SWEEPS && (count.is_power_of_two() || count.is_multiple_of(SWEEPS_BETWEEN));
    let idle = |key: &str| unused.get(key).is_some_and(|count| due(*count));
    let groups = groups.iter().filter(|group| idle(&group.id));
    let mut steps: Vec<Step> = groups
        .map(|group| Step::DeleteSecurityGroup {
            group_id: group.id.clone(),
        })
        .collect();
    for shared in identities
        .iter()
        .filter(|shared| idle(&shared.name) && shared.identity.ours)
    {
        steps.extend(teardown(&shared.name, &shared.identity));
    }
    steps
}

/// The way a role and its profile go: IAM refuses any other order.
#[must_use]
pub fn teardown(name: &str, identity: &Identity) -> Vec<Step> {
    let mut steps = Vec::new();
    if identity.profile_arn.is_some() {
        let held = identity
            .role_in_profile
            .then_some(name)
            .or(identity.other_role.as_deref());
        steps.extend(held.map(|role| Step::RemoveRoleFromInstanceProfile {
            profile: name.into(),
            role: role.into(),
        }));
        steps.push(Step::DeleteInstanceProfile { profile: name.into() });
    }
    if identity.role_exists {
        steps.push(Step::DeleteRolePolicy { role: name.into() });
        steps.push(Step::DeleteRole { role: name.into() });
    }
    steps
}
