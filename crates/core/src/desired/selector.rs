//! Label selectors: which namespaces a plan admits.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Whether the labels satisfy the selector. An operator word that we do not know admits nobody.
#[must_use]
pub fn admits(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|requirement| holds(requirement, labels))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let listed = || value.is_some_and(|value| requirement.values.iter().flatten().any(|allowed| allowed == value));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

    use super::admits;

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        let values = (!values.is_empty()).then(|| values.iter().map(|value| (*value).to_owned()).collect());
        LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values,
            }]),
            match_labels: None,
        }
    }

    #[test]
    fn selectors_admit_as_kubernetes_does() {
        let labels = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        let equal = |value: &str| LabelSelector {
            match_labels: Some(BTreeMap::from([("tier".to_owned(), value.to_owned())])),
            match_expressions: None,
        };
        let cases = [
            (LabelSelector::default(), true),
            (equal("gold"), true),
            (equal("silver"), false),
            (expression("tier", "In", &["gold", "silver"]), true),
            (expression("tier", "In", &["silver"]), false),
            (expression("tier", "NotIn", &["silver"]), true),
            (expression("other", "NotIn", &["gold"]), true),
            (expression("tier", "Exists", &[]), true),
            (expression("other", "Exists", &[]), false),
            (expression("other", "DoesNotExist", &[]), true),
            (expression("tier", "Near", &["gold"]), false),
        ];
        for (selector, expected) in cases {
            assert_eq!(admits(&selector, &labels), expected, "{selector:?}");
        }
    }
}
