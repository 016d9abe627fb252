//! The security group of the rule set: its rules, and who wears it.

use std::collections::{BTreeMap, BTreeSet};

use super::Round;
use super::herd::Herd;
use crate::api::Reason;
use crate::desired::DesiredAgent;
use crate::names;
use crate::observed::{Instance, InstanceState, Known, Observed, Rule, SecurityGroup, Subnet, WornGroup};
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
        if !group.ours && is_ours(self.observed, group) {
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

    /// Rules first, then who wears the group: behind a group without them a gateway answers nobody, however long EC2 refuses them. Who
    /// wears it already loses nothing that was meant for it.
    fn mend_and_wear(&mut self, herd: &Herd<'_>, group: &SecurityGroup, wanted: &BTreeSet<Rule>) {
        self.mend_rules(group, wanted);
        let worn = |instance: &Instance| instance.security_group_ids.contains(&group.id);
        if wanted.is_subset(&group.ingress) || herd.current.is_some_and(worn) {
            self.wear(herd, group);
        }
    }

    /// Whatever keeps the wished group from being made, filled or worn: the groups that the instance wears instead are ours, and let nobody
    /// in but to HTTPS.
    pub(super) fn shut(&mut self, instance: &Instance) {
        let changes_groups = |step: &Step| matches!(step, Step::SetSecurityGroups { .. });
        if !self.steps.iter().any(changes_groups) {
            let steps = shut(self.observed, instance, &self.agent.claim.cluster_id);
            self.steps.extend(steps);
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

    /// A live instance has the group of the present rule set and no other. One in another VPC waits for its replacement.
    fn wear(&mut self, herd: &Herd<'_>, group: &SecurityGroup) {
        let Some(instance) = herd.current.filter(|instance| is_settled(instance)) else {
            return;
        };
        if self.observed.lives_in_another_vpc() {
            return;
        }
        if instance.security_group_ids != [group.id.clone()] {
            self.steps.push(Step::SetSecurityGroups {
                instance_id: instance.id.clone(),
                group_ids: vec![group.id.clone()],
            });
        }
    }
}

/// What takes everything off that an instance wears and lets in besides its groups of ours, the wished one aside.
pub(super) fn shut(observed: &Observed, instance: &Instance, cluster_id: &str) -> Vec<Step> {
    let wished = observed.security_group.present().map(|group| &group.id);
    let worn = observed.worn.iter();
    let ours: Vec<&WornGroup> = worn.filter(|worn| is_ours(observed, &worn.facts)).collect();
    let others = ours.iter().filter(|worn| Some(&worn.facts.id) != wished);
    let rules = others.map(|worn| (worn, network::strange_rules(cluster_id, worn)));
    let mut steps: Vec<Step> = rules
        .filter(|(_, rules)| !rules.is_empty())
        .map(|(worn, rules)| Step::RevokeIngress {
            group_id: worn.facts.id.clone(),
            rules,
        })
        .collect();
    let stays = |id: &&String| ours.iter().any(|worn| worn.facts.id == **id);
    let group_ids: Vec<String> = instance.security_group_ids.iter().filter(stays).cloned().collect();
    if is_settled(instance) && !group_ids.is_empty() && group_ids.len() < instance.security_group_ids.len() {
        steps.push(Step::SetSecurityGroups {
            instance_id: instance.id.clone(),
            group_ids,
        });
    }
    steps
}

/// By its claim; by status, where it has lost that.
fn is_ours(observed: &Observed, group: &SecurityGroup) -> bool {
    group.ours || (group.unclaimed && observed.recorded.security_group_id.as_ref() == Some(&group.id))
}

/// EC2 takes a change of its groups.
fn is_settled(instance: &Instance) -> bool {
    matches!(instance.state, InstanceState::Running | InstanceState::Stopped)
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
