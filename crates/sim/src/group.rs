//! Security groups.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use koi_core::observed::Rule;

use crate::{Account, Answer, refuse};

/// A security group.
#[derive(Clone, Debug)]
pub struct GroupRecord {
    /// Its id.
    pub id: String,
    /// Its name, one of a kind in its VPC.
    pub name: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Inbound rules.
    pub ingress: BTreeSet<Rule>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    pub(crate) visible_at: Timestamp,
}

impl Account {
    /// CreateSecurityGroup.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn create_group(&mut self, name: &str, vpc_id: &str, tags: &BTreeMap<String, String>) -> Answer<String> {
        self.call("CreateSecurityGroup", name, |account| {
            if account
                .groups
                .values()
                .any(|group| group.name == name && group.vpc_id == vpc_id)
            {
                return refuse(
                    "InvalidGroup.Duplicate",
                    format!("The security group '{name}' already exists"),
                );
            }
            let id = account.id("sg");
            let record = GroupRecord {
                id: id.clone(),
                name: name.to_owned(),
                vpc_id: vpc_id.to_owned(),
                ingress: BTreeSet::new(),
                tags: tags.clone(),
                visible_at: account.later(account.manners.read_lag),
            };
            account.groups.insert(id.clone(), record);
            Ok(id)
        })
    }

    /// AuthorizeSecurityGroupIngress: one rule that is there fails all of them.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn authorize(&mut self, group_id: &str, rules: &[Rule]) -> Answer {
        self.call("AuthorizeSecurityGroupIngress", group_id, |account| {
            let group = account.seen_group(group_id)?;
            if let Some(rule) = rules.iter().find(|rule| group.ingress.contains(rule)) {
                return refuse(
                    "InvalidPermission.Duplicate",
                    format!("the specified rule {rule:?} already exists"),
                );
            }
            group.ingress.extend(rules.iter().cloned());
            Ok(())
        })
    }

    /// RevokeSecurityGroupIngress: a rule that is not there fails all of them.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn revoke(&mut self, group_id: &str, rules: &[Rule]) -> Answer {
        self.call("RevokeSecurityGroupIngress", group_id, |account| {
            let group = account.seen_group(group_id)?;
            if rules.iter().any(|rule| !group.ingress.contains(rule)) {
                return refuse(
                    "InvalidPermission.NotFound",
                    "The specified rule does not exist in this security group.",
                );
            }
            group.ingress.retain(|rule| !rules.contains(rule));
            Ok(())
        })
    }

    /// DeleteSecurityGroup.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn delete_group(&mut self, group_id: &str) -> Answer {
        self.call("DeleteSecurityGroup", group_id, |account| {
            account.seen_group(group_id)?;
            let worn = |ids: &[String]| ids.iter().any(|id| id == group_id);
            if account
                .machines
                .values()
                .any(|machine| worn(&machine.instance.security_group_ids))
            {
                return refuse(
                    "DependencyViolation",
                    format!("resource {group_id} has a dependent object"),
                );
            }
            account.groups.remove(group_id);
            Ok(())
        })
    }

    fn seen_group(&mut self, group_id: &str) -> Answer<&mut GroupRecord> {
        let now = self.now;
        match self.groups.get_mut(group_id).filter(|group| group.visible_at <= now) {
            Some(group) => Ok(group),
            None => refuse(
                "InvalidGroup.NotFound",
                format!("The security group '{group_id}' does not exist"),
            ),
        }
    }
}
