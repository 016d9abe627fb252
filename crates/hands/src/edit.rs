//! Changes a piece of a file: what is there is named word by word, and must be there once.

use serde::Deserialize;
use serde_json::Value;

use crate::{Place, args, files, text};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edit {
    #[serde(alias = "file_path", alias = "filePath")]
    path: String,
    #[serde(default)]
    edits: Vec<Change>,
    #[serde(default, alias = "old_string", alias = "oldString", alias = "old_text")]
    old_text: Option<String>,
    #[serde(default, alias = "new_string", alias = "newString", alias = "new_text")]
    new_text: Option<String>,
    #[serde(default, alias = "replace_all")]
    replace_all: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    #[serde(alias = "old_string", alias = "oldString", alias = "old_text")]
    old_text: String,
    #[serde(alias = "new_string", alias = "newString", alias = "new_text")]
    new_text: String,
    #[serde(default, alias = "replace_all")]
    replace_all: bool,
}

/// Changes a file. All changes are made, or none.
pub(crate) fn edit(place: &Place, arguments: Value) -> Result<String, String> {
    let mut wish: Edit = args::read(arguments)?;
    if let (Some(old_text), Some(new_text)) = (wish.old_text.take(), wish.new_text.take()) {
        wish.edits.push(Change {
            old_text,
            new_text,
            replace_all: wish.replace_all,
        });
    }
    if wish.edits.is_empty() {
        return Err("oldText and newText are missing".to_owned());
    }
    let path = place.path(&wish.path)?;
    let before = files::whole(place, &path)?;
    let mut after = before.clone();
    for change in &wish.edits {
        after =
            changed(&after, change).map_err(|fault| format!("{}: {fault}; nothing was changed", place.shown(&path)))?;
    }
    if after == before {
        return Err("the old and the new text are the same; nothing was changed".to_owned());
    }
    files::replace(place, &path, &after)?;
    Ok(format!(
        "Changed {} ({} {}).",
        place.shown(&path),
        wish.edits.len(),
        if wish.edits.len() == 1 { "change" } else { "changes" }
    ))
}

fn changed(content: &str, change: &Change) -> Result<String, String> {
    if change.old_text.is_empty() {
        return Err("the old text is empty; use write for a new file".to_owned());
    }
    let mut old = change.old_text.clone();
    let mut new = change.new_text.clone();
    // Models write line ends as they always do; the file keeps its own.
    if !content.contains(&old) && content.contains("\r\n") && !old.contains('\r') {
        old = old.replace('\n', "\r\n");
        new = new.replace('\n', "\r\n");
    }
    match content.matches(&old).count() {
        0 => Err(format!(
            "the old text {:?} is not there; read the file again",
            text::short(&old, 80)
        )),
        1 => Ok(content.replacen(&old, &new, 1)),
        _ if change.replace_all => Ok(content.replace(&old, &new)),
        count => Err(format!(
            "the old text {:?} is there {count} times; name more of what is around it, or set replaceAll",
            text::short(&old, 80)
        )),
    }
}
