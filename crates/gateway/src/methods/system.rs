//! `system.info`, `system-event`: the machine, and what others tell of theirs.

use koi_wire::frame::PresenceEntry;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::json;

use super::bounds::{List, Text};
use super::{Answer, Call, Method};
use crate::server::VERSION;

pub(super) const TABLE: &[Method] = &[
    Method::now("system.info", Scope::Read, info),
    Method::now("system-event", Scope::Admin, event),
];

/// A file of the kernel.
fn kernel(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn info(call: &Call) -> Answer {
    call.no_params()?;
    let settings = &call.shared.settings;
    let memory = kernel("/proc/meminfo");
    let bytes = |key: &str| {
        let line = memory
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_default();
        let kib = line
            .trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse::<u64>();
        kib.unwrap_or(0).saturating_mul(1024)
    };
    let load: Vec<f64> = kernel("/proc/loadavg")
        .split(' ')
        .take(3)
        .filter_map(|figure| figure.parse().ok())
        .collect();
    let (system, release) = (std::env::consts::OS, kernel("/proc/sys/kernel/osrelease"));
    let mut answer = json!({
        "machineName": settings.host, "hostname": settings.host, "platform": system, "release": release,
        "arch": std::env::consts::ARCH, "osLabel": format!("{system} {release}"), "nodeVersion": format!("koi-gateway {VERSION}"),
        "pid": std::process::id(), "processInstanceId": call.shared.boot_id, "uptimeMs": call.shared.uptime_ms(),
        "cpuCount": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "memoryTotalBytes": bytes("MemTotal"), "memoryFreeBytes": bytes("MemAvailable"),
    });
    if load.len() == 3 {
        answer["loadAverage"] = json!(load);
    }
    Ok(answer)
}

type Word = Option<Text<0, 256>>;

/// The contract has no definition for it; what clients of the family send is taken.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventParams {
    text: Text<1, 4096>,
    #[serde(default)]
    device_id: Word,
    #[serde(default)]
    instance_id: Word,
    #[serde(default)]
    host: Word,
    #[serde(default)]
    ip: Word,
    #[serde(default)]
    mode: Word,
    #[serde(default)]
    version: Word,
    #[serde(default)]
    platform: Word,
    #[serde(default, rename = "deviceFamily")]
    _family: Word,
    #[serde(default, rename = "modelIdentifier")]
    _model: Word,
    #[serde(default, rename = "lastInputSeconds")]
    _idle: Option<u64>,
    #[serde(default)]
    reason: Word,
    #[serde(default, rename = "roles")]
    _roles: Option<List<Text<0, 64>, 16>>,
    #[serde(default, rename = "scopes")]
    _scopes: Option<List<Text<0, 64>, 32>>,
    #[serde(default, rename = "tags")]
    _tags: Option<List<Text<0, 64>, 32>>,
}

fn event(call: &Call) -> Answer {
    let params = call.params::<EventParams>()?;
    let word = |word: Word| word.map(Text::into_string).filter(|word| !word.is_empty());
    let entry = PresenceEntry {
        ts: call.shared.now_ms(),
        host: word(params.host),
        ip: word(params.ip),
        version: word(params.version),
        platform: word(params.platform),
        mode: word(params.mode),
        reason: word(params.reason),
        text: Some(params.text.into_string()),
        device_id: word(params.device_id),
        instance_id: word(params.instance_id),
        ..PresenceEntry::default()
    };
    call.shared.hub.note(entry);
    Ok(json!({"ok": true}))
}
