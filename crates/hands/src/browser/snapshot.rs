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
    /// What numbers stand for.
    pub(super) refs: BTreeMap<String, Spot>,
}

/// A node, by its backend id, and in which part of the page it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) part: usize,
    pub(super) node: i64,
}

/// A document, and those that it embeds.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What `Accessibility.getFullAXTree` gives of it.
    pub(super) tree: Value,
    /// In which part of the page it is.
    pub(super) part: usize,
    /// What it embeds, by the node that does, or why that is not seen.
    pub(super) embedded: BTreeMap<i64, Result<Document, String>>,
}

/// Nodes of a document that embed another one.
pub(super) fn embedding(tree: &Value) -> Vec<i64> {
    let nodes = tree["nodes"].as_array().into_iter().flatten();
    let embedding = nodes.filter(|node| embeds(node) && node["ignored"] != true);
    embedding.filter_map(|node| node["backendDOMNodeId"].as_i64()).collect()
}

fn embeds(node: &Value) -> bool {
    matches!(node["role"]["value"].as_str(), Some("Iframe" | "IframePresentational"))
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

/// Reads what a page says, with all that it embeds.
pub(super) fn read(document: &Document) -> Snapshot {
    let mut reading = Reading {
        snapshot: Snapshot::default(),
        left: 20_000,
    };
    reading.document(document, 0, 0);
    reading.snapshot
}

/// A document that is read.
struct Open<'a> {
    document: &'a Document,
    nodes: BTreeMap<&'a str, &'a Value>,
}

struct Reading {
    snapshot: Snapshot,
    /// Nodes that are still looked at: a page may claim to be its own child.
    left: usize,
}

impl Reading {
    fn document(&mut self, document: &Document, depth: usize, level: usize) {
        let nodes = document.tree["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let named = nodes.iter().filter_map(|node| Some((node["nodeId"].as_str()?, node)));
        let open = Open {
            document,
            nodes: named.collect(),
        };
        if let Some(root) = nodes.first() {
            self.node(&open, root, depth, level);
        }
    }

    fn node(&mut self, open: &Open<'_>, node: &Value, depth: usize, level: usize) {
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
            self.tell(open, node, role, &name, depth);
        }
        let embedded = node["backendDOMNodeId"].as_i64().filter(|_| embeds(node) && !ignored);
        match embedded.and_then(|id| open.document.embedded.get(&id)) {
            Some(Ok(document)) => return self.document(document, deeper, level + 1),
            Some(Err(why)) => return self.line(deeper, &format!("(not seen: {why})")),
            None => {}
        }
        let says_it_all = is_leaf(role) && !name.is_empty();
        if says_it_all {
            return;
        }
        for child in node["childIds"].as_array().into_iter().flatten() {
            if let Some(child) = child.as_str().and_then(|id| open.nodes.get(id).copied()) {
                self.node(open, child, deeper, level + 1);
            }
        }
    }

    fn tell(&mut self, open: &Open<'_>, node: &Value, role: &str, name: &str, depth: usize) {
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
            let part = open.document.part;
            self.snapshot.refs.insert(number, Spot { part, node: id });
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

    fn document(tree: Value, part: usize) -> Document {
        Document {
            tree,
            part,
            ..Document::default()
        }
    }

    fn spots(spots: &[(&str, usize, i64)]) -> BTreeMap<String, Spot> {
        let spots = spots.iter();
        spots
            .map(|(name, part, node)| {
                (
                    (*name).to_owned(),
                    Spot {
                        part: *part,
                        node: *node,
                    },
                )
            })
            .collect()
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
        let read = read(&document(tree, 0));
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
        assert_eq!(read.refs, spots(&[("e1", 0, 104), ("e2", 0, 105), ("e3", 0, 106)]));
    }

    #[test]
    fn a_page_that_is_its_own_child_comes_to_an_end() {
        let tree = json!({"nodes": [node("1", "list", "", &["1", "1"])]});
        assert!(read(&document(tree, 0)).lines.len() <= 20_000);
        assert_eq!(read(&document(json!({"nodes": "none"}), 0)), Snapshot::default());
    }

    #[test]
    fn what_is_embedded_stands_where_it_is_embedded() {
        let outer = json!({"nodes": [
            node("1", "RootWebArea", "Shop", &["2", "3", "4", "5"]), node("2", "Iframe", "Pay", &["9"]), node("3", "Iframe", "", &[]),
            node("4", "Iframe", "Ads", &[]), node("5", "button", "Back", &[]), node("9", "paragraph", "twice", &[]),
        ]});
        assert_eq!(embedding(&outer), [102, 103, 104]);
        let inner = json!({"nodes": [node("1", "RootWebArea", "", &["2"]), node("2", "button", "Pay now", &[])]});
        let mut page = document(outer, 0);
        page.embedded.insert(102, Ok(document(inner.clone(), 1)));
        page.embedded.insert(103, Ok(document(inner, 0)));
        page.embedded.insert(104, Err("it does not answer in time".to_owned()));
        let read = read(&page);
        assert_eq!(
            read.lines,
            [
                "- Iframe \"Pay\"",
                "  - button \"Pay now\" [e1]",
                "- Iframe",
                "  - button \"Pay now\" [e2]",
                "- Iframe \"Ads\"",
                "  (not seen: it does not answer in time)",
                "- button \"Back\" [e3]",
            ]
        );
        assert_eq!(read.refs, spots(&[("e1", 1, 102), ("e2", 0, 102), ("e3", 0, 105)]));
    }
}
