//! An instance or a volume as it is kept: what is asked of all of them, and the rest as one small text.
//!
//! Spelled out, a thing weighs two kilobytes, nearly all of it in maps with room to spare and words that each have a place of their own, and
//! there are three of them for each agent, again and again with each sweep. Folded, it weighs a tenth, and two of them are compared in no time.

use std::collections::BTreeMap;
use std::fmt;

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::names;
use crate::observed::{Instance, InstanceState, Volume, VolumeState};

/// What nearly all things have in common; it costs them nothing. Most likely words last: they are nearest.
const COMMON: &[u8] = b"arn:aws:iam::instance-profile/koi-\
Client.UserInitiatedShutdown: User initiated shutdown\
10.0.172.31.192.168.\x0aeu-west-1a\x0aus-west-2a\x0aus-east-1b\x0aus-east-1a\x01\x18subnet-0\x15ami-0\x09t3.medium\
\x01\x142026-11-21T10:00:00Z\x01\x14sg-0\x02\x09/dev/sda1\x15vol-0\x08/dev/sdf\x15vol-0\x01\x13i-0\
\x04Name\x0akoi/\x0cskykoi:agent\x10skykoi:agent-uid$\x0eskykoi:cluster\
\x16skykoi:deletion-policy\x06Delete\x16skykoi:deletion-policy\x06Retain\
\x16skykoi:deletion-policy\x08Snapshot\x0dskykoi:launch\x031-1";

/// What the view compares and merges: instances and volumes alike.
pub trait Thing: Clone + Default + fmt::Debug + Serialize + DeserializeOwned {
    /// Its states.
    type State: Copy + PartialEq + fmt::Debug;
    /// How ids of this kind begin.
    const PREFIX: &'static str;
    /// Its id.
    fn id(&self) -> &str;
    /// Its state.
    fn state(&self) -> Self::State;
    /// Its tags.
    fn tags(&self) -> &BTreeMap<String, String>;
    /// Whether this, recorded by an agent, is that agent's whatever its tags say. `has`: which instances are that agent's.
    fn is_surely_of(&self, agent_uid: &str, has: &dyn Fn(&str) -> bool) -> bool;
    /// It shows less than it will in a moment.
    fn is_incomplete(&self) -> bool;
}

impl Thing for Instance {
    type State = InstanceState;
    const PREFIX: &'static str = "i-";

    fn id(&self) -> &str {
        &self.id
    }

    fn state(&self) -> InstanceState {
        self.state
    }

    fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }

    fn is_surely_of(&self, agent_uid: &str, _has: &dyn Fn(&str) -> bool) -> bool {
        let token = self.client_token.as_deref();
        token.is_some_and(|token| names::is_token_of(agent_uid, token))
    }

    fn is_incomplete(&self) -> bool {
        self.state == InstanceState::Running && self.private_ip.is_none()
    }
}

impl Thing for Volume {
    type State = VolumeState;
    const PREFIX: &'static str = "vol-";

    fn id(&self) -> &str {
        &self.id
    }

    fn state(&self) -> VolumeState {
        self.state
    }

    fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }

    fn is_surely_of(&self, agent_uid: &str, has: &dyn Fn(&str) -> bool) -> bool {
        let tagged = self.tags.get(names::TAG_AGENT_UID);
        // A word in a status is not enough: without a claim it is ours as long as our instance has it.
        tagged.is_some_and(|tagged| tagged == agent_uid) || self.attached_to.as_deref().is_some_and(has)
    }

    fn is_incomplete(&self) -> bool {
        false
    }
}

/// A thing, folded. Two are equal when the things are.
#[derive(Clone)]
pub struct Folded<T: Thing> {
    id: Box<str>,
    state: T::State,
    incomplete: bool,
    orphaned: bool,
    text: Box<[u8]>,
}

/// Folds many.
#[must_use]
pub fn fold<T: Thing>(things: Vec<T>) -> Vec<Folded<T>> {
    // Each is let go as soon as it is folded.
    things.into_iter().map(|thing| Folded::of(&thing)).collect()
}

impl<T: Thing> Folded<T> {
    /// Folds a thing.
    #[must_use]
    pub fn of(thing: &T) -> Self {
        // Words, numbers, lists and maps of them can always be written.
        let text = postcard::to_allocvec(thing).unwrap_or_default();
        Self {
            id: thing.id().into(),
            state: thing.state(),
            incomplete: thing.is_incomplete(),
            orphaned: thing.tags().contains_key(names::TAG_ORPHAN),
            text: compress_prepend_size_with_dict(&text, COMMON).into(),
        }
    }

    /// The thing.
    #[must_use]
    pub fn unfold(&self) -> T {
        // What was written here can be read here.
        let text = decompress_size_prepended_with_dict(&self.text, COMMON).unwrap_or_default();
        postcard::from_bytes(&text).unwrap_or_default()
    }

    /// The same thing, changed.
    #[must_use]
    pub fn changed(&self, change: impl FnOnce(&mut T)) -> Self {
        let mut thing = self.unfold();
        change(&mut thing);
        Self::of(&thing)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> T::State {
        self.state
    }

    /// It shows less than it will in a moment.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// It is marked as not the recorded one of its agent.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.orphaned
    }
}

impl<T: Thing> PartialEq for Folded<T> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.text == other.text
    }
}

impl<T: Thing> fmt::Debug for Folded<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unfold().fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::observed::{Impairment, ScheduledEvent};

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[ -~]{0,30}", any::<String>()]
    }

    fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map(text(), text(), 0..5)
    }

    fn moment() -> impl Strategy<Value = jiff::Timestamp> {
        (0_i64..4_000_000_000, 0_i32..1_000_000_000)
            .prop_map(|(second, nanosecond)| jiff::Timestamp::new(second, nanosecond).unwrap())
    }

    prop_compose! {
        fn instance()(
            id in text(), running in any::<bool>(), launch in any::<Option<(i64, i64)>>(), told in any::<[Option<String>; 5]>(),
            zone in text(), since in proptest::option::of(moment()), groups in proptest::collection::vec(text(), 0..3),
            devices in map(), tags in map(), events in 0_usize..3,
        ) -> Instance {
            let [state_reason, private_ip, public_ip, profile_arn, client_token] = told;
            Instance {
                state: if running { InstanceState::Running } else { InstanceState::Stopping },
                impaired: since.map(|since| Impairment { system: running, instance: true, since: Some(since) }),
                events: (0..events)
                    .map(|number| ScheduledEvent { id: number.to_string(), code: zone.clone(), not_before: since })
                    .collect(),
                launch_time: since, image_id: zone.clone(), subnet_id: state_reason.clone(), instance_type: zone.clone(),
                security_group_ids: groups, block_devices: devices,
                id, state_reason, launch, private_ip, public_ip, zone, profile_arn, client_token, tags,
            }
        }
    }

    prop_compose! {
        fn volume()(
            id in text(), size_gib in any::<i64>(), growing_to in any::<Option<i64>>(), zone in text(),
            attached_to in any::<Option<String>>(), tags in map(),
        ) -> Volume {
            Volume { id, state: VolumeState::InUse, size_gib, growing_to, zone, attached_to, tags }
        }
    }

    proptest! {
        #[test]
        fn what_is_folded_comes_back_whole(instance in instance(), volume in volume()) {
            prop_assert_eq!(Folded::of(&instance).unfold(), instance);
            prop_assert_eq!(Folded::of(&volume).unfold(), volume);
        }

        #[test]
        fn two_are_equal_when_the_things_are(one in instance(), other in instance()) {
            prop_assert_eq!(Folded::of(&one), Folded::of(&one.clone()));
            prop_assert_eq!(Folded::of(&one) == Folded::of(&other), one == other);
        }
    }

    #[test]
    fn what_is_asked_of_all_is_known_without_unfolding() {
        let mut thing = Instance {
            id: "i-1".into(),
            state: InstanceState::Running,
            ..Instance::default()
        };
        let folded = Folded::of(&thing);
        assert_eq!((folded.id(), folded.state()), ("i-1", InstanceState::Running));
        assert!(folded.is_incomplete() && !folded.is_orphaned());
        thing.private_ip = Some("10.0.0.1".into());
        thing.tags.insert(names::TAG_ORPHAN.into(), "true".into());
        let folded = folded.changed(|instance| instance.clone_from(&thing));
        assert_eq!(folded.unfold(), thing);
        assert!(!folded.is_incomplete() && folded.is_orphaned());
        assert!(!Folded::of(&Volume::default()).is_incomplete());
    }
}
