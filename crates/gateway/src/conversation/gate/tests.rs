use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn command(text: &str) -> Kind {
    Kind::of(super::super::command::route(text, &["/new".to_owned()]))
}

/// A gate with these texts, all of them kept, and what may be done at once.
fn kept(texts: &[&str]) -> (Gate, Vec<Let>) {
    let mut gate = Gate::default();
    for text in texts {
        let number = gate.enter(text, command(text));
        gate.keep(number);
    }
    let now = all(&mut gate);
    (gate, now)
}

fn all(gate: &mut Gate) -> Vec<Let> {
    std::iter::from_fn(|| gate.next().map(|(_, step)| step)).collect()
}

fn goes_in(id: &str) -> Let {
    Let::In(id.to_owned())
}

fn obey(id: &str, command: Command) -> Let {
    Let::Obey(id.to_owned(), command, None)
}

#[test]
fn what_comes_after_a_command_waits_until_it_is_done() {
    let (mut gate, now) = kept(&["before", "/new", "after", "/status", "last"]);
    assert_eq!(now, [goes_in("before"), obey("/new", Command::New)]);
    gate.done(2);
    assert_eq!(all(&mut gate), [goes_in("after"), obey("/status", Command::Status)]);
    gate.done(4);
    assert_eq!(all(&mut gate), [goes_in("last")]);
    assert!(gate.is_empty());
    let (_, now) = kept(&["/new tell me a joke", "after"]);
    let words = Some("tell me a joke".to_owned());
    assert_eq!(now, [Let::Obey("/new tell me a joke".to_owned(), Command::New, words)]);
}

#[test]
fn the_disk_may_be_done_in_any_order() {
    let mut gate = Gate::default();
    let numbers = ["/model a/b", "one", "two"].map(|id| gate.enter(id, command(id)));
    gate.keep(numbers[2]);
    gate.keep(numbers[1]);
    assert_eq!(all(&mut gate), [], "the command was submitted before them");
    gate.keep(numbers[0]);
    assert_eq!(
        all(&mut gate),
        [obey("/model a/b", Command::Model(Some("a/b".to_owned())))]
    );
    gate.done(numbers[0]);
    assert_eq!(all(&mut gate), [goes_in("one"), goes_in("two")]);

    let refused = gate.enter("the disk is full", Kind::Message);
    let next = gate.enter("next", Kind::Message);
    gate.keep(next);
    assert_eq!(all(&mut gate), []);
    gate.done(refused);
    assert_eq!(all(&mut gate), [goes_in("next")]);
}

#[test]
fn a_stop_waits_for_no_command_and_takes_nothing_that_came_after_it() {
    let (mut gate, now) = kept(&["/compact", "before", "/model a/b", "also", "/stop", "after"]);
    let before = vec!["before".to_owned(), "also".to_owned()];
    assert_eq!(
        now,
        [
            obey("/compact", Command::Compact),
            Let::Stop("/stop".to_owned(), before)
        ]
    );
    gate.done(1);
    let model = Command::Model(Some("a/b".to_owned()));
    assert_eq!(
        all(&mut gate),
        [obey("/model a/b", model)],
        "a command is obeyed all the same"
    );
    gate.done(3);
    assert_eq!(all(&mut gate), [goes_in("after")]);
}

#[test]
fn an_abort_from_outside_ends_what_waits_and_what_is_on_its_way() {
    let mut gate = Gate::default();
    let numbers = ["/compact", "kept", "coming", "/status"].map(|id| gate.enter(id, command(id)));
    gate.keep(numbers[0]);
    gate.keep(numbers[1]);
    assert_eq!(all(&mut gate).len(), 1);
    assert_eq!(gate.stop(Some("nobody"), "rpc"), [""; 0]);
    assert_eq!(gate.stop(Some("kept"), "rpc"), ["kept"]);
    assert_eq!(gate.stop(None, "rpc"), ["coming"]);
    assert_eq!(all(&mut gate), [Let::Out("kept".to_owned(), "rpc")]);
    gate.keep(numbers[3]);
    gate.keep(numbers[2]);
    assert_eq!(all(&mut gate), [Let::Out("coming".to_owned(), "rpc")]);
    gate.done(numbers[0]);
    assert_eq!(
        all(&mut gate),
        [obey("/status", Command::Status)],
        "what asks how things are is answered"
    );
}

#[test]
fn what_comes_after_a_change_waits_until_it_is_made() {
    let mut gate = Gate::default();
    let mut enter = |id: &str, kind: Kind| {
        let number = gate.enter(id, kind);
        gate.keep(number);
        number
    };
    enter("before", Kind::Message);
    let change = enter("", Kind::Change);
    enter("after", Kind::Message);
    let status = enter("/status", command("/status"));
    let late = enter("", Kind::Change);
    assert_eq!(all(&mut gate), [goes_in("before"), Let::Change]);
    assert_eq!(gate.changes(), [change], "the other one is behind a command");
    gate.done(change);
    assert_eq!(all(&mut gate), [goes_in("after"), obey("/status", Command::Status)]);
    assert_eq!(gate.stop(None, "rpc"), [""; 0], "a change is no message");
    gate.done(status);
    assert_eq!(all(&mut gate), [Let::Change]);
    gate.done(late);
    assert!(gate.is_empty());
}

/// What happens in a schedule.
#[derive(Clone, Debug)]
enum Event {
    Enter(&'static str),
    /// Somebody changes the session, not by words.
    Change,
    /// The disk is done with one that is on its way; which one is drawn.
    Keep(usize),
    /// The disk refuses one.
    Refuse(usize),
    /// The command that is obeyed is done.
    Done,
    /// Somebody stops everything from outside.
    Abort,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop::sample::select(vec!["hi", "/new", "/model a/b", "/status", "/new say hi", "/stop"]).prop_map(Event::Enter),
        8 => (0_usize..8).prop_map(Event::Keep),
        1 => (0_usize..8).prop_map(Event::Refuse),
        4 => Just(Event::Done),
        1 => Just(Event::Abort),
        2 => Just(Event::Change),
    ]
}

/// A world around a gate, that knows what was submitted when.
#[derive(Default)]
struct World {
    gate: Gate,
    entered: Number,
    kinds: BTreeMap<Number, Kind>,
    coming: Vec<Number>,
    obeyed: Option<Number>,
    gone: BTreeMap<Number, Let>,
    aborted: Vec<String>,
}

impl World {
    fn happen(&mut self, event: &Event) {
        match event {
            Event::Enter(text) => {
                self.entered += 1;
                let id = self.entered.to_string();
                let number = self.gate.enter(&id, command(text));
                self.kinds.insert(number, command(text));
                self.coming.push(number);
            }
            Event::Keep(at) if !self.coming.is_empty() => {
                let number = self.coming.remove(at % self.coming.len());
                self.gate.keep(number);
            }
            Event::Refuse(at) if !self.coming.is_empty() => {
                let number = self.coming.remove(at % self.coming.len());
                self.gate.done(number);
                self.kinds.remove(&number);
            }
            Event::Done => {
                if let Some(number) = self.obeyed.take() {
                    self.gate.done(number);
                }
            }
            Event::Change => {
                self.entered += 1;
                let number = self.gate.enter("", Kind::Change);
                self.kinds.insert(number, Kind::Change);
                self.gate.keep(number);
            }
            Event::Abort => self.aborted.extend(self.gate.stop(None, "rpc")),
            Event::Keep(_) | Event::Refuse(_) => {}
        }
        while let Some((number, step)) = self.gate.next() {
            self.look(number, step);
        }
    }

    fn look(&mut self, number: Number, step: Let) {
        let earlier = || self.kinds.range(..number);
        match &step {
            Let::In(_) | Let::Obey(..) | Let::Change => {
                assert_eq!(self.obeyed, None, "{step:?} while a command is obeyed");
                for (before, _) in earlier() {
                    assert!(self.gone.contains_key(before), "{step:?} overtakes {before}");
                }
            }
            Let::Stop(_, before) => {
                for id in before {
                    let stopped: Number = id.parse().unwrap();
                    assert!(stopped < number && self.kinds[&stopped] == Kind::Message, "{step:?}");
                    assert!(self.gone.insert(stopped, Let::Out(id.clone(), "stop")).is_none());
                }
                for (before, kind) in earlier() {
                    assert!(!self.coming.contains(before), "{step:?} before {before} is known");
                    let waits = *kind == Kind::Message && !self.gone.contains_key(before);
                    assert!(!waits, "{step:?} leaves {before}");
                }
            }
            Let::Out(id, _) => assert!(self.aborted.contains(id), "{step:?}"),
        }
        if matches!(step, Let::Obey(..) | Let::Change) {
            self.obeyed = Some(number);
        }
        assert!(self.gone.insert(number, step).is_none(), "{number} goes twice");
    }
}

proptest! {
    #[test]
    fn everything_goes_once_and_in_its_order(schedule in prop::collection::vec(event(), 0..120)) {
        let mut world = World::default();
        schedule.iter().for_each(|event| world.happen(event));
        while !world.coming.is_empty() {
            world.happen(&Event::Keep(0));
        }
        for _ in 0..=schedule.len() {
            world.happen(&Event::Done);
        }
        prop_assert!(world.gate.is_empty());
        prop_assert_eq!(world.gone.len(), world.kinds.len());
    }
}
