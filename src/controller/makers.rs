//! Things that agents share (the role, a security group, the owner record) are made by one of them while the others wait.
//!
//! Agents that are created in the same moment all see that the shared role is missing. Whoever comes first makes it; the others look
//! again when that is done, and then see it in what we remember. So no call is refused because a neighbour was quicker. Whoever removes
//! what nobody uses takes its turn, too: IAM answers who names what has just gone with a denial, since permissions hang on its tags.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use koi_core::plan::Step;

/// Of so many changes it is known who made them: no round looks back so far.
const KEPT: usize = 4096;

/// Who makes what now, and who changed what last.
#[derive(Clone, Debug, Default)]
pub struct Makers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Grows with each change.
    clock: u64,
    shared: HashMap<String, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Somebody is at it.
    busy: bool,
    /// When it was last changed, and by whom.
    changed: u64,
    by: String,
}

/// A moment of that clock: what was decided is as old as what it was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// Whether somebody may make something now.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is nobody else's: go on.
    Free,
    /// It is one's own until this is dropped.
    Mine(Making),
    /// Somebody makes it now: look again shortly.
    Busy,
    /// Somebody changed it since one looked: decide again.
    Stale,
}

impl Makers {
    /// Now: to be taken before one looks at what there is.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.lock().clock)
    }

    /// Asks to do a step that was decided on what was seen at `seen`.
    pub(super) fn turn(&self, who: &str, step: &Step, seen: Moment) -> Turn {
        let Some(name) = shared_name(step) else {
            return Turn::Free;
        };
        let mut state = self.lock();
        let entry = state.shared.entry(name.clone()).or_default();
        if entry.busy {
            return Turn::Busy;
        }
        // What one changed oneself one knows.
        if entry.changed > seen.0 && entry.by != who {
            return Turn::Stale;
        }
        entry.busy = true;
        Turn::Mine(Making {
            makers: self.clone(),
            name,
            who: who.to_owned(),
            begun: false,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something is being made; when this is dropped the others may look.
#[derive(Debug)]
pub(super) struct Making {
    makers: Makers,
    name: String,
    who: String,
    begun: bool,
}

impl Making {
    /// The call goes out: from here on others have to look again.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut state = self.makers.lock();
        state.clock += 1;
        let now = state.clock;
        if state.shared.len() > KEPT {
            state
                .shared
                .retain(|_, entry| entry.busy || now - entry.changed < KEPT as u64);
        }
        if let Some(entry) = state.shared.get_mut(&self.name) {
            entry.busy = false;
            if self.begun {
                entry.changed = now;
                entry.by.clone_from(&self.who);
            }
        }
    }
}

/// The thing that a step makes or changes, where agents share such things.
fn shared_name(step: &Step) -> Option<String> {
    let name = match step {
        Step::BindCluster => "owner".to_owned(),
        Step::CreateRole { role, .. }
        | Step::PutRolePolicy { role, .. }
        | Step::DeleteRolePolicy { role }
        | Step::DeleteRole { role } => format!("identity {role}"),
        Step::CreateInstanceProfile { profile, .. }
        | Step::AddRoleToInstanceProfile { profile, .. }
        | Step::RemoveRoleFromInstanceProfile { profile, .. }
        | Step::DeleteInstanceProfile { profile } => format!("identity {profile}"),
        Step::CreateSecurityGroup { name, vpc_id, .. } => format!("group {name} {vpc_id}"),
        Step::AuthorizeIngress { group_id, .. }
        | Step::RevokeIngress { group_id, .. }
        | Step::DeleteSecurityGroup { group_id } => format!("rules {group_id}"),
        _ => return None,
    };
    Some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use koi_core::plan::Step;

    use super::{Makers, Moment, Turn};

    fn profile(name: &str) -> Step {
        Step::CreateInstanceProfile {
            profile: name.into(),
            tags: BTreeMap::new(),
        }
    }

    fn make(makers: &Makers, who: &str, step: &Step, seen: Moment) {
        match makers.turn(who, step, seen) {
            Turn::Mine(mut making) => making.begin(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_makes_and_the_others_look_again() {
        let makers = Makers::default();
        let seen = makers.now();
        let Turn::Mine(mut making) = makers.turn("ada", &profile("p"), seen) else {
            panic!("nobody is at it")
        };
        making.begin();
        assert!(matches!(makers.turn("bob", &profile("p"), seen), Turn::Busy));
        assert!(matches!(makers.turn("bob", &profile("other"), seen), Turn::Mine(_)));
        drop(making);
        assert!(matches!(makers.turn("bob", &profile("p"), seen), Turn::Stale));
        make(&makers, "bob", &profile("p"), makers.now());
    }

    #[test]
    fn whoever_goes_on_with_its_own_work_need_not_look_in_between() {
        let makers = Makers::default();
        let seen = makers.now();
        make(&makers, "ada", &profile("p"), seen);
        make(&makers, "ada", &profile("p"), seen);
        make(&makers, "bob", &profile("p"), makers.now());
        assert!(matches!(makers.turn("ada", &profile("p"), seen), Turn::Stale));
    }

    #[test]
    fn a_turn_that_was_not_used_changes_nothing() {
        let makers = Makers::default();
        let seen = makers.now();
        drop(makers.turn("ada", &profile("p"), seen));
        make(&makers, "bob", &profile("p"), seen);
    }

    #[test]
    fn what_is_removed_is_not_added_to_meanwhile_nor_after_a_look_from_before() {
        let makers = Makers::default();
        let delete = Step::DeleteInstanceProfile { profile: "p".into() };
        let add = Step::AddRoleToInstanceProfile {
            profile: "p".into(),
            role: "p".into(),
        };
        let seen = makers.now();
        let Turn::Mine(mut making) = makers.turn("janitor", &delete, seen) else {
            panic!("nobody is at it")
        };
        making.begin();
        assert!(matches!(makers.turn("ada", &add, seen), Turn::Busy));
        drop(making);
        assert!(matches!(makers.turn("ada", &add, seen), Turn::Stale));
        make(&makers, "ada", &add, makers.now());
        let role = Step::DeleteRole { role: "p".into() };
        assert!(
            matches!(makers.turn("janitor", &role, seen), Turn::Stale),
            "ada uses it"
        );

        let rules = Step::AuthorizeIngress {
            group_id: "sg-1".into(),
            rules: Vec::new(),
        };
        let seen = makers.now();
        let group = Step::DeleteSecurityGroup {
            group_id: "sg-1".into(),
        };
        let _removes = makers.turn("janitor", &group, seen);
        assert!(matches!(makers.turn("ada", &rules, seen), Turn::Busy));
    }

    #[test]
    fn what_belongs_to_one_agent_is_nobodys_business() {
        let makers = Makers::default();
        let step = Step::StartInstance {
            instance_id: "i-1".into(),
        };
        let _first = makers.turn("ada", &step, makers.now());
        assert!(matches!(makers.turn("bob", &step, makers.now()), Turn::Free));
    }

    /// A hundred agents at once on a virgin account, with the steps that each decides on what it sees.
    #[tokio::test]
    async fn of_a_hundred_that_come_at_once_one_makes_each_thing() {
        let makers = Makers::default();
        let account = std::sync::Arc::new(std::sync::Mutex::new((0_usize, 0_usize)));
        let agents = (0..100).map(|number| {
            let (makers, account) = (makers.clone(), account.clone());
            async move {
                loop {
                    let seen = makers.now();
                    let made = account.lock().unwrap().0;
                    tokio::task::yield_now().await;
                    if made == 4 {
                        return;
                    }
                    match makers.turn(&format!("agent-{number}"), &profile("p"), seen) {
                        Turn::Mine(mut making) => {
                            making.begin();
                            tokio::task::yield_now().await;
                            let mut account = account.lock().unwrap();
                            // Made already: AWS would refuse it.
                            account.1 += usize::from(account.0 != made);
                            account.0 += usize::from(account.0 == made);
                        }
                        Turn::Busy | Turn::Stale => tokio::task::yield_now().await,
                        Turn::Free => panic!("it is shared"),
                    }
                }
            }
        });
        futures::future::join_all(agents).await;
        assert_eq!(*account.lock().unwrap(), (4, 0));
    }
}
