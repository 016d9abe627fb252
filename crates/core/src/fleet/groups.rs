//! Security groups: they belong to no single agent, and are known by VPC and name.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::{Group, HOLD, Index, after};
use crate::observed::{Instance, Rule, SecurityGroup, WornGroup};

/// How long a read may lag behind our own change of a group's rules: short, for the same port may be opened twice.
const RULES_HOLD: Duration = Duration::from_secs(5);

/// A group and, for a while, our notes on it.
#[derive(Clone, Debug)]
pub(super) struct HeldGroup {
    pub(super) group: Group,
    /// What a late read would show: its rules before each of our calls; `None`: no group of this name.
    earlier: Vec<Option<BTreeSet<Rule>>>,
    noted_until: Option<Timestamp>,
}

impl HeldGroup {
    /// A read that began at `began` and shows this of the group tells the old story.
    fn is_late(&self, began: Timestamp, shown: Option<&BTreeSet<Rule>>) -> bool {
        self.noted_until.is_some_and(|until| began < until)
            && self.earlier.iter().any(|earlier| earlier.as_ref() == shown)
    }
}

impl Index {
    /// The security group of this name; outer `None` before the first sweep.
    #[must_use]
    pub fn group(&self, vpc_id: &str, name: &str) -> Option<Option<Group>> {
        let found = self
            .groups
            .get(&(vpc_id.to_owned(), name.to_owned()))
            .map(|held| held.group.clone());
        if found.is_some() || self.last_sweep.is_some() {
            Some(found)
        } else {
            None
        }
    }

    /// What this instance wears, as far as it is known, where that is not just the wished group.
    #[must_use]
    pub fn worn(&self, instance: &Instance, wished: Option<&SecurityGroup>) -> Vec<WornGroup> {
        let ids = &instance.security_group_ids;
        if wished.is_some_and(|wished| *ids == [wished.id.clone()]) {
            return Vec::new();
        }
        let groups = self.groups.values().map(|held| &held.group);
        let worn = groups.filter(|group| ids.contains(&group.facts.id)).cloned();
        let worn = worn.map(
            |Group {
                 name, vpc_id, facts, ..
             }| WornGroup { name, vpc_id, facts },
        );
        worn.collect()
    }

    /// All groups with our claim; `None` before the first sweep.
    #[must_use]
    pub fn groups(&self) -> Option<Vec<Group>> {
        self.last_sweep?;
        Some(
            self.groups
                .values()
                .map(|held| held.group.clone())
                .filter(|group| group.facts.ours)
                .collect(),
        )
    }

    /// VPC and name of groups that are in our way: they have no claim of ours, so that no sweep shows when they go.
    #[must_use]
    pub fn groups_in_the_way(&self) -> Vec<(String, String)> {
        let foreign = self.groups.iter().filter(|(_, held)| !held.group.facts.ours);
        foreign.map(|(key, _)| key.clone()).collect()
    }

    /// Takes the groups of a sweep in; answers with the ids of those that are not as they were known.
    pub(super) fn take_groups(&mut self, began: Timestamp, seen: Vec<Group>) -> BTreeSet<String> {
        let mut held = std::mem::take(&mut self.groups);
        let mut changed = BTreeSet::new();
        for group in seen {
            let key = key(&group);
            let known = held.remove(&key);
            if let Some(known) = known {
                if known.is_late(began, Some(&group.facts.ingress)) {
                    self.groups.insert(key, known);
                    continue;
                }
                if known.group != group {
                    changed.extend([known.group.facts.id, group.facts.id.clone()]);
                }
            }
            self.groups.insert(
                key,
                HeldGroup {
                    group,
                    earlier: Vec::new(),
                    noted_until: None,
                },
            );
        }
        // A foreign group never shows in a sweep for our claim: it is looked up by name again when its note is over.
        for (key, known) in held {
            if known.is_late(began, None) {
                self.groups.insert(key, known);
            } else {
                changed.insert(known.group.facts.id);
            }
        }
        changed
    }

    /// Agents with an instance that wears one of these groups.
    pub(super) fn wearers(&self, group_ids: &BTreeSet<String>) -> BTreeSet<String> {
        if group_ids.is_empty() {
            return BTreeSet::new();
        }
        let wears = |agent: &super::agent::Agent| {
            let mut worn = agent
                .instances
                .things()
                .flat_map(|instance| instance.security_group_ids);
            worn.any(|id| group_ids.contains(&id))
        };
        let wearers = self.agents.iter().filter(|(_, agent)| wears(agent));
        wearers.map(|(uid, _)| uid.clone()).collect()
    }

    /// A group was made, or found by name.
    pub fn note_group(&mut self, group: Group, now: Timestamp) {
        self.groups.insert(
            key(&group),
            HeldGroup {
                group,
                earlier: vec![None],
                noted_until: Some(after(now, HOLD)),
            },
        );
    }

    /// A group's rules were changed.
    pub fn note_rules(&mut self, group_id: &str, added: &[Rule], removed: &[Rule], now: Timestamp) {
        for held in self.groups.values_mut().filter(|held| held.group.facts.id == group_id) {
            let before = held.group.facts.ingress.clone();
            if held.noted_until.is_none_or(|until| until <= now) {
                held.earlier.clear();
            }
            held.earlier.push(Some(before));
            held.group.facts.ingress.extend(added.iter().cloned());
            held.group.facts.ingress.retain(|rule| !removed.contains(rule));
            held.noted_until = Some(after(now, RULES_HOLD));
        }
    }

    /// EC2 says that there is no such group: forgotten, unless we made it so recently that EC2 may only be late.
    pub fn note_missing_group(&mut self, group_id: &str, now: Timestamp) {
        let late = |held: &HeldGroup| held.noted_until.is_some_and(|until| now < until);
        self.groups
            .retain(|_, held| held.group.facts.id != group_id || late(held));
    }

    /// There is no group of this name any more.
    pub fn forget_group(&mut self, vpc_id: &str, name: &str) {
        self.groups.remove(&(vpc_id.to_owned(), name.to_owned()));
    }

    /// A group was deleted.
    pub fn note_deleted_group(&mut self, group_id: &str) {
        self.groups.retain(|_, held| held.group.facts.id != group_id);
    }
}

fn key(group: &Group) -> (String, String) {
    (group.vpc_id.clone(), group.name.clone())
}
