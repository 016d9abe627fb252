//! The policy of the product, pure: no runtime, no SDK, no clock, no environment.
//!
//! `Desired` (the wish) and `Observed` (what is known) go into [`plan::plan`]; out come steps, a verdict and when to look again.

pub mod api;
pub mod budget;
pub mod change;
pub mod desired;
pub mod fleet;
pub mod gist;
pub mod launch_calls;
pub mod names;
pub mod observed;
pub mod offering;
pub mod plan;
pub mod plan_status;
pub mod reap;
pub mod refusal;
pub mod render;
pub mod rotation;
pub mod status;
pub mod uid;
