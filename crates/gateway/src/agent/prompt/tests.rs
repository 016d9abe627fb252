use std::fs;

use super::*;
use crate::file::tests::Scratch;

/// 2026-02-03T04:05:06Z.
const NOW: i64 = 1_770_091_506_000;

fn workspace(place: &Scratch, config: serde_json::Value) -> Workspace {
    let config: GatewayConfig = serde_json::from_value(config).unwrap();
    Workspace::new(place, shelf(place, &config), &config, &TimeZone::UTC)
}

fn shelf(place: &Scratch, config: &GatewayConfig) -> Shelf {
    Shelf::new(place, &place.join("state"), &place.join("home"), config)
}

fn prompt(workspace: &Workspace, key: &str, light: bool) -> Prompt {
    let key = SessionKey::parse(key).unwrap();
    workspace.prompt(&Scope {
        key: &key,
        light,
        now_ms: NOW,
        extra: "",
    })
}

fn names(prompt: &Prompt) -> Vec<&str> {
    prompt.pieces.iter().map(|piece| piece.name.as_str()).collect()
}

#[test]
fn each_conversation_gets_what_is_meant_for_it() {
    let place = Scratch::new("prompt");
    for name in [
        "AGENTS.md",
        "SOUL.md",
        "USER.md",
        "TOOLS.md",
        "MEMORY.md",
        "HEARTBEAT.md",
        "BOOTSTRAP.md",
    ] {
        fs::write(place.join(name), format!("words of {name}\n")).unwrap();
    }
    fs::create_dir_all(place.join("memory")).unwrap();
    for day in ["2026-02-01", "2026-02-02", "2026-02-03"] {
        fs::write(place.join(format!("memory/{day}.md")), day).unwrap();
    }
    fs::create_dir_all(place.join("skills/cook")).unwrap();
    fs::write(
        place.join("skills/cook/SKILL.md"),
        "---\nname: cook\ndescription: Cooks.\n---\n",
    )
    .unwrap();
    let workspace = workspace(&place, serde_json::json!({}));
    let main = prompt(&workspace, "main", false);
    assert_eq!(
        names(&main),
        [
            "base",
            "skills",
            "AGENTS.md",
            "SOUL.md",
            "IDENTITY.md",
            "USER.md",
            "TOOLS.md",
            "BOOTSTRAP.md",
            "MEMORY.md",
            "memory/2026-02-02.md",
            "memory/2026-02-03.md"
        ]
    );
    assert!(main.text.contains("## SOUL.md\nwords of SOUL.md\n"));
    assert!(main.text.contains("[missing: IDENTITY.md is not in the workspace]"));
    assert!(main.text.contains("- cook: Cooks.\n"));
    assert_eq!(main, prompt(&workspace, "main", false), "the same bytes each time");
    assert!(!names(&prompt(&workspace, "agent:main:telegram:group:1", false)).contains(&"MEMORY.md"));
    assert_eq!(names(&prompt(&workspace, "main", true)), ["base", "HEARTBEAT.md"]);
    assert_eq!(
        names(&prompt(&workspace, "agent:main:subagent:1", false)),
        ["base", "AGENTS.md", "TOOLS.md"]
    );
    // The owner's day, not the machine's.
    let config = GatewayConfig::default();
    let tokyo = Workspace::new(
        &place,
        shelf(&place, &config),
        &config,
        &TimeZone::get("America/Los_Angeles").unwrap(),
    );
    assert!(names(&prompt(&tokyo, "main", false)).contains(&"memory/2026-02-01.md"));
}

#[test]
fn what_is_too_long_is_cut_and_told() {
    let place = Scratch::new("prompt-long");
    fs::write(place.join("AGENTS.md"), "\u{e4}".repeat(5000) + "END").unwrap();
    let workspace = workspace(
        &place,
        serde_json::json!({"agents": {"defaults": {"bootstrapMaxChars": 1000}}}),
    );
    let prompt = prompt(&workspace, "main", false);
    let piece = prompt.pieces.iter().find(|piece| piece.name == "AGENTS.md").unwrap();
    assert_eq!(piece.of, Some(5003));
    assert!(piece.chars < 1100);
    assert!(
        prompt
            .text
            .contains("[... 4053 of 5003 characters left out: read AGENTS.md for all of it ...]")
    );
    assert!(prompt.text.contains("END\n"));
    let report = prompt.report(&[("read".to_owned(), 400)]);
    assert!(
        report.contains("cut from 5003") && report.contains("1 tools: 400 characters (about 100 tokens)"),
        "{report}"
    );
}

#[test]
fn all_files_together_are_bounded_and_links_lead_nowhere() {
    let place = Scratch::new("prompt-all");
    for name in ["AGENTS.md", "SOUL.md", "IDENTITY.md", "USER.md", "TOOLS.md"] {
        fs::write(place.join(name), "x".repeat(100_000)).unwrap();
    }
    fs::write(place.join("secret"), "hidden words").unwrap();
    std::os::unix::fs::symlink(place.join("secret"), place.join("MEMORY.md")).unwrap();
    let prompt = prompt(&workspace(&place, serde_json::json!({})), "main", false);
    assert!(prompt.text.len() < MOST_OF_ALL + 5000, "{}", prompt.text.len());
    assert!(!prompt.text.contains("hidden words"));
}

#[test]
fn the_base_is_small() {
    let place = Scratch::new("prompt-base");
    let workspace = workspace(&place, serde_json::json!({}));
    let base = prompt(&workspace, "main", false).pieces[0].chars;
    let skills = prompt(&workspace, "main", false).pieces[1].chars;
    let config: GatewayConfig = serde_json::from_value(serde_json::json!({
        "tools": {"web": {"search": {"provider": "searxng", "baseUrl": "http://s"}}, "speech": {}}
    }))
    .unwrap();
    let specs = crate::agent::tools::offered(&config);
    let tools: usize = specs
        .iter()
        .map(|spec| spec.name.len() + spec.description.len() + spec.schema.to_string().len())
        .sum();
    let all = tokens(base + skills + tools);
    eprintln!(
        "base {base}, skills {skills}, {} tools {tools} characters: {all} tokens",
        specs.len()
    );
    assert!(all <= 3000, "{all} tokens");
}

#[test]
fn what_cannot_be_read_is_told_and_hides_nothing_else() {
    let place = Scratch::new("prompt-broken");
    fs::create_dir_all(place.join("SOUL.md")).unwrap();
    fs::write(place.join("USER.md"), b"\xff\xfe words \x00").unwrap();
    fs::write(place.join("AGENTS.md"), "Be kind.").unwrap();
    fs::write(place.join("memory"), "no directory").unwrap();
    let told = prompt(&workspace(&place, serde_json::json!({})), "main", false).text;
    assert!(told.contains("## SOUL.md\n[unreadable: SOUL.md: "), "{told}");
    assert!(told.contains(" words ") && told.contains("Be kind."));
    // No workspace at all, and a file in its place.
    for path in ["none", "AGENTS.md"] {
        let config = GatewayConfig::default();
        let path = place.join(path);
        let shelf = Shelf::new(&path, &place.join("state"), &place.join("home"), &config);
        let told = prompt(&Workspace::new(&path, shelf, &config, &TimeZone::UTC), "main", false);
        assert!(
            told.text.starts_with("You are the agent of this machine"),
            "{}",
            told.text
        );
        assert!(
            told.text.contains("AGENTS.md is not in the workspace]") || told.text.contains("[unreadable: AGENTS.md")
        );
    }
}
