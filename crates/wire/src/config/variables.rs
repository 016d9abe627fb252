//! `${NAME}` in the strings of a config stands for an environment variable; `$${NAME}` is the text itself.

use serde_json::Value;

use super::{Issue, Path};

/// What the environment has under a name.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The document with variables in their places.
///
/// # Errors
/// Those that are not there.
pub fn fill(document: &Value, variables: Variables<'_>) -> Result<Value, Vec<Issue>> {
    let mut issues = Vec::new();
    let filled = walk(document, &Path::root(), variables, &mut issues);
    if issues.is_empty() { Ok(filled) } else { Err(issues) }
}

fn walk(value: &Value, path: &Path, variables: Variables<'_>, issues: &mut Vec<Issue>) -> Value {
    match value {
        Value::String(text) if text.contains("${") => Value::String(string(text, path, variables, issues)),
        // Deeper than any document may be: what is refused later need not be filled.
        Value::Array(_) | Value::Object(_) if path.segments().len() > 40 => value.clone(),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items
                .map(|(at, item)| walk(item, &path.index(at), variables, issues))
                .collect()
        }
        Value::Object(map) => {
            let entries = map.iter();
            entries
                .map(|(key, value)| (key.clone(), walk(value, &path.key(key), variables, issues)))
                .collect()
        }
        other => other.clone(),
    }
}

fn string(text: &str, path: &Path, variables: Variables<'_>, issues: &mut Vec<Issue>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (
            rest.get(..at).unwrap_or_default(),
            rest.get(at + 2..).unwrap_or_default(),
        );
        let name = after.split_once('}').filter(|(name, _)| is_name(name));
        let Some((name, tail)) = name else {
            // Something else that begins like one.
            filled.push_str(before);
            filled.push_str("${");
            rest = after;
            continue;
        };
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str(&format!("${{{name}}}"));
        } else {
            filled.push_str(before);
            match variables(name) {
                Some(value) => filled.push_str(&value),
                None => issues.push(Issue {
                    path: path.clone(),
                    reason: format!("the environment has no {name}"),
                    allowed: format!("a variable that is set, or $${{{name}}} for the text itself"),
                }),
            }
        }
        rest = tail;
    }
    filled.push_str(rest);
    filled
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variables(name: &str) -> Option<String> {
        (name == "A_1").then(|| "${B} value".to_owned())
    }

    #[test]
    fn variables_are_put_in_their_places() {
        let cases = [
            ("x ${A_1} y ${A_1}", "x ${B} value y ${B} value"),
            ("$${A_1} $$${A_1}", "${A_1} $${A_1}"),
            ("${a} ${} ${A ${1} $A_1 ${A_1", "${a} ${} ${A ${1} $A_1 ${A_1"),
            ("${ ${A_1}", "${ ${B} value"),
        ];
        for (text, expected) in cases {
            assert_eq!(fill(&json!([text]), &variables), Ok(json!([expected])), "{text}");
        }
        let issues = fill(&json!({"a": {"b": "${GONE}"}}), &variables).unwrap_err();
        assert_eq!(
            issues[0].to_string(),
            "a.b: the environment has no GONE; allowed: a variable that is set, or $${GONE} for the text itself"
        );
    }
}
