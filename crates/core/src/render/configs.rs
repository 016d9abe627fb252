//! Configs that were rendered lately: the same wish always gives the same document, and agents of one plan mostly wish the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::config::{Refused, Wish, document};
use crate::desired::Document;

/// As many are kept; with one more, all are forgotten and rendered anew when they are asked for.
const KEPT: usize = 256;

/// A config as it is kept for its agents.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// The document.
    pub document: Document,
    /// SHA-256 of its canonical JSON.
    pub sha256: String,
    /// SHA-256 of what of it a running gateway takes over with a start only.
    pub restart_sha256: String,
}

/// The configs, by what they were rendered from. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct Configs(Arc<Mutex<BTreeMap<String, Arc<Config>>>>);

/// What is kept makes no difference to what is answered.
impl PartialEq for Configs {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Configs {
    /// The config of a wish, rendered when it is not known.
    ///
    /// # Errors
    /// As [`document`].
    pub fn of(&self, wish: &Wish<'_>, overrides: &Map<String, Value>) -> Result<Arc<Config>, Refused> {
        let Wish {
            model,
            fallbacks,
            time_zone,
            tools,
        } = wish;
        // Text can always be written of these.
        let from = serde_json::to_string(&(model, fallbacks, time_zone, tools, overrides)).unwrap_or_default();
        if let Some(known) = self.kept().get(&from).filter(|_| !from.is_empty()) {
            return Ok(Arc::clone(known));
        }
        let tree = document(wish, overrides)?;
        let config = Arc::new(Config {
            document: Document::of(&tree),
            sha256: koi_wire::config::digest::sha256(&tree),
            restart_sha256: koi_wire::config::restart_sha256(&tree),
        });
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(from, Arc::clone(&config));
        Ok(config)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Config>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::ToolLimits;

    fn overrides(level: &str) -> Map<String, Value> {
        let tree = json!({ "logging": { "level": level } });
        tree.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn what_is_kept_makes_no_difference() {
        let (known, wish) = (Configs::default(), ["amazon-bedrock/a".to_owned()]);
        let wish = Wish {
            model: "amazon-bedrock/m",
            fallbacks: &wish,
            time_zone: None,
            tools: None,
        };
        known.of(&wish, &Map::new()).unwrap();
        assert_eq!(known, Configs::default());
    }

    #[test]
    fn each_part_of_a_wish_makes_another_config_and_the_same_wish_the_same_one() {
        let configs = Configs::default();
        let (one, two) = (["amazon-bedrock/a".to_owned()], ["amazon-bedrock/b".to_owned()]);
        let limits = ToolLimits {
            deny: Some(vec!["browser".into()]),
            ..ToolLimits::default()
        };
        let plain = Wish {
            model: "amazon-bedrock/m",
            fallbacks: &one,
            time_zone: None,
            tools: None,
        };
        let wishes = [
            (plain, "info"),
            (plain, "debug"),
            (
                Wish {
                    model: "amazon-bedrock/n",
                    ..plain
                },
                "info",
            ),
            (
                Wish {
                    fallbacks: &two,
                    ..plain
                },
                "info",
            ),
            (
                Wish {
                    time_zone: Some("Europe/Vienna"),
                    ..plain
                },
                "info",
            ),
            (
                Wish {
                    tools: Some(&limits),
                    ..plain
                },
                "info",
            ),
        ];
        let all = || wishes.map(|(wish, level)| configs.of(&wish, &overrides(level)).unwrap());
        let (first, second) = (all(), all());
        for (nth, config) in first.iter().enumerate() {
            assert!(Arc::ptr_eq(config, &second[nth]), "{nth} is kept");
            let (wish, level) = wishes[nth];
            let fresh = document(&wish, &overrides(level)).unwrap();
            assert_eq!(config.document.value(), fresh, "{nth} is what its wish renders");
            assert_eq!(config.sha256, koi_wire::config::digest::sha256(&fresh));
            assert_eq!(config.restart_sha256, koi_wire::config::restart_sha256(&fresh));
            assert!(first[..nth].iter().all(|other| other.sha256 != config.sha256), "{nth}");
        }
    }

    #[test]
    fn what_is_refused_is_refused_again_and_not_more_than_so_many_are_kept() {
        let configs = Configs::default();
        let wish = Wish {
            model: "amazon-bedrock/m",
            fallbacks: &[],
            time_zone: None,
            tools: None,
        };
        for _ in 0..2 {
            assert!(configs.of(&wish, &overrides("no such level")).is_err());
        }
        let models: Vec<String> = (0..=KEPT).map(|n| format!("amazon-bedrock/m-{n}")).collect();
        for model in &models {
            configs.of(&Wish { model, ..wish }, &Map::new()).unwrap();
            assert!(configs.kept().len() <= KEPT);
        }
    }
}
