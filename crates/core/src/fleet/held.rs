//! What is held of one thing: how reads last showed it, and for a while our own note on it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::folded::{Folded, Thing};
use crate::observed::{Instance, InstanceState, Unseen};

/// Absence is counted up to here: more proves nothing more, and would wake the agent with every sweep for ever.
const READS_ENOUGH: u32 = 4;

/// A thing as reads last showed it and, seldom, what our own calls have to say about it.
#[derive(Clone, Debug)]
pub(super) struct Held<T: Thing> {
    pub(super) thing: Folded<T>,
    aside: Option<Box<Aside<T>>>,
}

/// Our own word on a thing, for a while.
#[derive(Clone, Debug)]
struct Aside<T: Thing> {
    note: Option<Note<T::State>>,
    /// What it looked like before we put something of it right, and until when a read that shows it so is late.
    mended: Option<(Folded<T>, Timestamp)>,
}

impl<T: Thing> Default for Aside<T> {
    fn default() -> Self {
        Self {
            note: None,
            mended: None,
        }
    }
}

/// What a late read would show, and until when reads may be late.
#[derive(Clone, Debug)]
pub(super) struct Note<S> {
    pub(super) before: Option<S>,
    pub(super) until: Timestamp,
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

    /// The things.
    pub(super) fn things(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(|held| held.thing.unfold())
    }

    /// Adds a thing, unless it is there.
    pub(super) fn add(&mut self, thing: Folded<T>, note: Option<Note<T::State>>) {
        if let Err(place) = self.place(thing.id()) {
            let aside = note.map(|note| {
                Box::new(Aside {
                    note: Some(note),
                    mended: None,
                })
            });
            self.0.reserve_exact(1);
            self.0.insert(place, Held { thing, aside });
        }
    }

    /// Takes a whole read of one agent's things of one kind in; says whether one of them came, went, or looks otherwise.
    pub(super) fn take(
        &mut self,
        unseen: &mut BTreeMap<String, Unseen>,
        seen: Vec<Folded<T>>,
        began: Timestamp,
        now: Timestamp,
    ) -> bool {
        let mut turned = self.drop_absent(unseen, &seen, began, now);
        for thing in seen {
            unseen.remove(thing.id());
            turned |= match self.get_mut(thing.id()) {
                Some(held) => held.read(thing, now),
                None => {
                    self.add(thing, None);
                    true
                }
            };
        }
        for (_, unseen) in unseen.iter_mut().filter(|(id, _)| id.starts_with(T::PREFIX)) {
            if unseen.reads == 0 {
                unseen.since = began;
            }
            unseen.reads = (unseen.reads + 1).min(READS_ENOUGH);
        }
        turned
    }

    /// What a read does not show goes, and counts as unseen from this read on.
    fn drop_absent(
        &mut self,
        unseen: &mut BTreeMap<String, Unseen>,
        seen: &[Folded<T>],
        began: Timestamp,
        now: Timestamp,
    ) -> bool {
        let shown = |held: &Held<T>| seen.iter().any(|thing| thing.id() == held.thing.id());
        let mut gone = false;
        for held in self.0.extract_if(.., |held| !shown(held) && held.may_vanish(now)) {
            // The read is counted with those of all that is unseen.
            let absent = Unseen { since: began, reads: 0 };
            unseen.entry(held.thing.id().to_owned()).or_insert(absent);
            gone = true;
        }
        gone
    }
}

impl Held<Instance> {
    /// It will change by itself soon.
    pub(super) fn moves(&self) -> bool {
        let transient = matches!(
            self.thing.state(),
            InstanceState::Pending | InstanceState::Stopping | InstanceState::ShuttingDown
        );
        transient || self.thing.is_incomplete()
    }
}

impl<T: Thing> Held<T> {
    /// Our own note on it.
    pub(super) fn note(&self) -> Option<&Note<T::State>> {
        self.aside.as_ref()?.note.as_ref()
    }

    /// Our own call was answered: it is on its way to what this makes of it.
    pub(super) fn turn(&mut self, until: Timestamp, change: impl FnOnce(&mut T)) {
        let before = Some(self.thing.state());
        self.change(change);
        self.aside.get_or_insert_default().note = Some(Note { before, until });
    }

    /// The thing becomes another, and what we noted of it stays.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut T)) {
        self.thing = self.thing.changed(change);
    }

    /// A read shows the thing: news, or late? Says whether it looks otherwise than before.
    fn read(&mut self, read: Folded<T>, now: Timestamp) -> bool {
        if self.aside.as_ref().is_some_and(|aside| aside.is_late(&read, now)) {
            return false;
        }
        self.aside = None;
        let turned = self.thing != read;
        if turned {
            self.thing = read;
        }
        turned
    }

    /// We put something of it right.
    pub(super) fn mend(&mut self, until: Timestamp, change: impl FnOnce(&mut T)) {
        let before = self.thing.clone();
        self.change(change);
        let mended = &mut self.aside.get_or_insert_default().mended;
        let before = mended.take().map_or(before, |(before, _)| before);
        *mended = Some((before, until));
    }

    /// A read does not show the thing: does that count? Only a fresh launch may be missing.
    pub(super) fn may_vanish(&self, now: Timestamp) -> bool {
        !self
            .note()
            .is_some_and(|note| note.before.is_none() && now < note.until)
    }
}

impl<T: Thing> Aside<T> {
    /// This read tells the story from before our call.
    fn is_late(&self, read: &Folded<T>, now: Timestamp) -> bool {
        let note = self.note.as_ref();
        let late = note.is_some_and(|note| now < note.until && note.before == Some(read.state()));
        let mended = self.mended.as_ref();
        late || mended.is_some_and(|(before, until)| now < *until && before == read)
    }
}
