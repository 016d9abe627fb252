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

/// What of a selector no label can ever be, for people; the API refuses it in new plans, not in those that are stored.
#[must_use]
pub fn fault(selector: &LabelSelector) -> Option<String> {
    let requirements = || selector.match_expressions.iter().flatten();
    let equal = || selector.match_labels.iter().flatten();
    let mut keys = equal()
        .map(|(key, _)| key)
        .chain(requirements().map(|asked| &asked.key));
    if let Some(key) = keys.find(|key| !is_key(key)) {
        return Some(format!("{key:?} is no label key"));
    }
    let listed = requirements().flat_map(|asked| asked.values.iter().flatten());
    let mut values = equal().map(|(_, value)| value).chain(listed);
    values
        .find(|value| !value.is_empty() && !is_name(value))
        .map(|value| format!("{value:?} is no label value"))
}

fn is_key(key: &str) -> bool {
    let (domain, name) = key
        .split_once('/')
        .map_or((None, key), |(domain, name)| (Some(domain), name));
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    is_name(name) && domain.is_none_or(|domain| domain.len() <= 253 && is_framed(domain, lower, "-."))
}

fn is_name(name: &str) -> bool {
    name.len() <= 63 && is_framed(name, |c| c.is_ascii_alphanumeric(), "-_.")
}

/// Not empty, `plain` at both ends, and within also what is in `more`.
fn is_framed(text: &str, plain: impl Fn(char) -> bool, more: &str) -> bool {
    text.starts_with(&plain) && text.ends_with(&plain) && text.chars().all(|c| plain(c) || more.contains(c))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

    use super::{admits, fault};

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

    #[test]
    fn what_no_namespace_can_have_is_named() {
        let long = "l".repeat(64);
        let domain = format!("{}/a", "d".repeat(254));
        for key in [
            "a b",
            "",
            "-a",
            "a_",
            "/a",
            "a/",
            "A.example/a",
            "a/b/c",
            "ä",
            long.as_str(),
            domain.as_str(),
        ] {
            let expected = Some(format!("{key:?} is no label key"));
            assert_eq!(fault(&expression(key, "Exists", &[])), expected);
            let equal = LabelSelector {
                match_labels: Some(BTreeMap::from([(key.to_owned(), String::new())])),
                match_expressions: None,
            };
            assert_eq!(fault(&equal), expected);
        }
        for value in ["a b", "-", "a.", "a/b", long.as_str()] {
            let expected = Some(format!("{value:?} is no label value"));
            assert_eq!(fault(&expression("tier", "In", &["gold", value])), expected);
            let equal = LabelSelector {
                match_labels: Some(BTreeMap::from([("tier".to_owned(), value.to_owned())])),
                match_expressions: None,
            };
            assert_eq!(fault(&equal), expected);
        }
        let (key, domain) = ("l".repeat(63), "d".repeat(253));
        for key in [
            "a",
            "A_b.c-9",
            "kubernetes.io/metadata.name",
            key.as_str(),
            &format!("{domain}/{key}"),
        ] {
            assert_eq!(
                fault(&expression(key, "In", &["", "A_b.c-9", &"v".repeat(63)])),
                None,
                "{key}"
            );
        }
        assert_eq!(fault(&LabelSelector::default()), None);
    }
}
