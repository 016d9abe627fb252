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
use crate::secret::Secrets;
use crate::server;
use crate::server::hub::Hub;
use crate::session::{Content, Sessions};

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
            files: settings.workspace.clone(),
            clock: Arc::clone(&settings.clock),
            book: Arc::new(sessions.clone()),
            voice: Arc::new(HubVoice(Arc::clone(hub))),
            models: models(config, settings),
            tools: Arc::clone(tools),
            workspace: Some(workspace(settings, config)),
            settings: Settings::from_config(config),
        })
    }

    /// Another config is in force, from the next turn on. Runs that go on keep what they began with.
    pub(crate) fn configure(&self, before: &GatewayConfig, config: &GatewayConfig, settings: &server::Settings) {
        // Clients of models keep connections; they are made anew only for what concerns them.
        let changed = before.models != config.models;
        let workspace = workspace(settings, config);
        let models = changed.then(|| models(config, settings));
        self.inner.configure(Settings::from_config(config), workspace, models);
    }
}

fn workspace(settings: &server::Settings, config: &GatewayConfig) -> Workspace {
    Workspace::new(&settings.workspace, settings.shelf(config), config, &settings.zone)
}

fn models(config: &GatewayConfig, settings: &server::Settings) -> Models {
    let secrets = Secrets::new(&settings.root, settings.variables);
    let catalogue = Catalogue::from_config(config, secrets);
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

    fn ask<'a>(&'a self, key: &'a str, content: Content) -> BoxFuture<'a, Result<String, String>> {
        self.inner.ask_aside(key, content).boxed()
    }
}
