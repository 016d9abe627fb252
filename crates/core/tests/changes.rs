//! `docs/changes.md` holds the table of changes; `KOI_BLESS=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a page that cannot be read is a failed test")]

use koi_core::change::{Field, TABLE};

const BEGIN: &str = "<!-- the table, made from crates/core/src/change/table.rs -->\n";
const END: &str = "<!-- end of the table -->\n";

fn table() -> String {
    let mut text = "| field | action | how |\n|---|---|---|\n".to_owned();
    for row in TABLE {
        text += &format!("| `{}` | {} | {} |\n", row.field, row.effect.word(), row.note);
    }
    text
}

#[test]
fn the_page_holds_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/changes.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let wanted = format!("{head}{BEGIN}{}{END}{tail}", table());
    if std::env::var_os("KOI_BLESS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    } else {
        assert_eq!(page, wanted, "run the test with KOI_BLESS=1");
    }
}

#[test]
fn every_field_that_is_compared_is_in_the_table_as_one_that_interrupts() {
    for field in Field::ALL {
        let row = TABLE.iter().find(|row| row.field == field.name()).unwrap();
        assert!(row.effect.interrupts(), "{}", row.field);
    }
}

/// Every field of both specs, as the CRDs have them, is in the table.
#[test]
fn every_field_of_the_specs_is_in_the_table() {
    let (agent, plan) = (fields("KoiAgent"), fields("KoiPlan"));
    assert!(agent.len() > 8 && plan.len() > 8, "{agent:?} {plan:?}");
    let covers = |prefix: &str, field: &str| {
        TABLE.iter().any(|row| {
            let Some(names) = row.field.strip_prefix(prefix) else {
                return false;
            };
            names
                .split(", ")
                .any(|name| name == field || name.starts_with(&format!("{field}.")))
        })
    };
    let missing: Vec<_> = agent.iter().filter(|field| !covers("", field)).collect();
    assert_eq!(missing, Vec::<&String>::new());
    let missing: Vec<_> = plan
        .iter()
        .filter(|field| *field != "default" && !covers("plan: ", field))
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
}

fn fields(kind: &str) -> Vec<String> {
    let crds = koi_core::api::crds();
    let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let schema = crd.spec.versions[0]
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .as_ref()
        .unwrap();
    let spec = &schema.properties.as_ref().unwrap()["spec"];
    spec.properties.as_ref().unwrap().keys().cloned().collect()
}
