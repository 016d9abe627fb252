//! The order in which what is submitted to one session takes effect. Pure: what happens comes in, what may be done now comes out.
//!
//! Whatever comes takes a place at once, before it is on disk, and goes in by the order of the places. A command, or another change of the
//! session, goes in alone: what was submitted after it waits until it is done, so that it sees the effect and is not touched by it. The word
//! that stops everything waits for no command.

use std::collections::VecDeque;

use super::command::{Command, Routed};

/// What goes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The model answers it.
    Message,
    /// Somebody changes the session, not by words.
    Change,
    /// The gateway obeys it; the model answers these words of it afterwards, where there are some.
    Command(Command, Option<String>),
    /// It stops what runs and what waits.
    Stop,
}

/// What may be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Let {
    /// This message goes into the lane.
    In(String),
    /// This message has its end, for this reason: it was stopped before it was in.
    Out(String, &'static str),
    /// This command is obeyed; [`Gate::done`] says when it is.
    Obey(String, Command, Option<String>),
    /// The change of this place is made; [`Gate::done`] says when it is.
    Change,
    /// Everything stops. These messages were before it, and not in.
    Stop(String, Vec<String>),
}

/// The number of a place.
pub(super) type Number = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is on its way to the disk.
    Coming,
    /// It is on disk.
    Kept,
    /// It is being obeyed, or made.
    Obeyed,
}

#[derive(Clone, Debug)]
struct Place {
    number: Number,
    id: String,
    kind: Kind,
    state: State,
    /// Somebody stopped it while it was on its way.
    stopped: Option<&'static str>,
}

impl Place {
    /// It is on disk, and a message that waits to go in.
    fn waits(&self) -> bool {
        self.state == State::Kept && self.kind == Kind::Message
    }
}

/// The gate of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    places: VecDeque<Place>,
    last: Number,
}

impl Kind {
    /// What a text asks for.
    pub(super) fn of(routed: Routed) -> Self {
        match routed {
            Routed::Turn => Self::Message,
            Routed::FreshTurn(rest) => Self::Command(Command::New, Some(rest)),
            Routed::Command(Command::Stop) => Self::Stop,
            Routed::Command(command) => Self::Command(command, None),
        }
    }
}

impl Gate {
    /// Nobody is here.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Somebody comes.
    pub(super) fn enter(&mut self, id: &str, kind: Kind) -> Number {
        self.last += 1;
        self.places.push_back(Place {
            number: self.last,
            id: id.to_owned(),
            kind,
            state: State::Coming,
            stopped: None,
        });
        self.last
    }

    /// It is on disk.
    pub(super) fn keep(&mut self, number: Number) {
        if let Some(place) = self.places.iter_mut().find(|place| place.number == number) {
            place.state = State::Kept;
        }
    }

    /// It does not come after all, or was obeyed.
    pub(super) fn done(&mut self, number: Number) {
        self.places.retain(|place| place.number != number);
    }

    /// Somebody stops one message, or all of them; gives those that this ends. Commands are not messages.
    pub(super) fn stop(&mut self, id: Option<&str>, reason: &'static str) -> Vec<String> {
        let mut stopped = Vec::new();
        for place in &mut self.places {
            let meant = id.is_none_or(|id| id == place.id) && place.stopped.is_none();
            if meant && place.kind == Kind::Message {
                place.stopped = Some(reason);
                stopped.push(place.id.clone());
            }
        }
        stopped
    }

    /// The changes that are being made or wait, as far as no command stands before them.
    pub(super) fn changes(&self) -> Vec<Number> {
        let before = |place: &&Place| !matches!(place.kind, Kind::Command(..));
        let near = self.places.iter().take_while(before);
        let changes = near.filter(|place| place.kind == Kind::Change);
        changes.map(|place| place.number).collect()
    }

    /// What may be done now, one thing after the other; none when everybody has to wait.
    pub(super) fn next(&mut self) -> Option<(Number, Let)> {
        let out = |place: &Place| place.waits() && place.stopped.is_some();
        if let Some(at) = self.places.iter().position(out) {
            let place = self.places.remove(at)?;
            return Some((place.number, Let::Out(place.id, place.stopped?)));
        }
        let first = self.places.front_mut()?;
        match (first.state, &first.kind) {
            (State::Coming, _) => None,
            (State::Obeyed, _) | (State::Kept, Kind::Stop) => self.next_stop(),
            (State::Kept, Kind::Command(command, words)) => {
                let obey = Let::Obey(first.id.clone(), command.clone(), words.clone());
                first.state = State::Obeyed;
                Some((first.number, obey))
            }
            (State::Kept, Kind::Change) => {
                first.state = State::Obeyed;
                Some((first.number, Let::Change))
            }
            (State::Kept, Kind::Message) => {
                let place = self.places.pop_front()?;
                Some((place.number, Let::In(place.id)))
            }
        }
    }

    /// The first one that stops everything, when what was before it is on disk.
    fn next_stop(&mut self) -> Option<(Number, Let)> {
        let mut known = self.places.iter().take_while(|place| place.state != State::Coming);
        let at = known.position(|place| place.kind == Kind::Stop)?;
        let stop = self.places.remove(at)?;
        let mut before = Vec::new();
        self.places.retain(|place| {
            let stopped = place.number < stop.number && place.waits();
            if stopped {
                before.push(place.id.clone());
            }
            !stopped
        });
        Some((stop.number, Let::Stop(stop.id, before)))
    }
}

#[cfg(test)]
mod tests;
