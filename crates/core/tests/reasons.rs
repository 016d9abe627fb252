//! `docs/reasons.md` is the reasons table; `KOI_BLESS=1` writes it anew.

use koi_core::api::{Reason, ReasonClass};
use koi_core::refusal::{Retry, lines};

const HEAD: &str = "# Reasons

Every condition and Event carries one of these words. The message beside it says what is, and what to do.
This page is made from the tables in `crates/core/src/api/reason.rs` and `crates/core/src/refusal/table.rs`.
";

const CODES: &str = "
## What AWS's refusals mean

The first line that fits counts. Codes that no line names are taken by their form (`...LimitExceeded`, `...Throttl...`, `AccessDenied...`,
`Insufficient...`, `Invalid...`); what is left counts as an answer that nothing can be concluded from: it is asked again with pauses, and
what the call did is read back first. A denial names the action and the resource; EC2's encoded message is not shown.

Tried again: *soon* in seconds, for what EC2 and IAM show late (after two minutes it counts as stalled); *with pauses* from 1 s to 30 s, for
capacity from 30 s to 3 minutes, at most 30 launches an hour over all offerings; *slowly* 12 times in the first hour and each 10 minutes
later, or at once when the spec changes; *when the spec changes* not before.

| AWS's code | message contains | reason | tried again | what to do |
|---|---|---|---|---|
";

fn again(retry: Retry) -> &'static str {
    match retry {
        Retry::Soon => "soon",
        Retry::BackOff => "with pauses",
        Retry::Slow => "slowly",
        Retry::Rare => "once an hour",
        Retry::Never => "when the spec changes",
    }
}

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
    page += CODES;
    for line in lines() {
        let codes: Vec<String> = line
            .codes
            .iter()
            .map(|code| {
                if code.is_empty() {
                    "no answer".to_owned()
                } else {
                    format!("`{code}`")
                }
            })
            .collect();
        page += &format!(
            "| {} | {} | `{}` | {} | {} |\n",
            codes.join(", "),
            line.pattern,
            line.reason,
            again(line.retry),
            line.advice
        );
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
