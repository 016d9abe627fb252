//! Methods: what a connected client may ask for.

mod config_get;
mod request;
mod status;

use std::sync::Arc;

use koi_wire::frame::{ErrorShape, Response};
use koi_wire::name::{Scope, code, detail, event, method};
use koi_wire::seed::SeedParams;
use serde_json::{Value, json};
use tracing::info;

use crate::seed;
use crate::server::Shared;
use crate::server::params;

/// One who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// What it may do.
    pub(crate) scopes: Vec<Scope>,
}

/// A method: its name, the scope that it needs, and what it does.
struct Method {
    name: &'static str,
    scope: Scope,
    run: fn(&Shared, &Value) -> Result<Value, ErrorShape>,
}

const TABLE: &[Method] = &[
    Method {
        name: method::HEALTH,
        scope: Scope::Read,
        run: |shared, _| Ok(json!(shared.health())),
    },
    Method {
        name: method::STATUS,
        scope: Scope::Read,
        run: status::run,
    },
    Method {
        name: method::SYSTEM_PRESENCE,
        scope: Scope::Read,
        run: |shared, _| Ok(json!(shared.hub.presence())),
    },
    Method {
        name: method::CONFIG_GET,
        scope: Scope::Read,
        run: config_get::run,
    },
    Method {
        name: method::WORKSPACE_SEED,
        scope: Scope::Admin,
        // Its parameters are large: they are read as what they are, in `call`.
        run: |_, _| Err(ErrorShape::new(code::UNAVAILABLE, "the call was cut off")),
    },
    Method {
        name: method::BUNDLE_REFRESH,
        scope: Scope::Admin,
        run: bundle_refresh,
    },
];

/// Names of all methods, as a hello lists them.
pub(crate) const NAMES: [&str; 6] = [
    method::HEALTH,
    method::STATUS,
    method::SYSTEM_PRESENCE,
    method::CONFIG_GET,
    method::WORKSPACE_SEED,
    method::BUNDLE_REFRESH,
];

/// Names of all events, as a hello lists them.
pub(crate) const EVENTS: [&str; 5] = [
    event::CHALLENGE,
    event::TICK,
    event::PRESENCE,
    event::HEALTH,
    event::SHUTDOWN,
];

/// Answers one frame; what is not JSON gets no answer.
pub(crate) async fn answer(shared: &Arc<Shared>, bytes: &[u8], caller: &Caller) -> Option<Response> {
    let request = match request::envelope(bytes)? {
        Ok(request) => request,
        Err(wrong) => {
            let message = format!("invalid request frame: {}", wrong.fault);
            return Some(Response::err(wrong.id, ErrorShape::new(code::INVALID_REQUEST, message)));
        }
    };
    Some(match call(shared, &request.method, bytes, caller).await {
        Ok(payload) => Response::ok(request.id, payload),
        Err(error) => Response::err(request.id, error),
    })
}

async fn call(shared: &Arc<Shared>, name: &str, frame: &[u8], caller: &Caller) -> Result<Value, ErrorShape> {
    let method = TABLE.iter().find(|method| method.name == name);
    // Whether a method exists is told to those only who could call all of them.
    allow(caller, method.map_or(Scope::Admin, |method| method.scope))?;
    let Some(method) = method else {
        let shown: String = name.chars().take(128).collect();
        return Err(ErrorShape::new(
            code::INVALID_REQUEST,
            format!("unknown method: {shown}"),
        ));
    };
    let given = request::outline(frame);
    if method.name != method::WORKSPACE_SEED {
        return (method.run)(shared, &given);
    }
    let wish = seed_params(&given, frame)?;
    // It waits for the disk.
    let shared = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || workspace_seed(&shared, &wish)).await;
    done.unwrap_or_else(|_| Err(ErrorShape::new(code::UNAVAILABLE, "the call was cut off")))
}

fn allow(caller: &Caller, needed: Scope) -> Result<(), ErrorShape> {
    if Scope::any_covers(&caller.scopes, needed) {
        return Ok(());
    }
    let details = json!({"code": detail::MISSING_SCOPE, "missingScope": needed, "requiredScopes": [needed]});
    Err(ErrorShape::new(code::FORBIDDEN, format!("missing scope: {needed}")).with_details(details))
}

/// A fault in the parameters of a method.
fn invalid(name: &str, fault: &str) -> ErrorShape {
    ErrorShape::new(code::INVALID_REQUEST, format!("invalid {name} params: {fault}"))
}

/// Parameters of a method that takes these keys only; `null` is an empty object.
fn closed(name: &str, given: &Value, known: &[&str]) -> Result<(), ErrorShape> {
    if given.is_null() {
        return Ok(());
    }
    params::object(given, "root", known, &[])
        .map(|_| ())
        .map_err(|fault| invalid(name, &fault))
}

fn seed_params(given: &Value, frame: &[u8]) -> Result<SeedParams, ErrorShape> {
    let name = method::WORKSPACE_SEED;
    params::object(given, "root", &["files"], &["files"]).map_err(|fault| invalid(name, &fault))?;
    let wish = request::params::<SeedParams>(frame).map_err(|error| invalid(name, &format!("at /files: {error}")))?;
    let wish = wish.unwrap_or_default();
    wish.check()
        .map_err(|fault| invalid(name, &format!("at /files: {fault}")))?;
    Ok(wish)
}

fn workspace_seed(shared: &Shared, wish: &SeedParams) -> Result<Value, ErrorShape> {
    let result = seed::apply(&shared.settings.workspace, &shared.settings.state_dir, wish).map_err(|error| {
        let mut shape = ErrorShape::new(code::UNAVAILABLE, format!("the workspace cannot be seeded: {error}"));
        shape.retryable = Some(true);
        shape
    })?;
    info!(
        seeded = result.seeded,
        written = result.written.len(),
        kept = result.kept.len(),
        "workspace seed"
    );
    if result.seeded {
        shared.workspace_seeded();
    }
    Ok(json!(result))
}

fn bundle_refresh(shared: &Shared, given: &Value) -> Result<Value, ErrorShape> {
    closed(method::BUNDLE_REFRESH, given, &[])?;
    let Some(file) = &shared.settings.refresh_file else {
        return Err(ErrorShape::new(
            code::UNAVAILABLE,
            "this gateway was not set up by koi-gateway bootstrap",
        ));
    };
    // systemd watches for the file and runs bootstrap, which removes it.
    std::fs::write(file, b"").map_err(|error| {
        ErrorShape::new(
            code::UNAVAILABLE,
            format!("{} cannot be written: {error}", file.display()),
        )
    })?;
    info!("bundle refresh asked for");
    Ok(json!({"ok": true}))
}
