use super::*;

const PROMISED: &[&str] = &[
    "koi_aws_requests_total",
    "koi_reconcile_cpu_seconds",
    "koi_reconcile_duration_seconds",
    "koi_agents",
    "koi_agent_ready",
    "koi_probe_duration_seconds",
    "koi_fleet_sweep_age_seconds",
    "koi_orphans",
    "koi_build_info",
];

#[test]
fn every_promised_family_is_there_from_the_start() {
    let text = Metrics::new("1.2.3").unwrap().text();
    for name in PROMISED {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing:\n{text}");
    }
    assert!(text.contains("koi_build_info{version=\"1.2.3\"} 1"), "{text}");
    assert!(text.contains("koi_fleet_sweep_age_seconds -1"), "{text}");
}

#[test]
fn an_agent_that_is_gone_leaves_no_series() {
    let metrics = Metrics::new("1").unwrap();
    metrics.set_ready("ns", "a", true);
    assert!(
        metrics
            .text()
            .contains("koi_agent_ready{name=\"a\",namespace=\"ns\"} 1")
    );
    metrics.keep_agents(|_, name| name != "a");
    assert!(!metrics.text().contains("name=\"a\""));
}

#[test]
fn a_reason_that_nobody_has_any_more_is_not_shown() {
    let metrics = Metrics::new("1").unwrap();
    metrics.set_agents(&BTreeMap::from([("Booting", 2)]));
    assert!(metrics.text().contains("koi_agents{reason=\"Booting\"} 2"));
    metrics.set_agents(&BTreeMap::from([("Ready", 2)]));
    let text = metrics.text();
    assert!(
        text.contains("koi_agents{reason=\"Ready\"} 2") && !text.contains("Booting"),
        "{text}"
    );
}

#[test]
fn usage_grows_by_what_is_new_and_begins_anew_with_its_gateway() {
    let metrics = Metrics::new("1").unwrap();
    let usage = |input_tokens, cost_usd| Usage {
        input_tokens,
        cost_usd,
        ..Usage::default()
    };
    metrics.set_usage("ns", "a", &usage(100, 1.5));
    metrics.set_usage("ns", "a", &usage(130, 2.0));
    metrics.set_usage("ns", "a", &usage(20, 0.25));
    metrics.set_usage("ns", "a", &usage(20, f64::NAN));
    metrics.set_usage("ns", "a", &usage(20, -3.0));
    let text = metrics.text();
    assert!(
        text.contains("koi_agent_tokens_total{kind=\"input\",name=\"a\",namespace=\"ns\"} 150"),
        "{text}"
    );
    assert!(
        text.contains("koi_agent_cost_usd_total{name=\"a\",namespace=\"ns\"} 2.25"),
        "{text}"
    );
    metrics.keep_agents(|_, name| name != "a");
    assert!(!metrics.text().contains("name=\"a\""));
}

#[test]
fn who_leads_no_more_tells_nothing_of_agents_and_what_it_did_stays() {
    let metrics = Metrics::new("1").unwrap();
    let at_first = metrics.text();
    let tell = || {
        metrics.set_leader(true);
        metrics.set_ready("ns", "a", true);
        metrics.set_agents(&BTreeMap::from([("Booting", 2)]));
        metrics.set_conditions(&BTreeMap::from([(("Ready", "True", "Ready"), 1)]));
        metrics.set_orphans("1/eu", "volume", 3);
        metrics.set_queue((4, 5));
        metrics.set_bucket("own", "RunInstances", 6, 0.5);
        metrics.set_swept_at("1", "eu", Timestamp::UNIX_EPOCH);
        let usage = Usage {
            input_tokens: 9,
            cost_usd: 1.0,
            ..Usage::default()
        };
        metrics.set_usage("ns", "a", &usage);
    };
    tell();
    let told = metrics.text();
    metrics.end_term();
    assert_eq!(metrics.text(), at_first);
    tell();
    assert_eq!(metrics.text(), told, "the next term tells all of it again, once");
    metrics.count_launch("ok");
    metrics.end_term();
    assert!(metrics.text().contains("koi_launches_total{result=\"ok\"} 1"));
}

const HEAD: &str = "# Metrics

What `/metrics` of the operator serves, made from the code by `KOI_BLESS=1 cargo test --lib metrics`. Every family is there from the start.

Labels are bounded: operations are those that the operator calls, reasons those of [reasons.md](reasons.md), steps those of its planner, accounts
and regions those that plans name (`own` is the operator's own account; buckets of another region than the operator's have it behind their
account's name). `namespace` and `name` are those of agents; their series go when the agent goes.

| name | type | labels | says |
|---|---|---|---|
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for family in Metrics::new("1").unwrap().families() {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        page += &format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind,
            labels.join(", "),
            family.help
        );
    }
    page
}

#[test]
fn the_page_says_what_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    if std::env::var_os("KOI_BLESS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap_or_default(),
        page(),
        "run the test with KOI_BLESS=1"
    );
}
