//! The rules of `session`.

use std::collections::BTreeMap;

use super::Issues;
use crate::config::{Maintenance, Path, Reset, ResetMode, Session};

pub(super) fn check(issues: &mut Issues, session: &Session) {
    let path = Path::of("session");
    if let Some(value) = &session.reset {
        reset(issues, &path.key("reset"), value);
    }
    if let Some(by_type) = &session.reset_by_type {
        let path = path.key("resetByType");
        for (kind, value) in [
            ("direct", &by_type.direct),
            ("group", &by_type.group),
            ("thread", &by_type.thread),
        ] {
            if let Some(value) = value {
                reset(issues, &path.key(kind), value);
            }
        }
    }
    for (channel, value) in session.reset_by_channel.iter().flatten() {
        reset(issues, &path.key("resetByChannel").key(channel), value);
    }
    if let Some(links) = &session.identity_links {
        identity_links(issues, &path.key("identityLinks"), links);
    }
    if let Some(value) = &session.maintenance {
        maintenance(issues, &path.key("maintenance"), value);
    }
}

fn reset(issues: &mut Issues, path: &Path, reset: &Reset) {
    let with = |mode: ResetMode| reset.mode.unwrap_or(ResetMode::Daily) == mode;
    if with(ResetMode::Idle) && reset.idle_minutes.is_none() {
        issues.add(path.key("idleMinutes"), "is missing with mode idle", "1 to 525600");
    }
    if !with(ResetMode::Daily) && reset.at_hour.is_some() {
        issues.add(
            path.key("atHour"),
            "has no meaning with this mode",
            "mode daily, or no atHour",
        );
    }
    if with(ResetMode::None) && reset.idle_minutes.is_some() {
        issues.add(
            path.key("idleMinutes"),
            "has no meaning with mode none",
            "mode idle or daily, or no idleMinutes",
        );
    }
}

/// One peer is one person: in two lists it would be nobody in particular.
fn identity_links(issues: &mut Issues, path: &Path, links: &BTreeMap<String, Vec<String>>) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (person, faces) in links {
        for (index, face) in faces.iter().enumerate() {
            let path = path.key(person).index(index);
            if let Some(other) = seen.insert(face, person) {
                issues.add(
                    path,
                    format!("{face:?} is {other:?} already"),
                    "each peer in one list only",
                );
            }
        }
    }
}

fn maintenance(issues: &mut Issues, path: &Path, maintenance: &Maintenance) {
    match (maintenance.high_water_bytes, maintenance.max_disk_bytes) {
        (Some(_), None) => issues.add(
            path.key("highWaterBytes"),
            "has no meaning without maxDiskBytes",
            "maxDiskBytes, or no highWaterBytes",
        ),
        (Some(water), Some(most)) if water > most => issues.add(
            path.key("highWaterBytes"),
            format!("{water} is more than maxDiskBytes"),
            format!("at most {most}"),
        ),
        _ => {}
    }
}
