//! What the agent's own files say of it: its name, its skills. They belong to the agent: nothing in them is trusted, no link is followed,
//! and no more is read than is shown.

use std::path::Path;

use crate::file::Directory;

/// Characters of a name, a description and the like.
const MAX_TEXT: usize = 1000;

/// Bytes of a file that are looked at.
const MAX_BYTES: usize = 64 * 1024;

/// Skills that are listed.
const MAX_SKILLS: usize = 200;

/// Who the agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: Option<String>,
    pub(crate) emoji: Option<String>,
    pub(crate) theme: Option<String>,
}

/// A skill of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skill {
    pub(crate) directory: String,
    pub(crate) name: String,
    pub(crate) description: String,
}

/// Who the agent is, by its IDENTITY.md.
pub(crate) fn identity(workspace: &Path) -> Identity {
    let read = || {
        Directory::open(workspace)
            .ok()?
            .read_some("IDENTITY.md", MAX_BYTES)
            .ok()?
    };
    identity_of(&read().unwrap_or_default())
}

fn identity_of(text: &str) -> Identity {
    let mut found = Identity::default();
    for line in text.lines() {
        let plain = line.trim().trim_start_matches(['-', '*', ' ']);
        let Some((key, value)) = plain.split_once(':') else {
            continue;
        };
        let value = value.trim_matches(['*', '_', '`', ' ', '"']);
        // A template says what is to be written there, in brackets.
        if value.is_empty() || value.starts_with(['(', '<', '[']) {
            continue;
        }
        let slot = match key.trim_matches(['*', '_', ' ']).to_ascii_lowercase().as_str() {
            "name" => &mut found.name,
            "emoji" => &mut found.emoji,
            "theme" | "vibe" => &mut found.theme,
            _ => continue,
        };
        slot.get_or_insert_with(|| value.chars().take(MAX_TEXT).collect());
    }
    found
}

/// The skills: directories below `skills` with a SKILL.md.
pub(crate) fn skills(workspace: &Path) -> Vec<Skill> {
    let Ok(directory) = Directory::open(workspace).and_then(|workspace| workspace.enter("skills")) else {
        return Vec::new();
    };
    let mut names = directory.names(MAX_SKILLS).unwrap_or_default();
    names.sort_unstable();
    let skill = |name: String| {
        let text = directory.enter(&name).ok()?.read_some("SKILL.md", MAX_BYTES).ok()??;
        Some(skill_of(name, &text))
    };
    names.into_iter().filter_map(skill).collect()
}

/// Name and description stand between two lines of dashes at the top.
fn skill_of(directory: String, text: &str) -> Skill {
    let mut lines = text.lines();
    let head = lines.next().is_some_and(|line| line.trim() == "---");
    let mut skill = Skill {
        name: directory.clone(),
        directory,
        description: String::new(),
    };
    for line in lines.take_while(|line| head && line.trim() != "---") {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value: String = value.trim().trim_matches(['"', '\'']).chars().take(MAX_TEXT).collect();
        match key.trim() {
            "name" if !value.is_empty() => skill.name = value,
            "description" => skill.description = value,
            _ => {}
        }
    }
    skill
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn identities_are_read_as_people_write_them() {
        let text = "# Who\n- **Name:** Koi\n- Emoji: 🐟\n- **Vibe:** *(how do you come across?)*\nName: second\n";
        let expected = Identity {
            name: Some("Koi".to_owned()),
            emoji: Some("🐟".to_owned()),
            theme: None,
        };
        assert_eq!(identity_of(text), expected);
        assert_eq!(identity_of("nothing"), Identity::default());
    }

    #[test]
    fn skills_are_directories_and_no_links() {
        let workspace = crate::file::tests::Scratch::new("skills");
        fs::create_dir_all(workspace.join("skills/b")).unwrap();
        fs::create_dir_all(workspace.join("skills/a")).unwrap();
        fs::create_dir_all(workspace.join("skills/empty")).unwrap();
        fs::write(
            workspace.join("skills/b/SKILL.md"),
            "---\nname: Bee\ndescription: \"what: it does\"\n---\nname: no\n",
        )
        .unwrap();
        fs::write(workspace.join("skills/a/SKILL.md"), "no head").unwrap();
        fs::create_dir_all(workspace.join("skills/c")).unwrap();
        fs::write(workspace.join("secret"), "name: x").unwrap();
        symlink(workspace.join("secret"), workspace.join("skills/c/SKILL.md")).unwrap();
        symlink("/etc", workspace.join("skills/d")).unwrap();
        let skill = |directory: &str, name: &str, description: &str| Skill {
            directory: directory.to_owned(),
            name: name.to_owned(),
            description: description.to_owned(),
        };
        assert_eq!(
            skills(&workspace),
            [skill("a", "a", ""), skill("b", "Bee", "what: it does")]
        );
        assert_eq!(skills(&workspace.join("nothing")), []);
    }
}
