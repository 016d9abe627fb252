//! Names of the protocol: scopes, roles, methods, events, error codes, close codes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a connected operator client may do. `write` implies `read`, `admin` implies all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// Look.
    #[serde(rename = "operator.read")]
    Read,
    /// Talk to the agent.
    #[serde(rename = "operator.write")]
    Write,
    /// Answer the agent's requests for approval.
    #[serde(rename = "operator.approvals")]
    Approvals,
    /// Admit devices and nodes.
    #[serde(rename = "operator.pairing")]
    Pairing,
    /// Answer the agent's questions.
    #[serde(rename = "operator.questions")]
    Questions,
    /// Speech.
    #[serde(rename = "operator.talk")]
    Talk,
    /// Speech, with its provider secrets.
    #[serde(rename = "operator.talk.secrets")]
    TalkSecrets,
    /// Everything.
    #[serde(rename = "operator.admin")]
    Admin,
}

impl Scope {
    /// All scopes, in the order in which they are listed.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Write,
        Self::Approvals,
        Self::Pairing,
        Self::Questions,
        Self::Talk,
        Self::TalkSecrets,
        Self::Admin,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "operator.read",
            Self::Write => "operator.write",
            Self::Approvals => "operator.approvals",
            Self::Pairing => "operator.pairing",
            Self::Questions => "operator.questions",
            Self::Talk => "operator.talk",
            Self::TalkSecrets => "operator.talk.secrets",
            Self::Admin => "operator.admin",
        }
    }

    /// The scope with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    /// Does holding `self` allow what needs `needed`?
    #[must_use]
    pub fn covers(self, needed: Self) -> bool {
        self == needed
            || self == Self::Admin
            || (self == Self::Write && matches!(needed, Self::Read | Self::Talk))
            || (self == Self::TalkSecrets && needed == Self::Talk)
    }

    /// Does any of `held` allow what needs `needed`?
    #[must_use]
    pub fn any_covers(held: &[Self], needed: Self) -> bool {
        held.iter().any(|scope| scope.covers(needed))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Method names that this product uses.
pub mod method {
    /// The first request on every socket.
    pub const CONNECT: &str = "connect";
    /// Is the gateway well?
    pub const HEALTH: &str = "health";
    /// What is it doing?
    pub const STATUS: &str = "status";
    /// Who is connected?
    pub const SYSTEM_PRESENCE: &str = "system-presence";
    /// The config document, redacted.
    pub const CONFIG_GET: &str = "config.get";
    /// A whole config on top of the one that was seen.
    pub const CONFIG_APPLY: &str = "config.apply";
    /// Our addition: puts the files of `spec.workspace` in place, once.
    pub const WORKSPACE_SEED: &str = "koi.workspace.seed";
    /// Our addition: what a client has missed of a session since it was last connected.
    pub const EVENTS_SINCE: &str = "koi.events.since";
    /// Our addition: fetches the bundle anew, for a rotation or a new config.
    pub const BUNDLE_REFRESH: &str = "koi.bundle.refresh";
}

/// Event names that this product uses.
pub mod event {
    /// The server's first word; carries the nonce.
    pub const CHALLENGE: &str = "connect.challenge";
    /// I am still here.
    pub const TICK: &str = "tick";
    /// Somebody came or went.
    pub const PRESENCE: &str = "presence";
    /// The health payload changed.
    pub const HEALTH: &str = "health";
    /// The gateway is about to stop.
    pub const SHUTDOWN: &str = "shutdown";
    /// What a run does: lifecycle, text, tools.
    pub const AGENT: &str = "agent";
    /// What a run says.
    pub const CHAT: &str = "chat";
    /// A session has one more message.
    pub const SESSION_MESSAGE: &str = "session.message";
    /// The list of sessions changed.
    pub const SESSIONS_CHANGED: &str = "sessions.changed";
    /// A tool works in a session.
    pub const SESSION_TOOL: &str = "session.tool";
    /// A scheduled job was changed or run.
    pub const CRON: &str = "cron";
    /// A heartbeat was sent or skipped.
    pub const HEARTBEAT: &str = "heartbeat";
    /// Another config is in force.
    pub const CONFIG_CHANGED: &str = "config.changed";
    /// A device waits to be let in.
    pub const DEVICE_PAIR_REQUESTED: &str = "device.pair.requested";
    /// Somebody said yes or no to it.
    pub const DEVICE_PAIR_RESOLVED: &str = "device.pair.resolved";
    /// A node waits to be let in.
    pub const NODE_PAIR_REQUESTED: &str = "node.pair.requested";
    /// Somebody said yes or no to it.
    pub const NODE_PAIR_RESOLVED: &str = "node.pair.resolved";
    /// A node is to do something.
    pub const NODE_INVOKE_REQUEST: &str = "node.invoke.request";
    /// A node tells something.
    pub const NODE_EVENT: &str = "node.event";
    /// A command waits for approval.
    pub const EXEC_APPROVAL_REQUESTED: &str = "exec.approval.requested";
    /// Somebody decided about it.
    pub const EXEC_APPROVAL_RESOLVED: &str = "exec.approval.resolved";
    /// A skill is used from now on, or not any more.
    pub const SKILLS_CHANGED: &str = "skills.changed";
    /// The gateway is held still for a snapshot, or goes on.
    pub const GATEWAY_SUSPENSION: &str = "gateway.suspension";

    /// All of them, as a hello lists them.
    pub const ALL: &[&str] = &[
        CHALLENGE,
        TICK,
        PRESENCE,
        HEALTH,
        SHUTDOWN,
        AGENT,
        CHAT,
        SESSION_MESSAGE,
        SESSIONS_CHANGED,
        SESSION_TOOL,
        CRON,
        HEARTBEAT,
        CONFIG_CHANGED,
        DEVICE_PAIR_REQUESTED,
        DEVICE_PAIR_RESOLVED,
        NODE_PAIR_REQUESTED,
        NODE_PAIR_RESOLVED,
        NODE_INVOKE_REQUEST,
        NODE_EVENT,
        EXEC_APPROVAL_REQUESTED,
        EXEC_APPROVAL_RESOLVED,
        SKILLS_CHANGED,
        GATEWAY_SUSPENSION,
    ];
}

/// Top-level error codes.
pub mod code {
    /// The request makes no sense, or its credentials are wrong.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
    /// A scope is missing.
    pub const FORBIDDEN: &str = "FORBIDDEN";
    /// The device is not (sufficiently) paired.
    pub const NOT_PAIRED: &str = "NOT_PAIRED";
    /// Try again later.
    pub const UNAVAILABLE: &str = "UNAVAILABLE";
}

/// Codes in `error.details.code`.
pub mod detail {
    /// No usable credential at all.
    pub const AUTH_TOKEN_MISSING: &str = "AUTH_TOKEN_MISSING";
    /// The token is wrong.
    pub const AUTH_TOKEN_MISMATCH: &str = "AUTH_TOKEN_MISMATCH";
    /// The gateway's own token cannot be read.
    pub const AUTH_TOKEN_NOT_CONFIGURED: &str = "AUTH_TOKEN_NOT_CONFIGURED";
    /// The device's own token is wrong, or was taken away.
    pub const AUTH_DEVICE_TOKEN_MISMATCH: &str = "AUTH_DEVICE_TOKEN_MISMATCH";
    /// A token for first pairing is wrong.
    pub const AUTH_BOOTSTRAP_TOKEN_INVALID: &str = "AUTH_BOOTSTRAP_TOKEN_INVALID";
    /// Too many failures from this address.
    pub const AUTH_RATE_LIMITED: &str = "AUTH_RATE_LIMITED";
    /// This role cannot connect in this way.
    pub const AUTH_UNAUTHORIZED: &str = "AUTH_UNAUTHORIZED";
    /// No common protocol version.
    pub const PROTOCOL_MISMATCH: &str = "PROTOCOL_MISMATCH";
    /// A device identity is needed.
    pub const DEVICE_IDENTITY_REQUIRED: &str = "DEVICE_IDENTITY_REQUIRED";
    /// A device identity is needed for a client of the control page's kind.
    pub const CONTROL_UI_DEVICE_IDENTITY_REQUIRED: &str = "CONTROL_UI_DEVICE_IDENTITY_REQUIRED";
    /// A browser page from elsewhere.
    pub const CONTROL_UI_ORIGIN_NOT_ALLOWED: &str = "CONTROL_UI_ORIGIN_NOT_ALLOWED";
    /// The device block is incomplete.
    pub const DEVICE_AUTH_INVALID: &str = "DEVICE_AUTH_INVALID";
    /// The id is not that of the key.
    pub const DEVICE_AUTH_DEVICE_ID_MISMATCH: &str = "DEVICE_AUTH_DEVICE_ID_MISMATCH";
    /// `signedAt` is too far from now.
    pub const DEVICE_AUTH_SIGNATURE_EXPIRED: &str = "DEVICE_AUTH_SIGNATURE_EXPIRED";
    /// The nonce is empty.
    pub const DEVICE_AUTH_NONCE_REQUIRED: &str = "DEVICE_AUTH_NONCE_REQUIRED";
    /// The nonce is not this socket's.
    pub const DEVICE_AUTH_NONCE_MISMATCH: &str = "DEVICE_AUTH_NONCE_MISMATCH";
    /// The signature does not fit.
    pub const DEVICE_AUTH_SIGNATURE_INVALID: &str = "DEVICE_AUTH_SIGNATURE_INVALID";
    /// The public key is not an Ed25519 key.
    pub const DEVICE_AUTH_PUBLIC_KEY_INVALID: &str = "DEVICE_AUTH_PUBLIC_KEY_INVALID";
    /// Pairing, or more of it, is needed.
    pub const PAIRING_REQUIRED: &str = "PAIRING_REQUIRED";
    /// A scope is missing.
    pub const MISSING_SCOPE: &str = "MISSING_SCOPE";
}

/// WebSocket close codes.
pub mod close {
    /// Handshake timeout, or a first frame that is not JSON.
    pub const NORMAL: u16 = 1000;
    /// No common protocol version.
    pub const PROTOCOL: u16 = 1002;
    /// Authentication, pairing, slow consumer, repeated unauthorised calls.
    pub const POLICY: u16 = 1008;
    /// Frame too large.
    pub const TOO_BIG: u16 = 1009;
    /// Our own fault.
    pub const INTERNAL: u16 = 1011;
    /// Restart or shutdown.
    pub const RESTART: u16 = 1012;
    /// Starting, suspended or draining.
    pub const TRY_LATER: u16 = 1013;
    /// What the client proved itself with does not count any more.
    pub const AUTHORIZATION_CHANGED: u16 = 4001;
}
