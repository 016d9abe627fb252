//! The rules between keys: what one of them says about another. The form of single values is in the schema.

mod session;

use super::zone;
use super::{AlertMode, Auth, Exec, Gateway, GatewayConfig, Issue, Path, SearchProvider};

/// Everything about a well-formed config that is not right.
#[must_use]
pub fn validate(config: &GatewayConfig) -> Vec<Issue> {
    let mut issues = Issues::default();
    gateway(&mut issues, config.gateway.as_ref());
    if let Some(session_config) = &config.session {
        session::check(&mut issues, session_config);
    }
    cron(&mut issues, config);
    hooks(&mut issues, config);
    exec(&mut issues, config);
    search(&mut issues, config);
    for (path, name) in zone::named(config) {
        if let Some(reason) = zone::fault(name) {
            issues.add(path, reason, "an IANA name such as Europe/Berlin");
        }
    }
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
        Some(Auth { token: None, .. }) => issues.add(
            path.key("auth").key("token"),
            "is missing",
            "a token of 16 or more characters, or { source: \"file\", path: ... }",
        ),
        Some(_) => {}
    }
}

fn cron(issues: &mut Issues, config: &GatewayConfig) {
    let alert = config.cron.as_ref().and_then(|cron| cron.failure_alert.as_ref());
    if alert.is_some_and(|alert| alert.mode == Some(AlertMode::Webhook) && alert.to.is_none()) {
        issues.add(
            Path::of("cron.failureAlert.to"),
            "is missing with mode webhook",
            "https://host/path",
        );
    }
}

fn hooks(issues: &mut Issues, config: &GatewayConfig) {
    let Some(hooks) = &config.hooks else { return };
    if hooks.enabled == Some(true) && hooks.token.is_none() {
        issues.add(
            Path::of("hooks.token"),
            "is missing with enabled",
            "a token of 16 or more characters, or { source: \"file\", path: ... }",
        );
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

fn search(issues: &mut Issues, config: &GatewayConfig) {
    let web = config.tools.as_ref().and_then(|tools| tools.web.as_ref());
    let Some(search) = web.and_then(|web| web.search.as_ref()) else {
        return;
    };
    let path = Path::of("tools.web.search");
    match search.provider {
        SearchProvider::Searxng if search.base_url.is_none() => {
            issues.add(path.key("baseUrl"), "is missing with provider searxng", "https://host");
        }
        SearchProvider::Brave if search.api_key.is_none() => issues.add(
            path.key("apiKey"),
            "is missing with provider brave",
            "{ source: \"ssm\", name: ... } or { source: \"file\", path: ... }",
        ),
        SearchProvider::Searxng | SearchProvider::Brave => {}
    }
}
