//! Attachments: what comes with a message is put into files before the message is accepted.
//!
//! They lie in the workspace, where the agent's tools can read them, who read nothing else of the gateway. The workspace is the agent's own:
//! no link in it is followed, and what is found there instead of an attachment is taken for none.

use std::io;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use tracing::warn;

use super::Attachment;
use crate::file::Directory;
use crate::seed::FILE_MODE;
use crate::session::{Known, Part};

/// How many may come with one message.
pub(crate) const MOST: usize = 16;

/// Bytes of all that come with one message.
pub(crate) const MOST_BYTES: usize = 20 * 1024 * 1024;

/// How long they are kept: as long as sessions that nobody comes back to.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of all that are kept.
pub(crate) const MOST_KEPT: u64 = 2 * 1024 * 1024 * 1024;

/// Bytes of a picture that a model sees at once: it becomes part of the transcript.
const MOST_PICTURE: u64 = 1_000_000;

/// Where they are kept, below the workspace.
const DIRECTORY: [&str; 2] = ["media", "inbound"];

/// Files of the agent beside them are looked at as well when old ones are taken away.
const MOST_FILES: usize = 10_000;

/// Something that comes with a message, as a client sends it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    /// Its media type, where the client names one.
    pub(crate) mime_type: Option<String>,
    /// Its name.
    pub(crate) file_name: Option<String>,
    /// Base64, or a data URL.
    pub(crate) content: String,
}

/// Reads what was sent.
///
/// # Errors
/// Which one is wrong, and why.
pub(crate) fn decode(sent: &[Sent]) -> Result<Vec<(Attachment, Vec<u8>)>, String> {
    let mut left = MOST_BYTES;
    let mut decoded = Vec::with_capacity(sent.len());
    for (index, one) in sent.iter().enumerate() {
        let place = format!("at /attachments/{index}/content");
        let (mime_type, text) = match one
            .content
            .strip_prefix("data:")
            .and_then(|rest| rest.split_once(";base64,"))
        {
            Some((mime_type, text)) => (Some(mime_type), text),
            None => (None, one.content.as_str()),
        };
        if text.len() / 4 * 3 > left + 3 {
            return Err(format!(
                "{place}: attachments of one message may have {MOST_BYTES} bytes together"
            ));
        }
        let bytes = STANDARD
            .decode(text.trim())
            .map_err(|fault| format!("{place}: must be base64: {fault}"))?;
        left = left
            .checked_sub(bytes.len())
            .ok_or_else(|| format!("{place}: attachments of one message may have {MOST_BYTES} bytes together"))?;
        let mime_type = one
            .mime_type
            .as_deref()
            .or(mime_type)
            .map(clean)
            .filter(|text| !text.is_empty());
        let attachment = Attachment {
            mime_type: mime_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
            file_name: one.file_name.as_deref().map(clean).filter(|name| !name.is_empty()),
            path: String::new(),
            size: bytes.len() as u64,
        };
        decoded.push((attachment, bytes));
    }
    Ok(decoded)
}

/// Where they are.
fn directory(workspace: &Path) -> io::Result<Directory> {
    let [above, name] = DIRECTORY;
    Directory::itself(workspace)?.enter(above)?.enter(name)
}

/// Puts them into files; they are on disk when this returns.
///
/// # Errors
/// Those of the file system, and a link where a directory should be.
pub(crate) fn store(workspace: &Path, decoded: Vec<(Attachment, Vec<u8>)>) -> io::Result<Vec<Attachment>> {
    let [above, name] = DIRECTORY;
    let directory = Directory::itself(workspace)?
        .enter_or_make(above, 0o775)?
        .enter_or_make(name, 0o775)?;
    let mut stored = Vec::with_capacity(decoded.len());
    for (mut attachment, bytes) in decoded {
        let name = format!("{}.{}", uuid::Uuid::new_v4(), extension(&attachment.mime_type));
        attachment.path = format!("{}/{name}", DIRECTORY.join("/"));
        if let Err(error) = directory.replace(&name, &bytes, FILE_MODE, None) {
            discard(workspace, &stored);
            return Err(error);
        }
        stored.push(attachment);
    }
    Ok(stored)
}

/// Why what was sent is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// Which one is wrong, and why.
    #[error("{0}")]
    Wrong(String),
    /// Those of the file system.
    #[error("the attachments cannot be kept: {0}")]
    Disk(#[from] io::Error),
    /// The work was given up: the gateway stops.
    #[error("the call was cut off")]
    CutOff,
}

/// Reads what was sent and puts it into files.
///
/// # Errors
/// [`NotTaken`]
pub(crate) async fn take_in(workspace: &Path, sent: Vec<Sent>) -> Result<Vec<Attachment>, NotTaken> {
    if sent.is_empty() {
        return Ok(Vec::new());
    }
    let workspace = workspace.to_owned();
    let work = move || {
        let decoded = decode(&sent).map_err(NotTaken::Wrong)?;
        Ok(store(&workspace, decoded)?)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(NotTaken::CutOff))
}

/// Takes away files of a message that was not accepted.
pub(crate) fn discard(workspace: &Path, stored: &[Attachment]) {
    for attachment in stored {
        let gone = directory(workspace).and_then(|directory| directory.remove(name_of(attachment)));
        if let Err(error) = gone {
            warn!(path = %attachment.path, %error, "an attachment of a message that was not accepted stays");
        }
    }
}

fn name_of(attachment: &Attachment) -> &str {
    attachment.path.rsplit('/').next().unwrap_or_default()
}

/// Is this a name that we gave? Other files there are the agent's own.
fn is_ours(name: &str) -> bool {
    name.split_once('.')
        .is_some_and(|(id, _)| uuid::Uuid::try_parse(id).is_ok())
}

/// Takes away what is older than [`KEPT`], and the oldest of what is more than `most_bytes`; gives how many files.
///
/// # Errors
/// Those of the file system.
pub(crate) fn prune(workspace: &Path, now_ms: i64, most_bytes: u64) -> io::Result<usize> {
    let directory = match directory(workspace) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for name in directory.names(MOST_FILES)?.into_iter().filter(|name| is_ours(name)) {
        // What is no file, or one that cannot be opened, was not put there by us.
        if let Ok(Some((size, changed_ms))) = directory.size_and_time(&name) {
            files.push((changed_ms, size, name));
        }
    }
    files.sort_by(|a, b| b.cmp(a));
    let kept_ms = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
    let (mut bytes, mut gone) = (0_u64, 0);
    for (changed_ms, size, name) in files {
        bytes = bytes.saturating_add(size);
        if now_ms.saturating_sub(changed_ms) > kept_ms || bytes > most_bytes {
            directory.remove(&name)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// What a picture is for a model; none when it is no picture, is too large, or is gone.
pub(crate) fn picture(workspace: &Path, attachment: &Attachment) -> Option<Part> {
    let seen = matches!(
        attachment.mime_type.as_str(),
        "image/png" | "image/jpeg" | "image/gif" | "image/webp"
    );
    if !seen || attachment.size > MOST_PICTURE {
        return None;
    }
    let directory = directory(workspace).ok()?;
    let bytes = directory.read_at_most(name_of(attachment), MOST_PICTURE).ok()??;
    Some(Part::Known(Known::Image {
        data: STANDARD.encode(bytes),
        mime_type: attachment.mime_type.clone(),
    }))
}

fn extension(mime_type: &str) -> &'static str {
    match mime_type {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "application/pdf" => "pdf",
        "text/plain" => "txt",
        "audio/mpeg" => "mp3",
        "audio/ogg" => "ogg",
        _ => "bin",
    }
}

/// One line without anything that could pass for the end of the note that names it.
fn clean(text: &str) -> String {
    let fits = |c: &char| !c.is_control() && !matches!(c, '[' | ']' | '(' | ')');
    text.chars()
        .filter(fits)
        .take(200)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::file::tests::Scratch;

    fn sent(content: &str) -> Sent {
        Sent {
            content: content.to_owned(),
            ..Sent::default()
        }
    }

    #[test]
    fn what_is_sent_is_in_files_afterwards() {
        let place = Scratch::new("attachments");
        let named = Sent {
            file_name: Some("a]\n[b.txt".to_owned()),
            mime_type: Some("text/plain".to_owned()),
            ..sent("aGVsbG8=")
        };
        let decoded = decode(&[named, sent("data:image/png;base64,AAEC")]).unwrap();
        let stored = store(&place, decoded).unwrap();
        let about: Vec<_> = stored
            .iter()
            .map(|one| (one.mime_type.as_str(), one.file_name.as_deref(), one.size))
            .collect();
        assert_eq!(about, [("text/plain", Some("ab.txt"), 5), ("image/png", None, 3)]);
        assert_eq!(fs::read(place.join(&stored[0].path)).unwrap(), b"hello");
        assert!(stored[1].path.starts_with("media/inbound/") && stored[1].path.ends_with(".png"));
        let mode = fs::metadata(place.join(&stored[1].path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o664, "the agent's group reads it");
        assert!(picture(&place, &stored[1]).is_some() && picture(&place, &stored[0]).is_none());
    }

    #[test]
    fn no_link_of_the_agent_leads_out_of_the_workspace() {
        let place = Scratch::new("attachments-links");
        let (workspace, secrets) = (place.join("koi"), place.join("secrets"));
        fs::create_dir_all(workspace.join("media")).unwrap();
        fs::create_dir_all(secrets.join("inbound")).unwrap();
        let decoded = || decode(&[sent("data:image/png;base64,AAEC")]).unwrap();
        // In the place of a file.
        let stored = store(&workspace, decoded()).unwrap();
        fs::write(secrets.join("key.png"), "secret").unwrap();
        let file = workspace.join(&stored[0].path);
        fs::remove_file(&file).unwrap();
        symlink(secrets.join("key.png"), &file).unwrap();
        assert_eq!(picture(&workspace, &stored[0]), None);
        assert_eq!(prune(&workspace, i64::MAX, 0).unwrap(), 0);
        discard(&workspace, &stored);
        assert!(secrets.join("key.png").exists() && !file.is_symlink());
        // In the place of a directory, and of the workspace itself.
        fs::remove_dir_all(workspace.join("media")).unwrap();
        symlink(&secrets, workspace.join("media")).unwrap();
        let fault = store(&workspace, decoded()).unwrap_err();
        assert_eq!(fault.to_string(), "media is a symbolic link");
        fs::remove_dir_all(&workspace).unwrap();
        symlink(&secrets, &workspace).unwrap();
        assert!(store(&workspace, decoded()).is_err());
        assert_eq!(fs::read_dir(secrets.join("inbound")).unwrap().count(), 0);
    }

    #[test]
    fn files_of_the_agent_stay() {
        let place = Scratch::new("attachments-own");
        store(&place, decode(&[sent("AAEC")]).unwrap()).unwrap();
        fs::write(place.join("media/inbound/notes.txt"), "mine").unwrap();
        assert_eq!(prune(&place, i64::MAX, 0).unwrap(), 1);
        assert!(place.join("media/inbound/notes.txt").exists());
    }

    #[test]
    fn files_do_not_stay_for_ever() {
        let place = Scratch::new("attachments-pruned");
        assert_eq!(prune(&place, 0, 100).unwrap(), 0, "there was never one");
        let decoded = || decode(&[sent("AAEC"), sent("AAEC"), sent("AAEC")]).unwrap();
        let stored = store(&place, decoded()).unwrap();
        let path = |index: usize| place.join(&stored[index].path);
        let day = Duration::from_secs(24 * 3600);
        let begin = UNIX_EPOCH + 1000 * day;
        for (index, age) in [(0, 40), (1, 20), (2, 1)] {
            let file = File::options().write(true).open(path(index)).unwrap();
            file.set_modified(begin - age * day).unwrap();
        }
        let now_ms = i64::try_from((1000 * day).as_millis()).unwrap();
        assert_eq!(prune(&place, now_ms, 100).unwrap(), 1);
        assert!(!path(0).exists() && path(1).exists());
        assert_eq!(prune(&place, now_ms, 5).unwrap(), 1, "the oldest of what is too much");
        assert!(!path(1).exists() && path(2).exists());
        discard(&place, &stored[2..]);
        assert!(!path(2).exists());
    }

    #[test]
    fn what_is_wrong_or_too_much_is_named() {
        assert!(
            decode(&[sent("AAEC"), sent("not base64!")])
                .unwrap_err()
                .starts_with("at /attachments/1/content: must be base64")
        );
        let half = STANDARD.encode(vec![0; MOST_BYTES / 2 + 1]);
        assert!(
            decode(&[sent(&half), sent(&half)])
                .unwrap_err()
                .contains("20971520 bytes together")
        );
    }
}
