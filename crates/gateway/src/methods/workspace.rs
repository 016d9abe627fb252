//! Our own additions, for the operator: `koi.workspace.seed`, `koi.bundle.refresh`.

use futures::FutureExt;
use koi_wire::name::{Scope, method};
use koi_wire::seed::SeedParams;
use serde_json::json;
use tracing::info;

use super::{Answer, Call, Method, fault};
use crate::seed;

pub(super) const TABLE: &[Method] = &[
    Method::later(method::WORKSPACE_SEED, Scope::Admin, |call| {
        call.blocking(apply).boxed()
    }),
    Method::now(method::BUNDLE_REFRESH, Scope::Admin, refresh),
];

fn apply(call: &Call) -> Answer {
    let wish = call.params::<SeedParams>()?;
    wish.check()
        .map_err(|fault| call.invalid(&format!("at /files: {fault}")))?;
    let settings = &call.shared.settings;
    let result = seed::apply(&settings.workspace, &settings.state_dir, &wish).map_err(|error| {
        let mut shape = fault::unavailable(format!("the workspace cannot be seeded: {error}"));
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
        call.shared.workspace_seeded();
    }
    Ok(json!(result))
}

fn refresh(call: &Call) -> Answer {
    call.no_params()?;
    let Some(file) = &call.shared.settings.refresh_file else {
        return Err(fault::unavailable(
            "this gateway was not set up by koi-gateway bootstrap",
        ));
    };
    // systemd watches for the file and runs bootstrap, which removes it.
    std::fs::write(file, b"")
        .map_err(|error| fault::unavailable(format!("{} cannot be written: {error}", file.display())))?;
    info!("bundle refresh asked for");
    Ok(json!({"ok": true}))
}
