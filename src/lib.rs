//! The operator's rooms. `main` puts them together; everything else is here so that tests can too.

pub mod accounts;
pub mod apiserver;
pub mod args;
pub mod aws;
pub mod budget;
pub mod clock;
pub mod cloud;
pub mod controller;
pub mod cpu;
pub mod device;
pub mod fleet;
pub mod gate;
pub mod janitor;
pub mod lease;
pub mod log;
pub mod lookups;
pub mod metrics;
pub mod plans;
pub mod probe;
pub mod reaper;
pub mod render;
pub mod run;
pub mod serve;
