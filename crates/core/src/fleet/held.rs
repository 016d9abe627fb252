//! What is held of one thing: how reads last showed it, and for a while our own note on it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::names;
use crate::observed::{Instance, InstanceState, Unseen, Volume, VolumeState};

/// Absence is counted up to here: more proves nothing more, and would wake the agent with every sweep for ever.
const READS_ENOUGH: u32 = 4;

/// A thing and, for a while, our note on it.
#[derive(Clone, Debug)]
pub(super) struct Held<T: Thing> {
    /// Without its maps.
    pub(super) thing: T,
    /// Those as text: a map keeps room for eleven entries, and each of its words has a place of its own.
    maps: Box<str>,
    pub(super) note: Option<Note<T::State>>,
    /// What it looked like before we put something of it right, and until when a read that shows it so is late.
    mended: Option<Box<(T, Timestamp)>>,
}

/// What a late read would show, and until when reads may be late.
#[derive(Clone, Debug)]
pub(super) struct Note<S> {
    pub(super) before: Option<S>,
    pub(super) until: Timestamp,
}

/// What this view compares and merges: instances and volumes alike.
pub(super) trait Thing: Clone + PartialEq {
    type State: Copy + PartialEq + std::fmt::Debug;
    /// Whether this, recorded by an agent, is that agent's whatever its tags say.
    fn is_surely_of(&self, agent_uid: &str, recorded: &[String]) -> bool;
    /// How ids of this kind begin.
    const PREFIX: &'static str;
    fn id(&self) -> &str;
    fn state(&self) -> Self::State;
    fn tags(&self) -> &BTreeMap<String, String>;
    /// Its maps, the tags first.
    fn maps(&mut self) -> Vec<&mut BTreeMap<String, String>>;
}

impl Thing for Instance {
    type State = InstanceState;
    fn is_surely_of(&self, agent_uid: &str, _recorded: &[String]) -> bool {
        let token = self.client_token.as_deref();
        token.is_some_and(|token| names::is_token_of(agent_uid, token))
    }
    fn maps(&mut self) -> Vec<&mut BTreeMap<String, String>> {
        vec![&mut self.tags, &mut self.block_devices]
    }
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
}

impl Thing for Volume {
    fn maps(&mut self) -> Vec<&mut BTreeMap<String, String>> {
        vec![&mut self.tags]
    }
    type State = VolumeState;
    fn is_surely_of(&self, agent_uid: &str, recorded: &[String]) -> bool {
        let tagged = self.tags.get(names::TAG_AGENT_UID);
        tagged.is_none_or(|tagged| tagged == agent_uid)
            || self
                .attached_to
                .as_ref()
                .is_some_and(|holder| recorded.contains(holder))
    }
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
}

/// The things of one kind that one agent has, in the order of their ids. Nearly always there is one, so that it is a list: a map would keep
/// room for eleven.
#[derive(Clone, Debug)]
pub(super) struct Shelf<T: Thing>(Vec<Held<T>>);

impl<T: Thing> Default for Shelf<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Thing> Shelf<T> {
    fn place(&self, id: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|held| held.thing.id().cmp(id))
    }

    pub(super) fn get(&self, id: &str) -> Option<&Held<T>> {
        self.place(id).ok().and_then(|place| self.0.get(place))
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Held<T>> {
        self.place(id).ok().and_then(|place| self.0.get_mut(place))
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.place(id).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &Held<T>> {
        self.0.iter()
    }

    /// The things without their maps.
    pub(super) fn bare(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|held| &held.thing)
    }

    /// The things.
    pub(super) fn things(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(Held::whole)
    }

    /// Whether the same is known of the same things.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        let look = |held: &Held<T>, other: &Held<T>| held.thing == other.thing && held.maps == other.maps;
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(held, other)| look(held, other))
    }

    /// Adds a thing, unless it is there.
    pub(super) fn add(&mut self, thing: T, note: Option<Note<T::State>>) {
        if let Err(place) = self.place(thing.id()) {
            self.0.reserve_exact(1);
            self.0.insert(
                place,
                Held {
                    note,
                    ..Held::of(thing)
                },
            );
        }
    }

    /// Takes a whole read of one agent's things of one kind in.
    pub(super) fn take(
        &mut self,
        unseen: &mut BTreeMap<String, Unseen>,
        seen: Vec<T>,
        began: Timestamp,
        now: Timestamp,
    ) {
        let shown: BTreeSet<String> = seen.iter().map(|thing| thing.id().to_owned()).collect();
        for thing in seen {
            unseen.remove(thing.id());
            match self.get_mut(thing.id()) {
                Some(held) => held.read(thing, now),
                None => self.add(thing, None),
            }
        }
        for (_, unseen) in unseen.iter_mut().filter(|(id, _)| id.starts_with(T::PREFIX)) {
            if unseen.reads == 0 {
                unseen.since = began;
            }
            unseen.reads = (unseen.reads + 1).min(READS_ENOUGH);
        }
        let gone = self
            .0
            .extract_if(.., |held| !shown.contains(held.thing.id()) && held.may_vanish(now));
        for held in gone {
            let absent = Unseen { since: began, reads: 1 };
            unseen.entry(held.thing.id().to_owned()).or_insert(absent);
        }
    }
}

impl Held<Instance> {
    /// It will change by itself soon.
    pub(super) fn moves(&self) -> bool {
        let state = self.thing.state;
        let nameless = state == InstanceState::Running && self.thing.private_ip.is_none();
        nameless
            || matches!(
                state,
                InstanceState::Pending | InstanceState::Stopping | InstanceState::ShuttingDown
            )
    }
}

impl<T: Thing> Held<T> {
    fn of(mut thing: T) -> Self {
        let maps: Vec<_> = thing.maps().into_iter().map(std::mem::take).collect();
        // Maps of words can be written.
        let maps = serde_json::to_string(&maps).unwrap_or_default();
        Self {
            thing,
            maps: maps.into_boxed_str(),
            note: None,
            mended: None,
        }
    }

    /// The thing.
    pub(super) fn whole(&self) -> T {
        let mut thing = self.thing.clone();
        let maps: Vec<BTreeMap<String, String>> = serde_json::from_str(&self.maps).unwrap_or_default();
        for (place, map) in thing.maps().into_iter().zip(maps) {
            *place = map;
        }
        thing
    }

    /// Whether it has a tag of this name.
    pub(super) fn has_tag(&self, name: &str) -> bool {
        self.maps.contains(name) && self.whole().tags().contains_key(name)
    }

    /// The thing becomes another, and what we noted of it stays.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut T)) {
        let mut thing = self.whole();
        change(&mut thing);
        let fresh = Self::of(thing);
        (self.thing, self.maps) = (fresh.thing, fresh.maps);
    }

    /// A read shows the thing: news, or late?
    fn read(&mut self, read: T, now: Timestamp) {
        let late = self
            .note
            .as_ref()
            .is_some_and(|note| now < note.until && note.before == Some(read.state()));
        let unmended = self
            .mended
            .as_ref()
            .is_some_and(|mended| now < mended.1 && mended.0 == read);
        if !late && !unmended {
            *self = Self::of(read);
        }
    }

    /// We put something of it right.
    pub(super) fn mend(&mut self, until: Timestamp, change: impl FnOnce(&mut T)) {
        let before = self.mended.take().map_or_else(|| self.whole(), |mended| mended.0);
        self.change(change);
        self.mended = Some(Box::new((before, until)));
    }

    /// A read does not show the thing: does that count? Only a fresh launch may be missing.
    pub(super) fn may_vanish(&self, now: Timestamp) -> bool {
        !self
            .note
            .as_ref()
            .is_some_and(|note| note.before.is_none() && now < note.until)
    }
}
