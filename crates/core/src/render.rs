//! What is rendered for a machine: user data, the gateway's configuration, IAM documents, the bundle.

pub mod bundle;
pub mod config;
pub mod configs;
pub mod identity;
pub mod network;
pub mod preview;
pub mod user_data;
