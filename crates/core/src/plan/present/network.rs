//! The security group of the rule set: its rules, and who wears it.

use std::collections::{BTreeMap, BTreeSet};

use super::Round;
use super::herd::Herd;
use crate::api::Reason;
use crate::desired::DesiredAgent;
use crate::names;
use crate::observed::{InstanceState, Known, Rule, SecurityGroup, Subnet};
use crate::plan::{AT_ONCE, Halt, SHORTLY, Step, unknown};
use crate::render::network;

impl<'a> Round<'a> {
    /// The group of the rule set, with exactly its rules.
    pub(super) fn network(&mut self, herd: &Herd<'_>) -> Result<(&'a Subnet, &'a str), Halt> {
        let subnet = match &self.observed.subnet {
            Known::Present(subnet) => subnet,
            Known::Unknown => return Err(unknown(self.observed, "The subnet")),
            Known::Absent => return Err(no_subnet(self.agent)),
        };
        let rules = network::rules(&self.agent.ingress, subnet);
        // A hash each: nobody needs them while the group is as it should be.
        let rule_set = || network::rule_set(&rules);
        let name = || names::security_group(&self.agent.claim.cluster_id, &rule_set());
        let group = match &self.observed.security_group {
            Known::Present(group) => group,
            Known::Unknown => return Err(unknown(self.observed, "The security group")),
            Known::Absent => {
                let mut tags = names::shared_tags(&self.agent.claim.cluster_id, &self.agent.tags);
                let name = name();
                tags.insert(names::TAG_RULE_SET.into(), rule_set());
                tags.insert("Name".into(), name.clone());
                self.steps.push(Step::CreateSecurityGroup {
                    name: name.clone(),
                    vpc_id: subnet.vpc_id.clone(),
                    tags,
                });
                return Err(Halt::converging(
                    Reason::Launching,
                    format!("Security group {name} is being made."),
                    AT_ONCE,
                ));
            }
        };
        if !group.ours && group.unclaimed && self.observed.recorded.security_group_id.as_ref() == Some(&group.id) {
            let mut tags = names::shared_tags(&self.agent.claim.cluster_id, &self.agent.tags);
            tags.insert(names::TAG_RULE_SET.into(), rule_set());
            self.restore(&group.id, &tags, &BTreeMap::new());
            self.mend_and_wear(herd, group, &rules);
            return Ok((subnet, &group.id));
        }
        if !group.ours {
            let message = format!(
                "A security group {:?} exists in {} and does not carry our claim; it is not touched. Delete or rename it.",
                name(),
                subnet.vpc_id
            );
            // Nobody rings when it goes: each sweep looks for it, for all who wait.
            return Err(Halt {
                check_again: SHORTLY * 30,
                ..Halt::blocked(Reason::NameConflict, message)
            });
        }
        self.mend_and_wear(herd, group, &rules);
        Ok((subnet, &group.id))
    }

    /// Rules first, then who wears the group: behind a group without them a gateway answers nobody, however long EC2 refuses them.
    fn mend_and_wear(&mut self, herd: &Herd<'_>, group: &SecurityGroup, wanted: &BTreeSet<Rule>) {
        self.mend_rules(group, wanted);
        if wanted.is_subset(&group.ingress) {
            self.wear(herd, group);
        }
    }

    fn mend_rules(&mut self, group: &SecurityGroup, wanted: &BTreeSet<Rule>) {
        let missing: Vec<_> = wanted.difference(&group.ingress).cloned().collect();
        let foreign: Vec<_> = group.ingress.difference(wanted).cloned().collect();
        if !missing.is_empty() {
            self.steps.push(Step::AuthorizeIngress {
                group_id: group.id.clone(),
                rules: missing,
            });
        }
        if !foreign.is_empty() {
            self.steps.push(Step::RevokeIngress {
                group_id: group.id.clone(),
                rules: foreign,
            });
        }
    }

    /// A live instance has the group of the present rule set and no other.
    fn wear(&mut self, herd: &Herd<'_>, group: &SecurityGroup) {
        let settled = |state| matches!(state, InstanceState::Running | InstanceState::Stopped);
        let Some(instance) = herd.current.filter(|instance| settled(instance.state)) else {
            return;
        };
        if instance.security_group_ids != [group.id.clone()] {
            self.steps.push(Step::SetSecurityGroups {
                instance_id: instance.id.clone(),
                group_ids: vec![group.id.clone()],
            });
        }
    }
}

pub(super) fn no_subnet(agent: &DesiredAgent) -> Halt {
    let message = if agent.subnet_ids.is_empty() {
        "There is no default subnet in this account and region. Name subnets in network.subnetIds of the plan, or in spec.instance.subnetId.".to_owned()
    } else {
        format!(
            "None of the subnets {} exists in this account and region: name one that does in spec.instance.subnetId, or in the plan.",
            agent.subnet_ids.join(", ")
        )
    };
    Halt::blocked(Reason::SubnetNotFound, message)
}
