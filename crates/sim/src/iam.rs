//! Roles and instance profiles.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{Account, Answer, refuse};

/// A role.
#[derive(Clone, Debug)]
pub struct Role {
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The inline policy `koi`.
    pub policy: Option<String>,
}

/// An instance profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The role in it.
    pub role: Option<String>,
    /// EC2 knows it, with that role, from then on.
    pub known_at: Timestamp,
}

impl Account {
    /// CreateRole.
    ///
    /// # Errors
    /// What IAM refuses.
    pub fn create_role(&mut self, name: &str, tags: &BTreeMap<String, String>) -> Answer {
        self.call("CreateRole", name, |account| {
            if account.roles.contains_key(name) {
                return refuse("EntityAlreadyExists", format!("Role with name {name} already exists."));
            }
            let role = Role {
                tags: tags.clone(),
                policy: None,
            };
            account.roles.insert(name.to_owned(), role);
            Ok(())
        })
    }

    /// PutRolePolicy.
    ///
    /// # Errors
    /// What IAM refuses.
    pub fn put_role_policy(&mut self, role: &str, document: &str) -> Answer {
        self.call("PutRolePolicy", role, |account| {
            account.role(role)?.policy = Some(document.to_owned());
            Ok(())
        })
    }

    /// CreateInstanceProfile.
    ///
    /// # Errors
    /// What IAM refuses.
    pub fn create_profile(&mut self, name: &str, tags: &BTreeMap<String, String>) -> Answer {
        self.call("CreateInstanceProfile", name, |account| {
            if account.profiles.contains_key(name) {
                return refuse(
                    "EntityAlreadyExists",
                    format!("Instance Profile {name} already exists."),
                );
            }
            let profile = Profile {
                tags: tags.clone(),
                role: None,
                known_at: account.later(account.manners.iam_lag),
            };
            account.profiles.insert(name.to_owned(), profile);
            Ok(())
        })
    }

    /// AddRoleToInstanceProfile.
    ///
    /// # Errors
    /// What IAM refuses.
    pub fn add_role(&mut self, profile: &str, role: &str) -> Answer {
        self.call("AddRoleToInstanceProfile", profile, |account| {
            account.role(role)?;
            let known_at = account.later(account.manners.iam_lag);
            let found = account.profile(profile)?;
            if found.role.is_some() {
                return refuse(
                    "LimitExceeded",
                    "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1",
                );
            }
            found.role = Some(role.to_owned());
            found.known_at = known_at;
            Ok(())
        })
    }

    /// RemoveRoleFromInstanceProfile.
    ///
    /// # Errors
    /// What IAM refuses.
    pub fn remove_role(&mut self, profile: &str, role: &str) -> Answer {
        self.call("RemoveRoleFromInstanceProfile", profile, |account| {
            let found = account.profile(profile)?;
            if found.role.as_deref() != Some(role) {
                return no_such(role);
            }
            found.role = None;
            Ok(())
        })
    }

    /// DeleteInstanceProfile.
    ///
    /// # Errors
    /// What IAM refuses.
    pub fn delete_profile(&mut self, name: &str) -> Answer {
        self.call("DeleteInstanceProfile", name, |account| {
            if account.profile(name)?.role.is_some() {
                return refuse(
                    "DeleteConflict",
                    "Cannot delete entity, must remove roles from instance profile first.",
                );
            }
            account.profiles.remove(name);
            Ok(())
        })
    }

    /// DeleteRolePolicy.
    ///
    /// # Errors
    /// What IAM refuses.
    pub fn delete_role_policy(&mut self, role: &str) -> Answer {
        self.call("DeleteRolePolicy", role, |account| {
            match account.role(role)?.policy.take() {
                Some(_) => Ok(()),
                None => no_such(role),
            }
        })
    }

    /// DeleteRole.
    ///
    /// # Errors
    /// What IAM refuses.
    pub fn delete_role(&mut self, name: &str) -> Answer {
        self.call("DeleteRole", name, |account| {
            if account.role(name)?.policy.is_some() {
                return refuse("DeleteConflict", "Cannot delete entity, must delete policies first.");
            }
            if account
                .profiles
                .values()
                .any(|profile| profile.role.as_deref() == Some(name))
            {
                return refuse(
                    "DeleteConflict",
                    "Cannot delete entity, must remove roles from instance profile first.",
                );
            }
            account.roles.remove(name);
            Ok(())
        })
    }

    /// What IAM shows of a profile and the role of the same name.
    #[must_use]
    pub fn identity(&self, name: &str) -> (Option<&Profile>, Option<&Role>) {
        (self.profiles.get(name), self.roles.get(name))
    }

    /// Names of all roles and profiles.
    #[must_use]
    pub fn identities(&self) -> BTreeSet<&str> {
        self.roles
            .keys()
            .chain(self.profiles.keys())
            .map(String::as_str)
            .collect()
    }

    /// The ARN of a profile of this account.
    #[must_use]
    pub fn profile_arn(&self, name: &str) -> String {
        format!("arn:aws:iam::{}:instance-profile/{name}", self.place.account)
    }

    pub(crate) fn ec2_knows_profile(&self, name: &str) -> bool {
        let known = |profile: &Profile| profile.role.is_some() && profile.known_at <= self.now;
        self.profiles.get(name).is_some_and(known)
    }

    fn role(&mut self, name: &str) -> Answer<&mut Role> {
        self.roles.get_mut(name).map_or_else(|| no_such(name), Ok)
    }

    pub(crate) fn profile(&mut self, name: &str) -> Answer<&mut Profile> {
        self.profiles.get_mut(name).map_or_else(|| no_such(name), Ok)
    }
}

fn no_such<T>(name: &str) -> Answer<T> {
    refuse("NoSuchEntity", format!("{name} cannot be found."))
}
