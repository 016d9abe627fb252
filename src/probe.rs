//! The probe: goes to the gateway the way a user goes, and says at which hop the way breaks.
//!
//! TCP to 443, TLS with the agent's own certificate, WebSocket upgrade through nginx, challenge, token and device key, hello-ok,
//! `health`, close. One connection for each probe, none is kept.

mod answers;
pub mod config;
pub mod dial;
pub mod pin;
mod refusals;
pub mod rounds;
pub mod talk;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use koi_core::observed::{GatewayHealth, Hop, ProbeFailure};
use koi_wire::Redacted;
use koi_wire::health::Usage;
use koi_wire::seed::{SeedParams, SeedResult};

use crate::device::DeviceKey;
use config::{Config, Configured, PushError};
use pin::Pin;
use talk::Purpose;

/// The port of the way in.
pub const HTTPS: u16 = 443;

/// A gateway to be asked.
#[derive(Clone, Debug)]
pub struct Target {
    /// The instance that it runs on.
    pub instance_id: String,
    /// When EC2 started it: what a probe says counts for this boot alone.
    pub launch_time: Option<Timestamp>,
    /// Where it may be reached, in the order in which to try.
    pub addresses: Box<[IpAddr]>,
    /// The port; [`HTTPS`] but in tests.
    pub port: u16,
    /// The certificate that must answer.
    pub pin: Pin,
    /// The gateway token.
    pub token: Redacted,
    /// Token or certificate have just changed, and the gateway may not have them yet: where it refuses the token, our own device key vouches
    /// for the connection, so that a gateway that is well is not called unwell.
    pub in_handover: bool,
}

impl Target {
    /// Whether the same gateway is asked in the same way.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.instance_id == other.instance_id
            && self.launch_time == other.launch_time
            && self.addresses == other.addresses
            && self.port == other.port
            && self.pin == other.pin
            && self.in_handover == other.in_handover
            && self.token == other.token
    }
}

/// How patient a probe is with each hop.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For TCP.
    pub connect: Duration,
    /// For each later hop.
    pub hop: Duration,
}

impl Patience {
    /// With a gateway that was well.
    pub const SETTLED: Self = Self {
        connect: Duration::from_secs(3),
        hop: Duration::from_secs(5),
    };
    /// With one that boots: what does not answer now is asked again shortly.
    pub const BOOTING: Self = Self {
        connect: Duration::from_millis(1000),
        hop: Duration::from_millis(2500),
    };
}

/// Asks how the gateway is.
///
/// # Errors
/// The hop that is broken.
pub async fn ask(target: &Target, device: &DeviceKey, patience: Patience) -> Result<GatewayHealth, ProbeFailure> {
    look(target, device, patience, true)
        .await
        .outcome
        .map(|seen| seen.health)
}

/// What a look found.
#[derive(Debug)]
pub struct Look {
    /// How the gateway is, or the hop that is broken.
    pub outcome: Result<Seen, ProbeFailure>,
    /// It was shown our token, and refused it.
    pub refused: bool,
    /// It takes the Secret's token, and has the Secret's own certificate.
    pub has_taken: bool,
}

/// What a gateway says of itself.
#[derive(Debug)]
pub struct Seen {
    /// How it is.
    pub health: GatewayHealth,
    /// What the models cost so far.
    pub usage: Option<Usage>,
    /// Its certificate is the Secret's first, not one that this took the place of.
    own_certificate: bool,
}

/// The same, with more of what was found. `show`: the token may be shown where the device key would do for now, too.
pub async fn look(target: &Target, device: &DeviceKey, patience: Patience, show: bool) -> Look {
    let vouched = |outcome, refused| Look {
        outcome,
        refused,
        has_taken: false,
    };
    if target.in_handover && !show {
        return vouched(look_as(target, device, patience, Purpose::Vouch).await, false);
    }
    let outcome = look_as(target, device, patience, Purpose::Look).await;
    let refused = outcome.as_ref().is_err_and(talk::is_refused);
    if refused && target.in_handover {
        return vouched(look_as(target, device, patience, Purpose::Vouch).await, true);
    }
    Look {
        has_taken: outcome.as_ref().is_ok_and(|seen| seen.own_certificate),
        outcome,
        refused,
    }
}

async fn look_as(
    target: &Target,
    device: &DeviceKey,
    patience: Patience,
    purpose: Purpose,
) -> Result<Seen, ProbeFailure> {
    let mut socket = dial::reach(target, patience).await?;
    let own_certificate = dial::presents(&socket, &target.pin);
    let hello = talk::greet(&mut socket, target, device, purpose, patience).await?;
    let answer = talk::health(&mut socket, hello, patience).await;
    talk::part(socket).await;
    answer.map(|(health, usage)| Seen {
        health,
        usage,
        own_certificate,
    })
}

/// Hands over workspace files.
///
/// # Errors
/// The hop that is broken, or what the gateway says against it.
pub async fn seed(target: &Target, device: &DeviceKey, files: &SeedParams) -> Result<SeedResult, ProbeFailure> {
    let patience = Patience {
        hop: Duration::from_secs(10),
        ..Patience::SETTLED
    };
    let mut socket = dial::reach(target, patience).await?;
    talk::greet(&mut socket, target, device, Purpose::Change, patience).await?;
    let result = talk::seed(&mut socket, files, patience).await;
    talk::part(socket).await;
    result
}

/// Tells the gateway that a new bundle waits for it.
///
/// # Errors
/// The hop that is broken, or what the gateway says against it. A changed certificate is one of them: a gateway that cannot be told
/// from another is not told anything; its own timer fetches the bundle.
pub async fn refresh(target: &Target, device: &DeviceKey) -> Result<(), ProbeFailure> {
    let patience = Patience::SETTLED;
    let mut socket = dial::reach(target, patience).await?;
    talk::greet(&mut socket, target, device, Purpose::Refresh, patience).await?;
    let result = talk::refresh(&mut socket, patience).await;
    talk::part(socket).await;
    result
}

/// Hands over a config, unless the gateway has it.
///
/// # Errors
/// The hop that is broken, or what the gateway says against the config.
pub async fn configure(target: &Target, device: &DeviceKey, config: &Config<'_>) -> Result<Configured, PushError> {
    let patience = Patience::SETTLED;
    let mut socket = dial::reach(target, patience).await?;
    talk::greet(&mut socket, target, device, Purpose::Refresh, patience).await?;
    let result = config::push(&mut socket, config, patience).await;
    talk::part(socket).await;
    result
}

/// A failure at a hop.
pub(crate) fn broken(hop: Hop, message: impl Into<String>) -> ProbeFailure {
    ProbeFailure {
        hop,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests;
