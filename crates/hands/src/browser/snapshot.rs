//! A page in words: what a screen reader would say, with a number on each thing that one can act on.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::text;

/// Characters of one name or value.
const MOST_WORDS: usize = 300;

/// How deep lines are indented at most.
const MOST_DEPTH: usize = 12;

/// How deep a page is looked at.
const MOST_LEVELS: usize = 400;

/// A page in words, and what its numbers stand for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) lines: Vec<String>,
    /// Backend ids of nodes, by number.
    pub(super) refs: BTreeMap<String, i64>,
}

/// Things that one can act on.
const ACTIVE: [&str; 17] = [
    "button",
    "checkbox",
    "combobox",
    "link",
    "listbox",
    "menuitem",
    "menuitemcheckbox",
    "menuitemradio",
    "option",
    "radio",
    "searchbox",
    "slider",
    "spinbutton",
    "switch",
    "tab",
    "textbox",
    "treeitem",
];

/// Things that say nothing of their own.
const SILENT: [&str; 6] = [
    "none",
    "generic",
    "InlineTextBox",
    "LineBreak",
    "presentation",
    "StaticText",
];

/// Reads what `Accessibility.getFullAXTree` gives.
pub(super) fn read(tree: &Value) -> Snapshot {
    let nodes: BTreeMap<&str, &Value> = tree["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["nodeId"].as_str()?, node)))
        .collect();
    let root = tree["nodes"].as_array().and_then(|nodes| nodes.first());
    let mut reading = Reading {
        nodes,
        snapshot: Snapshot::default(),
        left: 20_000,
    };
    if let Some(root) = root {
        reading.node(root, 0, 0);
    }
    reading.snapshot
}

struct Reading<'a> {
    nodes: BTreeMap<&'a str, &'a Value>,
    snapshot: Snapshot,
    /// Nodes that are still looked at: a page may claim to be its own child.
    left: usize,
}

impl<'a> Reading<'a> {
    fn node(&mut self, node: &'a Value, depth: usize, level: usize) {
        if self.left == 0 || level > MOST_LEVELS {
            return;
        }
        self.left -= 1;
        let role = node["role"]["value"].as_str().unwrap_or_default();
        let name = words(&node["name"]["value"]);
        let ignored = node["ignored"] == true;
        let mut deeper = depth;
        if role == "StaticText" && !name.is_empty() {
            self.line(depth, &name);
            return;
        }
        if !ignored && !SILENT.contains(&role) && role != "RootWebArea" {
            deeper += 1;
            self.tell(node, role, &name, depth);
        }
        let says_it_all = is_leaf(role) && !name.is_empty();
        if says_it_all {
            return;
        }
        for child in node["childIds"].as_array().into_iter().flatten() {
            if let Some(child) = child.as_str().and_then(|id| self.nodes.get(id).copied()) {
                self.node(child, deeper, level + 1);
            }
        }
    }

    fn tell(&mut self, node: &Value, role: &str, name: &str, depth: usize) {
        let mut line = format!("- {role}");
        if !name.is_empty() {
            line.push_str(&format!(" \"{name}\""));
        }
        let value = words(&node["value"]["value"]);
        if !value.is_empty() {
            line.push_str(&format!(" value \"{value}\""));
        }
        for (flag, shown) in [
            ("disabled", "disabled"),
            ("checked", "checked"),
            ("expanded", "expanded"),
            ("selected", "selected"),
        ] {
            if is_set(node, flag) {
                line.push_str(&format!(" ({shown})"));
            }
        }
        if ACTIVE.contains(&role)
            && let Some(id) = node["backendDOMNodeId"].as_i64()
        {
            let number = format!("e{}", self.snapshot.refs.len() + 1);
            line.push_str(&format!(" [{number}]"));
            self.snapshot.refs.insert(number, id);
        }
        self.line(depth, &line);
    }

    fn line(&mut self, depth: usize, words: &str) {
        self.snapshot
            .lines
            .push(format!("{}{words}", "  ".repeat(depth.min(MOST_DEPTH))));
    }
}

/// Its name says all that is in it.
fn is_leaf(role: &str) -> bool {
    matches!(
        role,
        "button"
            | "link"
            | "heading"
            | "option"
            | "tab"
            | "menuitem"
            | "checkbox"
            | "radio"
            | "switch"
            | "textbox"
            | "searchbox"
    )
}

fn is_set(node: &Value, flag: &str) -> bool {
    let properties = node["properties"].as_array().into_iter().flatten();
    let mut of_it = properties.filter(|property| property["name"] == flag);
    of_it.next().is_some_and(|property| {
        let value = &property["value"]["value"];
        *value == true || *value == "true" || *value == "mixed"
    })
}

/// One line, without what could pass for more than words.
fn words(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return String::new(),
    };
    let text = text::readable(text.replace(['"', '\r'], "'").as_bytes());
    text::short(&text.split_whitespace().collect::<Vec<_>>().join(" "), MOST_WORDS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(id: &str, role: &str, name: &str, children: &[&str]) -> Value {
        let number: i64 = id.parse().unwrap();
        json!({"nodeId": id, "role": {"value": role}, "name": {"value": name}, "childIds": children, "backendDOMNodeId": 100 + number})
    }

    #[test]
    fn what_can_be_acted_on_has_a_number() {
        let mut check = node("6", "checkbox", "Agree", &[]);
        check["properties"] = json!([{"name": "checked", "value": {"type": "tristate", "value": "true"}}]);
        let mut field = node("5", "textbox", "Name", &[]);
        field["value"] = json!({"value": "Ada \"x\"\u{1b}[31m"});
        let mut hidden = node("2", "generic", "", &["3", "4", "5", "6", "9"]);
        hidden["ignored"] = json!(true);
        let tree = json!({"nodes": [
            node("1", "RootWebArea", "Page", &["2"]), hidden,
            node("3", "heading", "Hello\nthere", &["7"]), node("4", "link", "More", &["8"]), field, check,
            node("7", "StaticText", "Hello there", &[]), node("8", "StaticText", "More", &[]),
            node("9", "paragraph", "", &["10"]), node("10", "StaticText", "words", &[]),
        ]});
        let read = read(&tree);
        assert_eq!(
            read.lines,
            [
                "- heading \"Hello there\"",
                "- link \"More\" [e1]",
                "- textbox \"Name\" value \"Ada 'x'\" [e2]",
                "- checkbox \"Agree\" (checked) [e3]",
                "- paragraph",
                "  words",
            ]
        );
        assert_eq!(
            read.refs,
            BTreeMap::from([("e1", 104), ("e2", 105), ("e3", 106)].map(|(name, id)| (name.to_owned(), id)))
        );
    }

    #[test]
    fn a_page_that_is_its_own_child_comes_to_an_end() {
        let tree = json!({"nodes": [node("1", "list", "", &["1", "1"])]});
        assert!(read(&tree).lines.len() <= 20_000);
        assert_eq!(read(&json!({"nodes": "none"})), Snapshot::default());
    }
}
