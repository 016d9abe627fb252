use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::*;
use crate::file::tests::Scratch;

fn shelf(place: &Scratch, config: Value) -> Shelf {
    let config: GatewayConfig = serde_json::from_value(config).unwrap();
    Shelf::new(&place.join("koi"), &place.join("state"), &place.join("home"), &config)
}

fn put(place: &Scratch, root: &str, key: &str, text: &str) {
    let folder = place.join(root).join("skills").join(key);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("SKILL.md"), text).unwrap();
}

fn find<'a>(skills: &'a [Skill], key: &str) -> &'a Skill {
    skills.iter().find(|skill| skill.key == key).unwrap()
}

#[test]
fn those_of_the_workspace_go_first_and_all_bundled_ones_are_well() {
    let place = Scratch::new("skills-order");
    for root in ["koi", "state"] {
        put(
            &place,
            root,
            "git",
            &format!("---\nname: git\ndescription: of {root}\n---\n"),
        );
    }
    put(
        &place,
        "state",
        "other",
        "---\ndescription: >\n  in two\n  lines\n---\n",
    );
    let shelf = shelf(&place, json!({}));
    let skills = shelf.all();
    assert_eq!(find(&skills, "git").description, "of koi");
    assert_eq!(find(&skills, "other").description, "in two lines");
    let order: Vec<Origin> = skills.iter().map(|skill| skill.origin).collect();
    assert_eq!(order[..2], [Origin::Workspace, Origin::Managed]);
    assert_eq!(skills.len(), 1 + BUNDLED.len());
    for (key, text) in BUNDLED {
        let head = front::read(text).unwrap();
        assert_eq!(head.name.as_deref(), Some(*key));
        assert!(text.lines().count() < 500 && text.len() < 20_000);
    }
    let (origin, text) = shelf.card("git").unwrap().unwrap();
    assert_eq!(
        (origin, String::from_utf8(text).unwrap().contains("of koi")),
        (Origin::Workspace, true)
    );
    assert_eq!(shelf.card("notes").unwrap().unwrap().0, Origin::Bundled);
    for key in ["..", ".", "a/b", "none", "../state/skills/other"] {
        assert_eq!(shelf.card(key).unwrap(), None, "{key}");
    }
}

#[test]
fn what_a_skill_needs_decides() {
    let place = Scratch::new("skills-needs");
    let with = |needs: &str| format!("---\ndescription: d\nmetadata: {{\"openclaw\": {needs}}}\n---\n");
    let cases = [
        ("bin", r#"{"requires": {"bins": ["sh"]}}"#, true),
        ("no-bin", r#"{"requires": {"bins": ["sh", "no-such-program"]}}"#, false),
        ("path", r#"{"requires": {"bins": ["../../bin/sh"]}}"#, false),
        ("any", r#"{"requires": {"anyBins": ["no-such-program", "sh"]}}"#, true),
        ("env", r#"{"requires": {"env": ["HOME"]}}"#, true),
        ("no-env", r#"{"requires": {"env": ["AWS_SECRET_ACCESS_KEY"]}}"#, false),
        ("config", r#"{"requires": {"config": ["tools.web.search"]}}"#, true),
        (
            "no-config",
            r#"{"requires": {"config": ["tools.speech", "cron.enabled"]}}"#,
            false,
        ),
        ("os", r#"{"os": ["darwin"]}"#, false),
        (
            "own",
            r#"{"os": ["darwin", "linux"], "requires": {"bins": ["mine"]}}"#,
            true,
        ),
        ("text", r#"'{"requires": {"bins": ["no-such-program"]}}'"#, false),
    ];
    for (key, needs, _) in cases {
        put(&place, "koi", key, &with(needs));
    }
    fs::create_dir_all(place.join("home/bin")).unwrap();
    let program = place.join("home/bin/mine");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = json!({
        "tools": {"web": {"search": {"provider": "searxng", "baseUrl": "http://s"}}}, "cron": {"enabled": false}
    });
    let skills = shelf(&place, config).all();
    for (key, needs, eligible) in cases {
        assert_eq!(find(&skills, key).is_eligible(), eligible, "{needs}");
    }
    assert_eq!(find(&skills, "no-bin").missing.bins, ["no-such-program"]);
    assert_eq!(
        find(&skills, "no-config").missing.config,
        ["tools.speech", "cron.enabled"]
    );
}

#[test]
fn they_can_be_turned_off_in_three_ways_and_count_at_once() {
    let place = Scratch::new("skills-off");
    put(&place, "koi", "a", "---\ndescription: d\n---\n");
    put(&place, "koi", "b", "---\ndescription: d\n---\n");
    fs::create_dir_all(place.join("state")).unwrap();
    fs::write(place.join("state/skills.json"), r#"{"disabled": ["b"]}"#).unwrap();
    let shelf = shelf(
        &place,
        json!({"skills": {"allowBundled": ["notes"], "entries": {"a": {"enabled": false}}}}),
    );
    let eligible = |shelf: &Shelf| -> Vec<String> {
        let all = shelf.all();
        all.into_iter()
            .filter(Skill::is_eligible)
            .map(|skill| skill.key)
            .collect()
    };
    assert_eq!(eligible(&shelf), ["notes"]);
    fs::write(place.join("state/skills.json"), "broken").unwrap();
    put(&place, "koi", "c", "---\ndescription: d\n---\n");
    assert_eq!(eligible(&shelf), ["b", "c", "notes"], "read anew each time");
}

#[test]
fn broken_ones_say_why_and_hide_nothing_else() {
    let place = Scratch::new("skills-broken");
    let cases = [
        ("a", "no head", "a/SKILL.md: it has no head"),
        ("b", "---\nname: b\n", "b/SKILL.md: its head has no end"),
        ("c", "---\nname: c\n---\n", "c/SKILL.md: its head has no description"),
        ("d", "---\nname: d\ndescription: [\n---\n", "d/SKILL.md: line "),
        (
            "e",
            "---\ndescription: e\nmetadata: {\"openclaw\": {\"requires\": {\"bins\": 7}}}\n---\n",
            "metadata.requires",
        ),
        ("f", "\u{0}\u{1}\u{ff}", "it has no head"),
        (
            "g",
            &format!("---\ndescription: {}\n---\n", "x".repeat(20_000)),
            "its head has more than",
        ),
        (
            "h",
            "---\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\ndescription: {a: b}\n---\n",
            "h/SKILL.md: line 2: anchors",
        ),
        // A hundred million words.
        (
            "i",
            &format!(
                "---\ndescription: i\nmetadata: {{a: &a [{}], b: &b [{}], c: [{}]}}\n---\n",
                "x,".repeat(3000),
                "*a,".repeat(1000),
                "*b,".repeat(1000)
            ),
            "i/SKILL.md: line 3: anchors",
        ),
        ("j", "---\n- &-a x\n- *-a\n---\n", "anchors"),
    ];
    for (key, text, _) in &cases {
        put(&place, "koi", key, text);
    }
    fs::create_dir_all(place.join("koi/skills/linked")).unwrap();
    fs::write(place.join("secret"), "---\ndescription: s\n---\n").unwrap();
    symlink(place.join("secret"), place.join("koi/skills/linked/SKILL.md")).unwrap();
    symlink("/etc", place.join("koi/skills/z")).unwrap();
    let skills = shelf(&place, json!({})).all();
    for (key, _, fault) in &cases {
        let skill = find(&skills, key);
        let said = skill.fault.as_deref().unwrap_or_default();
        assert!(said.contains(fault) && !skill.is_eligible(), "{key}: {said:?}");
    }
    let linked = find(&skills, "linked");
    assert!(linked.description.is_empty() && !linked.is_eligible());
    assert!(find(&skills, "notes").is_eligible());
    for words in ["Search & replace", "R&D", "a && b", "read *this* now", "see a?b=1&c=2"] {
        put(&place, "koi", "words", &format!("---\ndescription: {words}\n---\n"));
        assert_eq!(find(&shelf(&place, json!({})).all(), "words").description, words);
    }
}
