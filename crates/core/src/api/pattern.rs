//! How the lists under `KoiPlan.spec.limits` match: whole values, or prefixes that end in `*`.

/// Whether a list of limits lets a value through. No list allows everything, an empty list nothing.
///
/// ```
/// use koi_core::api::allows;
/// let types = vec!["t3.*".to_owned(), "m7i.large".to_owned()];
/// assert!(allows(Some(&types), "t3.small"));
/// assert!(!allows(Some(&types), "m7i.xlarge"));
/// assert!(allows(None, "m7i.xlarge"));
/// ```
#[must_use]
pub fn allows(patterns: Option<&[String]>, value: &str) -> bool {
    patterns.is_none_or(|list| list.iter().any(|pattern| matches(pattern, value)))
}

fn matches(pattern: &str, value: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == value, |prefix| value.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn a_list_allows_its_values_and_its_prefixes_only() {
        let list = ["t3.*", "m7i.large", "*"].map(str::to_owned);
        let cases = [
            (None, "anything", true),
            (Some(&list[..0]), "t3.small", false),
            (Some(&list[..1]), "t3.small", true),
            (Some(&list[..1]), "t3a.small", false),
            (Some(&list[..1]), "xt3.small", false),
            (Some(&list[1..2]), "m7i.large", true),
            (Some(&list[1..2]), "m7i.large2", false),
            (Some(&list[2..]), "m7i.large2", true),
        ];
        for (patterns, value, expected) in cases {
            assert_eq!(allows(patterns, value), expected, "{patterns:?} {value}");
        }
    }
}
