//! The table: what a change of each field of a spec does to an agent that is there.

use crate::api::ActionKind;

/// What a change of a field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing on the machine: it is looked at when it is needed.
    Nothing,
    /// Done in the cloud beside the running agent, which does not notice.
    InPlace,
    /// One of the actions that `status.plannedAction` names.
    Action(ActionKind),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The field, of the agent's spec, or of the plan's where it begins with `plan:`.
    pub field: &'static str,
    /// What its change does.
    pub effect: Effect,
    /// How, and what to know.
    pub note: &'static str,
}

const fn row(field: &'static str, effect: Effect, note: &'static str) -> Row {
    Row { field, effect, note }
}

const HOT_PUSH: Effect = Effect::Action(ActionKind::HotPush);
const REPLACE: Effect = Effect::Action(ActionKind::Replace);
const REFUSED: Effect = Effect::Action(ActionKind::Refused);

/// Every field.
pub const TABLE: &[Row] = &[
    row(
        "planRef",
        Effect::Nothing,
        "what follows from the other plan is done as if the agent's own spec asked for it",
    ),
    row(
        "power",
        Effect::Nothing,
        "the instance is stopped or started at once, as asked; token, certificate and data stay. A suspended agent that was never launched is not launched",
    ),
    row(
        "owner",
        HOT_PUSH,
        "the time zone goes into the config; USER.md is the agent's own after its first boot",
    ),
    row(
        "model",
        HOT_PUSH,
        "part of the config; the role's policy is put right first",
    ),
    row(
        "gateway.config",
        HOT_PUSH,
        "the bundle is rewritten, then the gateway gets it by config.apply and must name its hash; a Restart where a key takes a start",
    ),
    row(
        "gateway.version",
        REPLACE,
        "the binary is part of the launch; compared by the artifact's digest",
    ),
    row(
        "instance.type",
        Effect::Action(ActionKind::StopStart),
        "stop, change the type, start: id, private address and root disk stay",
    ),
    row(
        "instance.image",
        REPLACE,
        "by image id; also when the SSM parameter holds a newer one",
    ),
    row(
        "instance.subnetId",
        REPLACE,
        "in the zone of the data volume; a subnet of another zone is Refused, and the agent Stalled where its own spec names it",
    ),
    row(
        "storage.dataVolumeGiB",
        Effect::InPlace,
        "grows; a smaller size is refused by the API server, and ignored where it comes from the plan",
    ),
    row(
        "storage.kmsKeyId",
        REFUSED,
        "a volume keeps its key: make a new agent from a snapshot. Ignored where it comes from the plan",
    ),
    row(
        "storage.deletionPolicy",
        Effect::InPlace,
        "the volume's tag `skykoi:deletion-policy` follows",
    ),
    row(
        "storage.restoreFrom",
        REFUSED,
        "read once, when the volume is made. Ignored where it comes from the plan",
    ),
    row(
        "network.ingressCidrs",
        Effect::InPlace,
        "the instance gets the security group of the new rule set, then the old one goes",
    ),
    row(
        "network.publicAddress",
        REPLACE,
        "EC2 gives it at launch; compared with what the running instance has",
    ),
    row("workspace", Effect::Nothing, "seeded once, the agent's own afterwards"),
    row("idle", Effect::Nothing, "measured from now on"),
    row(
        "plan: aws",
        REFUSED,
        "an agent never leaves its account and region: Stalled with AccountChanged, and nothing is made anew",
    ),
    row(
        "plan: defaults",
        Effect::Nothing,
        "like the agent's own fields, with consent",
    ),
    row(
        "plan: limits",
        Effect::Nothing,
        "an agent that exceeds them is Stalled with NotAllowedByPlan and goes on running; limits.tools is part of the config",
    ),
    row(
        "plan: identity",
        Effect::InPlace,
        "the instance gets the other instance profile",
    ),
    row(
        "plan: network.subnetIds",
        REPLACE,
        "only where the agent's present subnet is no longer among them",
    ),
    row(
        "plan: network.operatorAccess",
        Effect::InPlace,
        "as network.ingressCidrs",
    ),
    row(
        "plan: network.probeAddress",
        Effect::Nothing,
        "the next probe goes there",
    ),
    row("plan: gateway.artifact", REPLACE, "compared by its digest"),
    row("plan: tools", HOT_PUSH, "part of the bundle"),
    row(
        "plan: boot, disruption, allowedNamespaces",
        Effect::Nothing,
        "apply from now on",
    ),
    row("plan: tags", Effect::InPlace, "put on what is there"),
    row(
        "the operator itself",
        Effect::Nothing,
        "a new version renders user data for the next launch only; a changed default counts as a plan's",
    ),
];

impl Effect {
    /// The word in the documentation.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "-",
            Self::InPlace => "in place",
            Self::Action(ActionKind::HotPush) => "HotPush",
            Self::Action(ActionKind::Restart) => "Restart",
            Self::Action(ActionKind::StopStart) => "StopStart",
            Self::Action(ActionKind::Replace) => "Replace",
            Self::Action(ActionKind::Refused) => "Refused",
        }
    }

    /// Whether the agent is interrupted.
    #[must_use]
    pub const fn interrupts(self) -> bool {
        matches!(
            self,
            Self::Action(ActionKind::Restart | ActionKind::StopStart | ActionKind::Replace)
        )
    }
}
