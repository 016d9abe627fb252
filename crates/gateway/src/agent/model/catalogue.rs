//! Which client answers for which model.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use koi_wire::config::GatewayConfig;

use super::{Bedrock, Echo, Fault, FaultClass, ModelClient, ModelEvent, OpenAi, Request, Scripted};
use crate::secret::Secrets;

/// The clients, by provider. They are built when they are first asked.
pub(crate) struct Catalogue {
    bedrock: Bedrock,
    openai: Option<OpenAi>,
    script: Option<PathBuf>,
    scripted: OnceLock<Result<Scripted, String>>,
}

impl Catalogue {
    /// What the config names.
    pub(crate) fn from_config(config: &GatewayConfig, secrets: Secrets) -> Self {
        let providers = config.models.as_ref().and_then(|models| models.providers.as_ref());
        let scripted = providers.and_then(|providers| providers.scripted.as_ref());
        Self {
            bedrock: Bedrock::from_config(providers.and_then(|providers| providers.amazon_bedrock.as_ref())),
            openai: providers
                .and_then(|providers| providers.openai.as_ref())
                .map(|config| OpenAi::from_config(config, secrets)),
            script: scripted.map(|scripted| PathBuf::from(&scripted.file)),
            scripted: OnceLock::new(),
        }
    }

    /// Who answers for a model, `provider/id`.
    pub(crate) fn client(&self, model: &str) -> Arc<dyn ModelClient> {
        match (model.split_once('/').map(|(provider, _)| provider), &self.script) {
            (Some("scripted"), Some(path)) => match self.scripted.get_or_init(|| read(path)) {
                Ok(scripted) => Arc::new(scripted.clone()),
                Err(fault) => Arc::new(Broken(fault.clone())),
            },
            (Some("scripted"), None) => Arc::new(Broken("models.providers.scripted.file is not set".to_owned())),
            (Some("amazon-bedrock"), _) => Arc::new(self.bedrock.clone()),
            (Some("openai"), _) => match &self.openai {
                Some(openai) => Arc::new(openai.clone()),
                None => Arc::new(Broken("models.providers.openai is not set".to_owned())),
            },
            (Some("echo"), _) => Arc::new(Echo),
            _ => Arc::new(Broken(format!(
                "nobody offers the model {model:?}; allowed: amazon-bedrock/<model or inference profile id>, openai/<model>"
            ))),
        }
    }
}

fn read(path: &std::path::Path) -> Result<Scripted, String> {
    let text = std::fs::read_to_string(path).map_err(|fault| format!("{}: {fault}", path.display()))?;
    Scripted::parse(&text).map_err(|fault| format!("{}: {fault}", path.display()))
}

/// One that is not set up.
struct Broken(String);

impl ModelClient for Broken {
    fn ask(&self, _: Request) -> BoxStream<'static, ModelEvent> {
        let fault = Fault::new(FaultClass::Denied, self.0.clone());
        stream::iter([ModelEvent::Failed(fault)]).boxed()
    }
}
