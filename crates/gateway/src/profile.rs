//! What the agent's own files say of it: its name. They belong to the agent: nothing in them is trusted, no link is followed,
//! and no more is read than is shown.

use std::path::Path;

use crate::file::Directory;

/// Characters of a name, a description and the like.
const MAX_TEXT: usize = 1000;

/// Bytes of a file that are looked at.
const MAX_BYTES: usize = 64 * 1024;

/// Who the agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: Option<String>,
    pub(crate) emoji: Option<String>,
    pub(crate) theme: Option<String>,
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

#[cfg(test)]
mod tests {
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
}
