//! `docs/reasons.md` is the reasons table; `KOI_BLESS=1` writes it anew.

use koi_core::api::{Reason, ReasonClass};

const HEAD: &str = "# Reasons

Every condition and Event carries one of these words. The message beside it says what is, and what to do.
This page is made from the table in `crates/core/src/api/reason.rs`.
";

fn page() -> String {
    let sections = [
        (ReasonClass::Good, "As wanted"),
        (ReasonClass::Progress, "On the way"),
        (ReasonClass::Waiting, "Waiting for something that comes by itself"),
        (ReasonClass::Broken, "Broken now; the operator tries to mend it"),
        (ReasonClass::Stalled, "Stalled: somebody must change something"),
    ];
    let mut page = HEAD.to_owned();
    for (class, title) in sections {
        page += &format!("\n## {title}\n\n| reason | meaning |\n|---|---|\n");
        for reason in Reason::ALL.iter().filter(|reason| reason.class() == class) {
            page += &format!("| `{reason}` | {} |\n", reason.meaning());
        }
    }
    page
}

#[test]
fn the_page_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md");
    if std::env::var_os("KOI_BLESS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        page(),
        "run the test with KOI_BLESS=1"
    );
}
