//! Puts conversations together from what the gateway is made of.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use koi_wire::config::GatewayConfig;

use super::{Accepted, Conversations, HubVoice, Inbound, Models, Outcome, Parts, Refused, Settings};
use crate::agent::model::Catalogue;
use crate::agent::prompt::Workspace;
use crate::agent::tool::ToolBox;
use crate::schedule::Talk;
use crate::server;
use crate::server::hub::Hub;
use crate::session::Sessions;

impl Conversations {
    /// The conversations of a gateway.
    pub(crate) fn assemble(
        settings: &server::Settings,
        hub: &Arc<Hub>,
        sessions: &Sessions,
        tools: &Arc<dyn ToolBox>,
    ) -> Self {
        let config = &settings.loaded.config;
        Self::open(Parts {
            state_dir: settings.state_dir.clone(),
            clock: Arc::clone(&settings.clock),
            book: Arc::new(sessions.clone()),
            voice: Arc::new(HubVoice(Arc::clone(hub))),
            models: models(config),
            tools: Arc::clone(tools),
            workspace: Some(Workspace::new(&settings.workspace, config, &settings.zone)),
            settings: Settings::from_config(config),
        })
    }

    /// Another config is in force, from the next turn on. Runs that go on keep what they began with.
    pub(crate) fn configure(&self, before: &GatewayConfig, config: &GatewayConfig, settings: &server::Settings) {
        // Clients of models keep connections; they are made anew only for what concerns them.
        let changed = before.models != config.models;
        let workspace = Workspace::new(&settings.workspace, config, &settings.zone);
        let models = changed.then(|| models(config));
        self.inner.configure(Settings::from_config(config), workspace, models);
    }
}

fn models(config: &GatewayConfig) -> Models {
    let catalogue = Catalogue::from_config(config);
    Arc::new(move |model| catalogue.client(model))
}

impl Talk for Conversations {
    fn submit(&self, mut inbound: Inbound, fresh: bool) -> BoxFuture<'_, Result<Accepted, Refused>> {
        inbound.options.fresh = fresh;
        Self::submit(self, inbound).boxed()
    }

    fn wait<'a>(&'a self, run_id: &'a str, timeout: Duration) -> BoxFuture<'a, Option<Outcome>> {
        Self::wait(self, run_id, timeout).boxed()
    }

    fn is_busy(&self, key: &str) -> bool {
        Self::is_busy(self, key)
    }

    fn announce<'a>(&'a self, key: &'a str, label: &'a str, text: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Self::announce(self, key, label, text).boxed()
    }

    fn said(&self, key: &str) -> Option<(String, String)> {
        Self::in_flight(self, key)
    }

    fn note(&self, key: &str, text: &str) {
        Self::note(self, key, text);
    }
}
