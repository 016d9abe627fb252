//! The rules that the structure cannot express.

mod session;

use std::net::IpAddr;

use super::{
    ActiveHours, AgentDefaults, Auth, ControlUi, Exec, Gateway, GatewayConfig, Heartbeat, Issue, Model, Path, Secret,
    SecretRef,
};

/// Shortest token that is accepted.
const MIN_TOKEN_CHARS: usize = 16;

/// Everything about a well-formed config that is not right.
#[must_use]
pub fn validate(config: &GatewayConfig) -> Vec<Issue> {
    let mut issues = Issues::default();
    gateway(&mut issues, config.gateway.as_ref());
    if let Some(defaults) = config.agent_defaults() {
        agent_defaults(&mut issues, defaults);
    }
    if let Some(session_config) = &config.session {
        session::check(&mut issues, session_config);
    }
    exec(&mut issues, config);
    issues.0
}

#[derive(Default)]
struct Issues(Vec<Issue>);

impl Issues {
    fn add(&mut self, path: Path, reason: impl Into<String>, allowed: impl Into<String>) {
        self.0.push(Issue {
            path,
            reason: reason.into(),
            allowed: allowed.into(),
        });
    }
}

fn gateway(issues: &mut Issues, gateway: Option<&Gateway>) {
    let path = Path::of("gateway");
    let Some(gateway) = gateway else {
        issues.add(path, "is missing", "{ mode: \"local\", auth: { token: ... } }");
        return;
    };
    if gateway.mode.is_none() {
        issues.add(path.key("mode"), "is missing", "\"local\"");
    }
    match &gateway.auth {
        None => issues.add(path.key("auth"), "is missing", "{ mode: \"token\", token: ... }"),
        Some(value) => auth(issues, &path.key("auth"), value),
    }
    for (index, proxy) in gateway.trusted_proxies.iter().flatten().enumerate() {
        if !is_network(proxy) {
            issues.add(
                path.key("trustedProxies").index(index),
                format!("{proxy:?} is not an address"),
                "an IP address or a network such as 10.0.0.0/8",
            );
        }
    }
    if let Some(page) = &gateway.control_ui {
        control_ui(issues, &path.key("controlUi"), page);
    }
}

fn auth(issues: &mut Issues, path: &Path, auth: &Auth) {
    match &auth.token {
        None => issues.add(
            path.key("token"),
            "is missing",
            "a token of 16 or more characters, or { source: \"file\", path: ... }",
        ),
        Some(value) => secret(issues, &path.key("token"), value),
    }
    if let Some(value) = &auth.previous_token {
        secret(issues, &path.key("previousToken"), value);
    }
}

fn secret(issues: &mut Issues, path: &Path, secret: &Secret) {
    match secret {
        Secret::Literal(text) if text.expose().trim().chars().count() < MIN_TOKEN_CHARS => {
            issues.add(
                path.clone(),
                "is too short to be safe",
                format!("{MIN_TOKEN_CHARS} or more characters"),
            );
        }
        Secret::Literal(_) => {}
        Secret::Reference(SecretRef::File { path: file }) => {
            if !file.starts_with('/') {
                issues.add(
                    path.key("path"),
                    format!("{file:?} is not absolute"),
                    "a path that begins with /",
                );
            }
        }
        Secret::Reference(SecretRef::Env { name }) => {
            if !is_variable(name) {
                issues.add(
                    path.key("name"),
                    format!("{name:?} is not the name of a variable"),
                    "letters, digits and _, not beginning with a digit",
                );
            }
        }
    }
}

fn control_ui(issues: &mut Issues, path: &Path, page: &ControlUi) {
    for (index, origin) in page.allowed_origins.iter().flatten().enumerate() {
        if !is_origin(origin) {
            issues.add(
                path.key("allowedOrigins").index(index),
                format!("{origin:?} is not an origin"),
                "https://host or https://host:port, without a path; * is not allowed",
            );
        }
    }
}

fn agent_defaults(issues: &mut Issues, defaults: &AgentDefaults) {
    let path = Path::of("agents.defaults");
    if let Some(workspace) = &defaults.workspace
        && !(workspace.starts_with('/') || workspace.starts_with("~/"))
    {
        issues.add(
            path.key("workspace"),
            format!("{workspace:?} is relative"),
            "a path that begins with / or ~/",
        );
    }
    if let Some(value) = &defaults.model {
        model(issues, &path.key("model"), value);
    }
    if let Some(zone) = &defaults.user_timezone {
        time_zone(issues, path.key("userTimezone"), zone);
    }
    if let Some(value) = &defaults.heartbeat {
        heartbeat(issues, &path.key("heartbeat"), value);
    }
}

/// Who offers models: Bedrock; an echo, for a gateway without a model; a script, for tests.
const PROVIDERS: [&str; 3] = ["amazon-bedrock", "echo", "scripted"];

fn model(issues: &mut Issues, path: &Path, model: &Model) {
    let mut reference = |path: Path, id: &str| {
        let rest = PROVIDERS
            .iter()
            .find_map(|provider| id.strip_prefix(provider)?.strip_prefix('/'));
        if !rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace)) {
            issues.add(
                path,
                format!("{id:?} names no model that can be reached"),
                "amazon-bedrock/<model or inference profile id>",
            );
        }
    };
    if let Some(primary) = &model.primary {
        reference(path.key("primary"), primary);
    }
    for (index, fallback) in model.fallbacks.iter().flatten().enumerate() {
        reference(path.key("fallbacks").index(index), fallback);
    }
}

fn heartbeat(issues: &mut Issues, path: &Path, heartbeat: &Heartbeat) {
    if let Some(every) = &heartbeat.every
        && duration_seconds(every).is_none()
    {
        issues.add(
            path.key("every"),
            format!("{every:?} is not a duration"),
            "a number with s, m or h, such as 30m; 0m is never",
        );
    }
    if let Some(hours) = &heartbeat.active_hours {
        active_hours(issues, &path.key("activeHours"), hours);
    }
}

fn active_hours(issues: &mut Issues, path: &Path, hours: &ActiveHours) {
    if minutes_of_day(&hours.start).is_none_or(|minutes| minutes >= 24 * 60) {
        issues.add(
            path.key("start"),
            format!("{:?} is not a time", hours.start),
            "00:00 to 23:59",
        );
    }
    if minutes_of_day(&hours.end).is_none() {
        issues.add(
            path.key("end"),
            format!("{:?} is not a time", hours.end),
            "00:00 to 24:00",
        );
    }
    if let Some(zone) = &hours.timezone {
        time_zone(issues, path.key("timezone"), zone);
    }
}

fn exec(issues: &mut Issues, config: &GatewayConfig) {
    let nested: Option<&Exec> = config.tools.as_ref().and_then(|tools| tools.exec.as_ref());
    if config.exec.is_some() && nested.is_some() {
        issues.add(
            Path::of("tools.exec"),
            "is set beside exec, which is the same",
            "one of exec and tools.exec",
        );
    }
}

fn time_zone(issues: &mut Issues, path: Path, zone: &str) {
    // Only the form: whether the zone exists is known where the time zone database is.
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+'))
    };
    if !zone.split('/').all(word) {
        issues.add(
            path,
            format!("{zone:?} is not a time zone"),
            "an IANA name such as Europe/Berlin",
        );
    }
}

/// Seconds of `90s`, `30m`, `2h`.
#[must_use]
pub fn duration_seconds(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Minutes of `08:30`; those of `24:00` are the end of the day.
#[must_use]
pub fn minutes_of_day(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| (part.len() == 2).then(|| part.parse::<u32>().ok()).flatten();
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

fn is_network(text: &str) -> bool {
    let (address, bits) = text
        .split_once('/')
        .map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let width = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= width))
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_origin(origin: &str) -> bool {
    let host = origin
        .strip_prefix("https://")
        .or_else(|| origin.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c)))
}
