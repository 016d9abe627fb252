//! What happens to an account that its operator did not ask for.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use koi_core::names;
use koi_core::observed::{Rule, ScheduledEvent, Source};

use crate::{Account, Answer};

impl Account {
    /// Somebody stops an instance by hand.
    pub fn somebody_stops(&mut self, id: &str) {
        let _ = self.stop(id, "Client.UserInitiatedShutdown: User initiated shutdown");
    }

    /// Somebody terminates an instance by hand.
    pub fn somebody_terminates(&mut self, id: &str) {
        let _ = self.terminate(id, "Client.UserInitiatedShutdown: User initiated shutdown");
    }

    /// AWS ends an instance by itself.
    pub fn loses(&mut self, id: &str, reason: &str) {
        let _ = self.terminate(id, reason);
    }

    /// The launch was accepted and will die.
    pub fn dooms(&mut self, id: &str, reason: &str) {
        if let Ok(machine) = self.machine(id) {
            machine.doom = Some(reason.to_owned());
        }
    }

    /// A status check fails from now on: `system` or `instance`.
    pub fn impairs(&mut self, id: &str, check: &'static str) {
        let now = self.now();
        if let Ok(machine) = self.machine(id) {
            machine.impaired.entry(check).or_insert(now);
        }
    }

    /// AWS announces work on the hardware: `instance-retirement` and the like.
    pub fn announces(&mut self, id: &str, code: &str, begins_in: SignedDuration) {
        let event = ScheduledEvent {
            id: self.id("instance-event"),
            code: code.to_owned(),
            not_before: Some(self.later(begins_in)),
        };
        if let Ok(machine) = self.machine(id) {
            machine.events.push(event);
        }
    }

    /// Tags are taken off an instance.
    pub fn untags(&mut self, id: &str, keys: &[&str]) {
        self.change(id, |instance| {
            instance.tags.retain(|key, _| !keys.contains(&key.as_str()));
            instance.launch = instance
                .tags
                .get(names::TAG_LAUNCH)
                .and_then(|tag| names::parse_launch_tag(tag));
        });
    }

    /// The profile is taken off an instance.
    pub fn disassociates(&mut self, id: &str) {
        self.change(id, |instance| instance.profile_arn = None);
    }

    /// The data volume of an instance comes off.
    pub fn detaches(&mut self, id: &str) {
        let Some(volume) = self.machine_of(id).and_then(|machine| machine.data_volume.clone()) else {
            return;
        };
        let _ = self.unlogged(|account| account.detach_volume(&volume));
    }

    /// A port is opened in a group.
    pub fn opens(&mut self, group_id: &str, port: i32) {
        if let Some(group) = self.groups.get_mut(group_id) {
            group.ingress.insert(Rule {
                protocol: "tcp".into(),
                from_port: port,
                to_port: port,
                source: Source::Cidr("0.0.0.0/0".into()),
            });
        }
    }

    /// All rules of a group are taken away.
    pub fn closes(&mut self, group_id: &str) {
        if let Some(group) = self.groups.get_mut(group_id) {
            group.ingress.clear();
        }
    }

    /// A parameter is deleted.
    pub fn drops_parameter(&mut self, name: &str) {
        self.parameters.remove(name);
    }

    /// The role of a profile is taken out, and another one put in its place.
    pub fn swaps_role(&mut self, name: &str, other: Option<&str>) {
        if let Ok(profile) = self.profile(name) {
            profile.role = other.map(ToOwned::to_owned);
        }
    }

    /// A second instance like this one appears, with all of its tags, as a copy by hand makes it. Answers its id.
    pub fn copies(&mut self, id: &str, change: &BTreeMap<String, String>) -> Option<String> {
        let machine = self.machine_of(id)?.clone();
        let wanted = self
            .tokens
            .values()
            .find(|(_, of)| of == id)
            .map(|(wanted, _)| wanted.clone())?;
        let mut tags = machine.instance.tags.clone();
        tags.extend(change.iter().map(|(key, value)| (key.clone(), value.clone())));
        let copy = crate::Wanted {
            token: format!("by-hand-{}", self.next_id),
            volume_gib: None,
            snapshot_id: None,
            group_ids: machine.instance.security_group_ids.clone(),
            tags,
            ..wanted
        };
        self.unlogged(|account| account.run_instances(&copy))
            .ok()
            .map(|copy| copy.id)
    }

    /// Somebody else's call: neither in the books nor in the buckets of the operator.
    pub fn unlogged<T>(&mut self, deed: impl FnOnce(&mut Self) -> Answer<T>) -> Answer<T> {
        let (length, buckets) = (self.log.len(), self.buckets.take());
        let answer = deed(self);
        self.log.truncate(length);
        self.buckets = buckets;
        answer
    }
}
