//! Whether a role has the policy that is wished: found out once for each change of what that hangs on.

use std::collections::BTreeSet;

use koi_core::observed::Place;
use koi_core::render::identity::{self, BundleScope};

use super::validate::digest;

/// What the wished policy is made of.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Wished<'a> {
    /// The installation.
    pub(super) cluster_id: &'a str,
    /// Account and region.
    pub(super) place: &'a Place,
    /// The models that the role allows.
    pub(super) models: &'a BTreeSet<String>,
    /// Whose bundle it may read.
    pub(super) scope: &'a BundleScope,
}

/// The last verdict, with a digest of all that it was found out from.
#[derive(Debug, Default)]
pub(super) struct Verdict(Option<(u64, bool)>);

impl Verdict {
    /// Whether `policy`, as the role has it, is the wished one: two documents are made and compared once for each change of either.
    pub(super) fn is_wished(&mut self, wished: Wished<'_>, policy: &str) -> bool {
        let from = digest(&(wished, policy));
        if let Some((_, same)) = self.0.filter(|(known, _)| *known == from) {
            return same;
        }
        let text = identity::role_policy(wished.cluster_id, wished.place, wished.models, wished.scope);
        let same = identity::policy_equal(policy, &text);
        self.0 = Some((from, same));
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wish whose parts can be turned one by one.
    #[derive(Clone)]
    struct Whole {
        cluster_id: String,
        place: Place,
        models: BTreeSet<String>,
        scope: BundleScope,
    }

    impl Whole {
        fn wished(&self) -> Wished<'_> {
            Wished {
                cluster_id: &self.cluster_id,
                place: &self.place,
                models: &self.models,
                scope: &self.scope,
            }
        }

        fn policy(&self) -> String {
            identity::role_policy(&self.cluster_id, &self.place, &self.models, &self.scope)
        }

        fn but(&self, turn: impl FnOnce(&mut Self)) -> Self {
            let mut other = self.clone();
            turn(&mut other);
            other
        }
    }

    fn ada() -> Whole {
        Whole {
            cluster_id: "c".into(),
            place: Place {
                account: "123456789012".into(),
                region: "us-east-1".into(),
            },
            models: BTreeSet::from(["amazon-bedrock/us.anthropic.claude-opus-4-6-v1".to_owned()]),
            scope: BundleScope::Agent("uid-ada".into()),
        }
    }

    /// Wishes that differ from one another in one thing each.
    fn wishes() -> Vec<Whole> {
        let ada = ada();
        vec![
            ada.clone(),
            ada.but(|whole| whole.cluster_id = "d".into()),
            ada.but(|whole| whole.place.account = "210987654321".into()),
            ada.but(|whole| whole.place.region = "eu-central-1".into()),
            ada.but(|whole| whole.models.extend(["amazon-bedrock/amazon.nova-pro-v1:0".to_owned()])),
            ada.but(|whole| whole.models.clear()),
            ada.but(|whole| whole.scope = BundleScope::Agent("uid-bob".into())),
            ada.but(|whole| whole.scope = BundleScope::SharedByInstance),
        ]
    }

    #[test]
    fn a_policy_that_drifts_is_seen_and_so_is_its_way_back() {
        let (ada, mut verdict) = (ada(), Verdict::default());
        let right = ada.policy();
        let wider = right.replace("bedrock:InvokeModel\"", "bedrock:*\"");
        assert_ne!(right, wider);
        let sight = [&right, &right, &wider, &wider, &right].map(|policy| verdict.is_wished(ada.wished(), policy));
        assert_eq!(sight, [true, true, false, false, true]);
        for broken in [
            "",
            "{}",
            "not a policy",
            r#"{"Version": "2012-10-17", "Statement": []}"#,
        ] {
            assert!(!verdict.is_wished(ada.wished(), broken), "{broken}");
        }
    }

    #[test]
    fn each_part_of_the_wish_counts_and_no_verdict_is_anothers() {
        let (wishes, mut verdict) = (wishes(), Verdict::default());
        for (asked, mine) in wishes.iter().enumerate() {
            for (had, other) in wishes.iter().enumerate() {
                // Whatever was asked just before, right or wrong, and by whom.
                assert!(verdict.is_wished(other.wished(), &other.policy()), "{had}");
                assert_eq!(
                    verdict.is_wished(mine.wished(), &other.policy()),
                    asked == had,
                    "{asked} with the policy of {had}"
                );
                assert!(verdict.is_wished(mine.wished(), &mine.policy()), "{asked}");
            }
        }
    }
}
