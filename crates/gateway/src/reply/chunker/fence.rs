//! Code blocks of a text: fenced ones, and lines that are indented after a blank one.

/// The line that opens a fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opener {
    /// The whole line, without its end.
    pub(super) line: String,
    /// What closes it.
    pub(super) marker: String,
}

/// A code block: where it begins and ends, in bytes, without the end of its last line. One that is still open has no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) start: usize,
    pub(super) end: usize,
    /// None for an indented one.
    pub(super) opener: Option<Opener>,
}

impl Fence {
    /// Is the place within it?
    pub(super) fn holds(&self, at: usize) -> bool {
        self.start < at && at < self.end
    }
}

/// All code blocks, in order.
pub(super) fn fences(text: &str) -> Vec<Fence> {
    let mut found: Vec<Fence> = Vec::new();
    let mut open: Option<(usize, Opener)> = None;
    let (mut at, mut after_blank, mut indented) = (0, true, None);
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let bare = line.trim_end_matches(['\n', '\r']);
        if let Some((begin, opener)) = &open {
            if closes(bare, &opener.marker) {
                found.push(Fence {
                    start: *begin,
                    end: start + bare.len(),
                    opener: Some(opener.clone()),
                });
                open = None;
            }
            after_blank = false;
            continue;
        }
        let is_code = !bare.trim().is_empty() && (bare.starts_with("    ") || bare.starts_with('\t'));
        match (indented, is_code) {
            (None, true) if after_blank => indented = Some((start, start + bare.len())),
            (Some((begin, _)), true) => indented = Some((begin, start + bare.len())),
            (Some((begin, last)), false) if !bare.trim().is_empty() => {
                found.push(indent(begin, last));
                indented = None;
            }
            _ => {}
        }
        after_blank = bare.trim().is_empty();
        if let Some(opener) = opens(bare) {
            open = Some((start, opener));
        }
    }
    if let Some((begin, last)) = indented {
        found.push(indent(begin, last));
    }
    if let Some((start, opener)) = open {
        found.push(Fence {
            start,
            end: usize::MAX,
            opener: Some(opener),
        });
    }
    found
}

fn indent(start: usize, end: usize) -> Fence {
    Fence {
        start,
        end,
        opener: None,
    }
}

fn opens(line: &str) -> Option<Opener> {
    let (indent, mark, count) = run(line)?;
    let info = line.get(indent + count..)?;
    if mark == '`' && info.contains('`') {
        return None;
    }
    Some(Opener {
        line: line.to_owned(),
        marker: mark.to_string().repeat(count),
    })
}

fn closes(line: &str, marker: &str) -> bool {
    run(line).is_some_and(|(indent, mark, count)| {
        marker.starts_with(mark)
            && count >= marker.len()
            && line.get(indent + count..).is_some_and(|rest| rest.trim().is_empty())
    })
}

/// Indentation, mark and length of the run of marks that a line begins with.
fn run(line: &str) -> Option<(usize, char, usize)> {
    let rest = line.trim_start_matches(' ');
    let indent = line.len() - rest.len();
    let mark = rest.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let count = rest.len() - rest.trim_start_matches(mark).len();
    (indent <= 3 && count >= 3).then_some((indent, mark, count))
}
