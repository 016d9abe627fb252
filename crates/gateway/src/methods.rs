//! Methods: what a connected client may ask for. Each family has a file with a table; here the tables are joined and calls dispatched.

mod agent;
mod agents_files;
mod approvals;
pub(crate) mod bounds;
mod call;
mod catalog;
mod chat;
mod config;
mod cron;
mod device;
pub(crate) mod fault;
mod gateway;
mod heartbeat;
mod history;
mod logs;
mod node;
mod quiet;
mod request;
mod send;
mod sessions;
mod skills;
mod status;
mod system;
mod tasks;
mod tools;
mod workspace;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::task::Poll;

use futures::FutureExt;
use futures::future::BoxFuture;
use koi_wire::frame::ErrorShape;
use koi_wire::name::Scope;
use serde_json::{Value, json};

pub(crate) use self::call::{After, Call, Caller, Role};
pub(crate) use self::sessions::announce as announce_sessions;
pub(crate) use self::status::resident_bytes;
use crate::server::{Shared, lock};

/// What a method gives.
pub(crate) type Answer = Result<Value, ErrorShape>;

/// How a method works.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// At once, without waiting for anything: neither disk nor lock that is held for long.
    Now(fn(&Call) -> Answer),
    /// In a task of its own. What comes before the first wait happens in the order of the client's frames.
    Later(fn(Call) -> BoxFuture<'static, Answer>),
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Operators with this scope.
    Scope(Scope),
    /// Nodes.
    Node,
}

/// A method: its name, who may call it, and what it does.
#[derive(Clone, Copy)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: Run,
}

impl Method {
    /// A method that answers at once. A stricter scope for some parameters is asked for with [`Call::require`].
    pub(crate) const fn now(name: &'static str, scope: Scope, run: fn(&Call) -> Answer) -> Self {
        let (needs, run) = (Needs::Scope(scope), Run::Now(run));
        Self { name, needs, run }
    }

    /// A method that waits for something.
    pub(crate) const fn later(name: &'static str, scope: Scope, run: fn(Call) -> BoxFuture<'static, Answer>) -> Self {
        let (needs, run) = (Needs::Scope(scope), Run::Later(run));
        Self { name, needs, run }
    }

    /// A method of nodes.
    pub(crate) const fn node(name: &'static str, run: fn(&Call) -> Answer) -> Self {
        let (needs, run) = (Needs::Node, Run::Now(run));
        Self { name, needs, run }
    }

    /// A method of nodes that waits for something.
    pub(crate) const fn node_later(name: &'static str, run: fn(Call) -> BoxFuture<'static, Answer>) -> Self {
        let (needs, run) = (Needs::Node, Run::Later(run));
        Self { name, needs, run }
    }
}

/// The families.
const FAMILIES: &[&[Method]] = &[
    status::TABLE,
    config::TABLE,
    workspace::TABLE,
    system::TABLE,
    quiet::TABLE,
    tasks::TABLE,
    tools::TABLE,
    gateway::TABLE,
    approvals::TABLE,
    catalog::TABLE,
    logs::TABLE,
    node::TABLE,
    device::TABLE,
    sessions::TABLE,
    history::TABLE,
    agents_files::TABLE,
    chat::TABLE,
    agent::TABLE,
    send::TABLE,
    skills::TABLE,
    cron::TABLE,
    heartbeat::TABLE,
];

static TABLE: LazyLock<HashMap<&'static str, &'static Method>> = LazyLock::new(|| {
    let all = FAMILIES.iter().flat_map(|family| family.iter());
    all.map(|method| (method.name, method)).collect()
});

/// Names of all methods, as a hello lists them.
pub(crate) static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names: Vec<&str> = TABLE.keys().copied().collect();
    names.sort_unstable();
    names
});

/// All methods with who may call them, for the documentation.
pub(crate) fn listed() -> Vec<Value> {
    let scope = |name: &str| match TABLE.get(name).map(|method| method.needs) {
        Some(Needs::Scope(scope)) => scope.as_str(),
        Some(Needs::Node) | None => "node",
    };
    NAMES
        .iter()
        .map(|name| json!({"name": name, "scope": scope(name)}))
        .collect()
}

/// Answers one frame; what is not JSON gets no answer. What is not done at once goes on in a task of its own.
pub(crate) fn answer(shared: &Arc<Shared>, frame: bytes::Bytes, caller: &Arc<Caller>) {
    if let Some(rest) = begin(shared, frame, caller) {
        shared.tasks.spawn(rest);
    }
}

fn begin(shared: &Arc<Shared>, frame: bytes::Bytes, caller: &Arc<Caller>) -> Option<BoxFuture<'static, ()>> {
    let request = match request::envelope(&frame)? {
        Ok(request) => request,
        Err(wrong) => {
            let error = fault::invalid_frame(&wrong.fault);
            caller.respond(&wrong.id, &Err(error));
            return None;
        }
    };
    match find(&request.method, caller) {
        Err(error) => caller.respond(&request.id, &Err(error)),
        Ok(method) => {
            let call = Call::new(shared, caller, request.id, method.name, frame);
            match method.run {
                Run::Now(run) => caller.respond(&call.id, &run(&call)),
                Run::Later(run) => return later(run, call),
            }
        }
    }
    None
}

/// Looks at a longer call once; what is not done by then goes on in a task of its own.
fn later(run: fn(Call) -> BoxFuture<'static, Answer>, call: Call) -> Option<BoxFuture<'static, ()>> {
    let (caller, id) = (Arc::clone(&call.caller), call.id.clone());
    let ticket = match call.shared.admission.enter(call.size()) {
        Ok(ticket) => ticket,
        Err(full) => {
            caller.respond(&id, &Err(fault::busy(full)));
            return None;
        }
    };
    let parked = call.parked.clone();
    let (shared, after) = (Arc::clone(&call.shared), Arc::clone(&call.after));
    let mut turn = caller.order.enter(ticket.waits());
    let work = async move {
        let mut ticket = ticket;
        ticket.start().await;
        turn.comes().await;
        let mut running = run(call.with_ticket(ticket));
        let begun = futures::poll!(&mut running);
        drop(turn);
        match begun {
            Poll::Ready(answer) => answer,
            Poll::Pending => running.await,
        }
    };
    let mut whole = async move {
        let mut closing = caller.outbox.closing();
        tokio::select! {
            biased;
            answer = work => {
                caller.respond(&id, &answer);
                let after = std::mem::take(&mut *lock(&after));
                after.into_iter().for_each(|after| after.done(&shared, &caller));
            }
            // Who has left waits for nothing; what has begun is brought to its end all the same.
            () = async { let _ = closing.wait_for(Option::is_some).await; parked.cancelled().await; } => {}
        }
    }
    .boxed();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match whole.as_mut().poll(&mut context) {
        Poll::Ready(()) => None,
        Poll::Pending => Some(whole),
    }
}

/// The method of this name, if the caller may have it.
fn find(name: &str, caller: &Caller) -> Result<&'static Method, ErrorShape> {
    let method = TABLE.get(name).copied();
    // Whether a method exists is told to those only who could call all of them.
    match (
        method.map_or(Needs::Scope(Scope::Admin), |method| method.needs),
        caller.role,
    ) {
        (Needs::Scope(scope), Role::Operator) => caller.require(scope)?,
        (Needs::Node, Role::Node) => {}
        (_, role) => return Err(fault::role(role)),
    }
    method.ok_or_else(|| fault::unknown_method(name))
}

#[cfg(test)]
mod tests;
