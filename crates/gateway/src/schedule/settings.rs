//! What the config says about the schedule, with its defaults.

use jiff::tz::TimeZone;
use koi_wire::config::{AlertMode, Cron, GatewayConfig, Secret};

use super::heartbeat::Rules;
use super::job::{AlertRule, DeliveryMode};
use super::webhook::Policy;
use crate::clock::owner_zone;

/// What the config says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Jobs run.
    pub(crate) enabled: bool,
    /// So many at the same time.
    pub(crate) max_concurrent: usize,
    /// What was missed stays missed.
    pub(crate) skip_missed: bool,
    /// The zone of expressions that name none: the owner's.
    pub(crate) zone: TimeZone,
    /// Somebody hears of failures.
    pub(crate) alerts: bool,
    /// When, where a job does not say.
    pub(crate) alert: AlertRule,
    /// Which inner places webhooks may call.
    pub(crate) webhook: Policy,
    /// What webhooks are told to prove who calls.
    pub(crate) webhook_token: Option<Secret>,
    /// Heartbeats.
    pub(crate) heartbeat: Rules,
}

impl Settings {
    /// From the config; `machine` is the zone of the machine.
    pub(crate) fn new(config: &GatewayConfig, machine: &TimeZone) -> Self {
        let named = config
            .agent_defaults()
            .and_then(|defaults| defaults.user_timezone.as_deref());
        let user = owner_zone(named, machine);
        let cron = config.cron.clone().unwrap_or_default();
        let alert = cron.failure_alert.clone().unwrap_or_default();
        let mode = match alert.mode {
            None | Some(AlertMode::Announce) => DeliveryMode::Announce,
            Some(AlertMode::Webhook) => DeliveryMode::Webhook,
        };
        Self {
            enabled: cron.enabled.unwrap_or(true),
            max_concurrent: usize::try_from(cron.max_concurrent_runs.unwrap_or(2)).unwrap_or(2),
            skip_missed: cron.skip_missed_jobs.unwrap_or(false),
            alerts: alert.enabled.unwrap_or(true),
            alert: AlertRule {
                after: Some(alert.after.unwrap_or(2)),
                cooldown_ms: i64::try_from(alert.cooldown_ms.unwrap_or(3_600_000)).ok(),
                include_skipped: Some(alert.include_skipped.unwrap_or(false)),
                mode: Some(mode),
                channel: None,
                to: alert.to,
                account_id: None,
            },
            webhook: policy(&cron),
            webhook_token: cron.webhook_token,
            heartbeat: Rules::new(config, machine, &user),
            zone: user,
        }
    }
}

fn policy(cron: &Cron) -> Policy {
    let hosts = cron
        .webhook_ssrf_policy
        .as_ref()
        .and_then(|policy| policy.allowed_hosts.clone());
    Policy {
        allowed_hosts: hosts.unwrap_or_default(),
        ..Policy::default()
    }
}
