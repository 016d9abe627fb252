//! What happens without anybody asking: jobs by the clock, heartbeats, and when the machine must be awake for them.

mod cron_expr;
mod next_fire;
