//! What a plan lets its agents ask for. A value that the agent did not choose and that exceeds a limit is the plan's own fault.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::cidr::Cidr;
use super::settle::{Asked, Chosen};
use super::why;
use crate::api::{PlanLimits, Reason, allows};
use crate::plan::Why;
use crate::render::config;

impl Asked<'_> {
    pub(super) fn limits(&self) -> Option<&PlanLimits> {
        self.plan.limits.as_ref()
    }

    /// A value that exceeds a limit: whose fault it is, and where to change it.
    fn exceeds(&self, by_agent: bool, field: &str, told: &str) -> Why {
        let plan = self.plan_name.unwrap_or_default();
        if by_agent {
            let message = format!(
                "spec.{field}: {told} (limits of KoiPlan {plan:?}). Ask for something else, or use another plan."
            );
            return why(Reason::NotAllowedByPlan, message);
        }
        let message = format!(
            "spec.defaults.{field} of KoiPlan {plan:?}, or the built-in default where the plan has none: {told} (the plan's own limits). \
             Set a default inside of the limits."
        );
        why(Reason::PlanInvalid, message)
    }
}

fn listed(list: &[String]) -> String {
    if list.is_empty() {
        "none is allowed".into()
    } else {
        format!("allowed: {}", list.join(", "))
    }
}

pub(super) fn models(asked: &Asked<'_>, model: &Chosen<String>, fallbacks: &Chosen<Vec<String>>) -> Result<(), Why> {
    let Some(limit) = asked.limits().and_then(|limits| limits.models.as_deref()) else {
        return Ok(());
    };
    let one = std::iter::once((&model.value, model.by_agent, "model.id"));
    let more = fallbacks
        .value
        .iter()
        .map(|id| (id, fallbacks.by_agent, "model.fallbacks"));
    for (id, by_agent, field) in one.chain(more) {
        if !allows(Some(limit), id) {
            return Err(asked.exceeds(
                by_agent,
                field,
                &format!("model {id:?} is not allowed, {}", listed(limit)),
            ));
        }
    }
    Ok(())
}

pub(super) fn instance_type(asked: &Asked<'_>, chosen: &Chosen<String>) -> Result<(), Why> {
    let limit = asked.limits().and_then(|limits| limits.instance_types.as_deref());
    if allows(limit, &chosen.value) {
        return Ok(());
    }
    let told = format!(
        "type {:?} is not allowed, {}",
        chosen.value,
        listed(limit.unwrap_or_default())
    );
    Err(asked.exceeds(chosen.by_agent, "instance.type", &told))
}

pub(super) fn volume(asked: &Asked<'_>, chosen: &Chosen<i32>) -> Result<(), Why> {
    let limit = asked
        .limits()
        .and_then(|limits| limits.max_data_volume_gib)
        .unwrap_or(i32::MAX);
    if chosen.value <= limit {
        return Ok(());
    }
    let told = format!("{} GiB is more than the {limit} GiB that are allowed", chosen.value);
    Err(asked.exceeds(chosen.by_agent, "storage.dataVolumeGiB", &told))
}

pub(super) fn ingress(asked: &Asked<'_>, chosen: &Chosen<Vec<String>>) -> Result<BTreeSet<Cidr>, Why> {
    let invalid = if chosen.by_agent {
        Reason::InvalidSpec
    } else {
        Reason::PlanInvalid
    };
    let limit = match asked.limits().and_then(|limits| limits.ingress_cidrs.as_deref()) {
        Some(texts) => Some(parse_all(texts, Reason::PlanInvalid, "limits.ingressCidrs")?),
        None => None,
    };
    let wanted = parse_all(&chosen.value, invalid, "network.ingressCidrs")?;
    for cidr in &wanted {
        if limit
            .as_ref()
            .is_some_and(|limit| !limit.iter().any(|outer| outer.contains(cidr)))
        {
            let names: Vec<String> = limit.iter().flatten().map(Cidr::to_string).collect();
            return Err(asked.exceeds(
                chosen.by_agent,
                "network.ingressCidrs",
                &format!("{cidr} is not allowed, {}", listed(&names)),
            ));
        }
    }
    Ok(wanted)
}

fn parse_all(texts: &[String], reason: Reason, field: &str) -> Result<BTreeSet<Cidr>, Why> {
    let parse = |text: &String| Cidr::parse(text).map_err(|error| why(reason, format!("{field}: {error}.")));
    texts.iter().map(parse).collect()
}

/// Overrides of the gateway's configuration: keys that the plan keeps, tools that the plan refuses.
pub(super) fn config(asked: &Asked<'_>, chosen: &Chosen<Map<String, Value>>) -> Result<(), Why> {
    let paths = config::leaf_paths(&chosen.value);
    let Some(limits) = asked.limits().filter(|_| chosen.by_agent) else {
        return Ok(());
    };
    if let Some(keys) = &limits.config_keys
        && let Some(path) = paths
            .iter()
            .find(|path| !keys.iter().any(|key| config::is_below(path, key)))
    {
        return Err(asked.exceeds(
            true,
            &format!("gateway.config.{path}"),
            &format!("the key is not allowed, {}", listed(keys)),
        ));
    }
    let Some(tools) = &limits.tools else {
        return Ok(());
    };
    let refused = config::switched_on_tools(&chosen.value).into_iter().find(|tool| {
        !allows(tools.allow.as_deref(), tool) || tools.deny.as_ref().is_some_and(|deny| allows(Some(deny), tool))
    });
    refused.map_or(Ok(()), |tool| {
        Err(asked.exceeds(
            true,
            "gateway.config.tools",
            &format!("tool {tool:?} is not allowed by limits.tools"),
        ))
    })
}

/// The merged document is not one that the gateway would take.
pub(super) fn config_refused(asked: &Asked<'_>, chosen: &Chosen<Map<String, Value>>, refused: &config::Refused) -> Why {
    if let Some(why) = generated_refused(asked, refused) {
        return why;
    }
    let place = if chosen.by_agent {
        "spec.gateway.config"
    } else {
        "spec.defaults.gateway.config of the plan"
    };
    let reason = match (refused, chosen.by_agent) {
        (config::Refused::Owned(_), true) => Reason::InvalidSpec,
        (config::Refused::Owned(_), false) => Reason::PlanInvalid,
        (config::Refused::Invalid(_), _) => Reason::ConfigRejected,
    };
    why(reason, format!("{place}: {refused}"))
}

/// A fault in what the operator generates is one of the field that it was made of; overrides cannot reach there.
fn generated_refused(asked: &Asked<'_>, refused: &config::Refused) -> Option<Why> {
    let config::Refused::Invalid(issues) = refused else {
        return None;
    };
    let by_agent = |chosen: Option<bool>| chosen.unwrap_or_default();
    issues.iter().find_map(|issue| {
        let path = issue.path.to_string();
        let (field, by_agent) = match path.strip_prefix("agents.defaults.")? {
            "userTimezone" => ("owner.timeZone".to_owned(), true),
            "model.primary" => {
                let chosen = asked.model(|model| model.id.clone());
                ("model.id".to_owned(), by_agent(chosen.map(|chosen| chosen.by_agent)))
            }
            rest => {
                let place = rest.strip_prefix("model.fallbacks")?;
                let chosen = asked.model(|model| model.fallbacks.clone());
                let field = format!("model.fallbacks{place}");
                (field, by_agent(chosen.map(|chosen| chosen.by_agent)))
            }
        };
        let told = format!("{}; allowed: {}.", issue.reason, issue.allowed);
        Some(if by_agent {
            why(Reason::InvalidSpec, format!("spec.{field}: {told}"))
        } else {
            let plan = asked.plan_name.unwrap_or_default();
            why(
                Reason::PlanInvalid,
                format!("spec.defaults.{field} of KoiPlan {plan:?}: {told}"),
            )
        })
    })
}
