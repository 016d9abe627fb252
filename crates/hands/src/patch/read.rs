//! Reads patches.

/// What a patch does to one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Add {
        path: String,
        content: String,
    },
    Delete {
        path: String,
    },
    Update {
        path: String,
        to: Option<String>,
        hunks: Vec<Hunk>,
    },
}

/// Lines that are replaced by others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hunk {
    /// A line that stands before them.
    pub(super) head: Option<String>,
    pub(super) old: Vec<String>,
    pub(super) new: Vec<String>,
    /// They are the last ones of the file.
    pub(super) at_end: bool,
}

/// The parts of a patch.
pub(super) fn parts(input: &str) -> Result<Vec<Part>, String> {
    let mut lines = input.trim().lines().peekable();
    if lines.next().map(str::trim) != Some("*** Begin Patch") {
        return Err("a patch begins with the line \"*** Begin Patch\"".to_owned());
    }
    let mut parts = Vec::new();
    loop {
        let Some(line) = lines.next() else {
            return Err("a patch ends with the line \"*** End Patch\"".to_owned());
        };
        let line = line.trim_end();
        let mut body = Vec::new();
        if line == "*** End Patch" {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        while let Some(next) = lines.next_if(|next| !begins_part(next)) {
            body.push(next);
        }
        parts.push(part(line, &body)?);
    }
    if parts.is_empty() {
        return Err("the patch changes nothing".to_owned());
    }
    Ok(parts)
}

fn begins_part(line: &str) -> bool {
    [
        "*** Add File: ",
        "*** Delete File: ",
        "*** Update File: ",
        "*** End Patch",
    ]
    .iter()
    .any(|mark| line.starts_with(mark))
}

fn part(line: &str, body: &[&str]) -> Result<Part, String> {
    if let Some(path) = line.strip_prefix("*** Add File: ") {
        return added(path, body);
    }
    if let Some(path) = line.strip_prefix("*** Delete File: ") {
        return Ok(Part::Delete {
            path: path.trim().to_owned(),
        });
    }
    if let Some(path) = line.strip_prefix("*** Update File: ") {
        return update(path, body);
    }
    Err(format!(
        "{:?} begins no part; allowed: *** Add File: , *** Delete File: , *** Update File: ",
        crate::text::short(line, 80)
    ))
}

fn added(path: &str, body: &[&str]) -> Result<Part, String> {
    let mut content = String::new();
    for line in body {
        let Some(line) = line.strip_prefix('+') else {
            return Err(format!("{path}: each line of a new file begins with +"));
        };
        content.push_str(line);
        content.push('\n');
    }
    Ok(Part::Add {
        path: path.trim().to_owned(),
        content,
    })
}

fn update(path: &str, body: &[&str]) -> Result<Part, String> {
    let path = path.trim().to_owned();
    let mut to = None;
    let mut hunks: Vec<Hunk> = Vec::new();
    let mut open = false;
    for line in body {
        if let Some(target) = line.strip_prefix("*** Move to: ") {
            to = Some(target.trim().to_owned());
            continue;
        }
        if line.trim_end() == "*** End of File" {
            if let Some(hunk) = hunks.last_mut() {
                hunk.at_end = true;
            }
            open = false;
            continue;
        }
        if let Some(head) = line.strip_prefix("@@") {
            let head = head.trim().trim_end_matches("@@").trim();
            let is_range = head.starts_with('-') && head.contains('+');
            hunks.push(Hunk {
                head: (!head.is_empty() && !is_range).then(|| head.to_owned()),
                ..Hunk::default()
            });
            open = true;
            continue;
        }
        if !open {
            hunks.push(Hunk::default());
            open = true;
        }
        let Some(hunk) = hunks.last_mut() else { continue };
        match line.split_at_checked(1) {
            Some(("+", rest)) => hunk.new.push(rest.to_owned()),
            Some(("-", rest)) => hunk.old.push(rest.to_owned()),
            Some((" ", rest)) => {
                hunk.old.push(rest.to_owned());
                hunk.new.push(rest.to_owned());
            }
            None => {
                hunk.old.push(String::new());
                hunk.new.push(String::new());
            }
            Some(_) => {
                return Err(format!(
                    "{path}: {:?} begins neither with a blank nor with + or -",
                    crate::text::short(line, 80)
                ));
            }
        }
    }
    if hunks.is_empty() && to.is_none() {
        return Err(format!("{path}: nothing is to be changed"));
    }
    Ok(Part::Update { path, to, hunks })
}
