//! Where rounds happen: so many at once, so many of one namespace, each in the order in which it came.
//!
//! Who has to wait is not kept as a future: with thousands in line every wake would ask all of them. The applier is told that there is
//! nothing to do, and is called again when the agent's turn has come. An agent waits once, however often it is woken meanwhile.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Guarded;

/// How many agents are worked on at once.
const AT_ONCE: usize = 64;
/// How many of them of one namespace: another one finds room, whatever those wait for.
const OF_ONE_NAMESPACE: usize = 48;

type Agent = ObjectRef<Guarded>;

/// The room and its line.
#[derive(Clone)]
pub(super) struct Room {
    inside: Arc<Mutex<Inside>>,
    calls: UnboundedSender<Agent>,
}

/// Room for one round, until it is dropped.
pub(super) struct Place {
    room: Room,
    namespace: String,
}

#[derive(Default)]
struct Inside {
    /// Places that are taken, by whoever was called and has not come yet, too.
    taken: usize,
    called: HashSet<Agent>,
    /// Who waits for a place, of all namespaces: never more of one than may be inside.
    line: VecDeque<Agent>,
    namespaces: HashMap<String, Crowd>,
    /// All who wait, here or behind others of their namespace.
    waiting: HashSet<Agent>,
}

/// Those of one namespace.
#[derive(Default)]
struct Crowd {
    /// Inside, or in line.
    ahead: usize,
    behind: VecDeque<Agent>,
}

impl Room {
    /// An empty room, and where those are named whose turn has come.
    pub(super) fn new() -> (Self, UnboundedReceiver<Agent>) {
        let (calls, called) = unbounded_channel();
        let inside = Arc::default();
        (Self { inside, calls }, called)
    }

    /// A place, if it is this agent's turn; else it is in line now, if it was not before.
    pub(super) fn enter(&self, agent: &Agent) -> Option<Place> {
        let mut inside = self.lock();
        if !inside.called.contains(agent) && inside.waiting.insert(agent.clone()) {
            inside.come(agent);
            // Whoever is in line finds the room full: nobody but the one who just came can be next.
            inside.admit();
        }
        inside.called.remove(agent).then(|| Place {
            room: self.clone(),
            namespace: namespace(agent).to_owned(),
        })
    }

    /// The agent is no more: if it was called, it does not come.
    pub(super) fn forget(&self, agent: &Agent) {
        let was_called = self.lock().called.remove(agent);
        if was_called {
            self.leave(namespace(agent));
        }
    }

    /// How many wait, and how many places are taken.
    pub(super) fn count(&self) -> (usize, usize) {
        let inside = self.lock();
        (inside.waiting.len(), inside.taken)
    }

    fn leave(&self, namespace: &str) {
        let next = {
            let mut inside = self.lock();
            inside.go(namespace);
            inside.admit()
        };
        // Nobody listens any more when the process ends.
        next.into_iter().for_each(|agent| drop(self.calls.send(agent)));
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.leave(&self.namespace);
    }
}

impl Inside {
    fn come(&mut self, agent: &Agent) {
        let crowd = self.namespaces.entry(namespace(agent).to_owned()).or_default();
        if crowd.ahead < OF_ONE_NAMESPACE {
            crowd.ahead += 1;
            self.line.push_back(agent.clone());
        } else {
            crowd.behind.push_back(agent.clone());
        }
    }

    fn go(&mut self, namespace: &str) {
        self.taken -= 1;
        let Some(crowd) = self.namespaces.get_mut(namespace) else {
            return;
        };
        match crowd.behind.pop_front() {
            Some(next) => self.line.push_back(next),
            None => crowd.ahead -= 1,
        }
        if crowd.ahead == 0 {
            self.namespaces.remove(namespace);
        }
    }

    /// Calls whoever there is a place for.
    fn admit(&mut self) -> Option<Agent> {
        let next = (self.taken < AT_ONCE).then(|| self.line.pop_front()).flatten()?;
        self.taken += 1;
        self.waiting.remove(&next);
        self.called.insert(next.clone());
        Some(next)
    }
}

fn namespace(agent: &Agent) -> &str {
    agent.namespace.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(namespace: &str, number: usize) -> Agent {
        ObjectRef::new(&format!("agent-{number}")).within(namespace)
    }

    fn enter(room: &Room, namespace: &str, numbers: impl IntoIterator<Item = usize>) -> Vec<Place> {
        let numbers = numbers.into_iter();
        numbers
            .filter_map(|number| room.enter(&agent(namespace, number)))
            .collect()
    }

    #[test]
    fn a_namespace_that_takes_its_time_leaves_room_for_the_others() {
        let (room, mut called) = Room::new();
        let slow = enter(&room, "slow", 0..10_000);
        assert_eq!(slow.len(), OF_ONE_NAMESPACE);
        for _ in 0..3 {
            let others = enter(&room, "b", 0..AT_ONCE - OF_ONE_NAMESPACE);
            assert_eq!(others.len(), AT_ONCE - OF_ONE_NAMESPACE);
        }
        assert!(called.try_recv().is_err(), "nobody slow has left");
        assert_eq!(room.count(), (10_000 - OF_ONE_NAMESPACE, OF_ONE_NAMESPACE));
    }

    #[test]
    fn each_is_called_once_in_its_order_and_the_room_is_empty_in_the_end() {
        let (room, mut called) = Room::new();
        let mut inside: VecDeque<Place> = enter(&room, "a", 0..200).into();
        inside.extend(enter(&room, "b", 0..100));
        assert_eq!(inside.len(), AT_ONCE);
        // Woken again while they wait: nobody stands in line twice.
        assert!(enter(&room, "a", OF_ONE_NAMESPACE..200).is_empty());
        let mut order = HashMap::<String, Vec<String>>::new();
        while let Some(place) = inside.pop_front() {
            drop(place);
            while let Ok(next) = called.try_recv() {
                let place = room.enter(&next).expect("its turn has come");
                assert!(room.count().1 <= AT_ONCE);
                inside.push_back(place);
                order.entry(namespace(&next).to_owned()).or_default().push(next.name);
            }
        }
        let names = |numbers: std::ops::Range<usize>| numbers.map(|number| format!("agent-{number}"));
        assert_eq!(order["a"], names(OF_ONE_NAMESPACE..200).collect::<Vec<_>>());
        assert_eq!(order["b"], names(AT_ONCE - OF_ONE_NAMESPACE..100).collect::<Vec<_>>());
        assert_eq!(room.count(), (0, 0));
        assert!(room.lock().namespaces.is_empty());
    }

    #[test]
    fn who_is_gone_when_its_turn_comes_holds_up_nobody() {
        let (room, mut called) = Room::new();
        let mut inside = enter(&room, "a", 0..OF_ONE_NAMESPACE);
        assert!(enter(&room, "a", 100..102).is_empty());
        room.forget(&agent("a", 100));
        assert_eq!(room.count().0, 2, "it keeps its place in line until it is called");
        inside.pop();
        assert_eq!(called.try_recv(), Ok(agent("a", 100)));
        room.forget(&agent("a", 100));
        assert_eq!(called.try_recv(), Ok(agent("a", 101)));
        drop(room.enter(&agent("a", 101)));
        drop(inside);
        assert_eq!(room.count(), (0, 0));
    }
}
