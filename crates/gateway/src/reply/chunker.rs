//! Cuts a text that streams into blocks for channels: at paragraphs rather than lines, at lines rather than sentences, at those rather
//! than anywhere. Code blocks stay whole where they fit; where not, each part of them is a code block of its own. Nothing is ever cut
//! within a character as people see it.

mod fence;

use unicode_segmentation::GraphemeCursor;

use self::fence::{Fence, fences};

/// Where a block ends best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakAt {
    /// At a blank line, else as below.
    Paragraph,
    /// At the end of a line, else as below.
    Newline,
    /// At the end of a sentence.
    Sentence,
}

/// How a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunking {
    /// Smaller blocks are not made before the end.
    pub(crate) min_chars: usize,
    /// Larger ones never.
    pub(crate) max_chars: usize,
    /// Where a block ends best.
    pub(crate) break_at: BreakAt,
    /// Every paragraph is a block, however small.
    pub(crate) by_paragraph: bool,
}

/// The least that `max_chars` can be: less does not hold a code block.
const LEAST_MAX: usize = 32;

impl Chunking {
    /// The same with sizes that make sense together.
    pub(crate) fn sane(self) -> Self {
        let max_chars = self.max_chars.max(LEAST_MAX);
        Self {
            max_chars,
            min_chars: self.min_chars.min(max_chars),
            ..self
        }
    }
}

/// Cuts a text while it comes.
#[derive(Clone, Debug)]
pub(crate) struct Chunker {
    chunking: Chunking,
    buffer: String,
    /// Bytes of what came that have gone out.
    consumed: usize,
    /// Bytes at the front of the buffer that did not come: the line that opens a code block anew.
    added: usize,
}

impl Chunker {
    /// Nothing has come yet.
    pub(crate) fn new(chunking: Chunking) -> Self {
        Self {
            chunking: chunking.sane(),
            buffer: String::new(),
            consumed: 0,
            added: 0,
        }
    }

    /// How many bytes of what came are in blocks that went out, or between them.
    pub(crate) fn consumed(&self) -> usize {
        self.consumed
    }

    /// So many bytes leave the front of the buffer.
    fn leave(&mut self, bytes: usize) {
        let added = self.added.min(bytes);
        self.added -= added;
        self.consumed += bytes - added;
    }

    /// More text; gives the blocks that are complete.
    pub(crate) fn push(&mut self, text: &str) -> Vec<String> {
        self.buffer.push_str(text);
        self.cut(false)
    }

    /// The text is at its end; gives what is left of it.
    pub(crate) fn finish(&mut self) -> Vec<String> {
        self.cut(true)
    }

    fn cut(&mut self, all: bool) -> Vec<String> {
        let mut blocks = Vec::new();
        while let Some(block) = self.next(all) {
            if !block.trim().is_empty() {
                blocks.push(block);
            }
        }
        blocks
    }

    /// Takes one block off the front.
    fn next(&mut self, all: bool) -> Option<String> {
        let Chunking {
            min_chars, max_chars, ..
        } = self.chunking;
        let fences = fences(&self.buffer);
        let first = || paragraphs(&self.buffer, self.buffer.len()).find(|at| *at > 0 && free(*at, &fences));
        let small = self.chunking.by_paragraph.then(first).flatten();
        if let Some(at) = small.filter(|at| char_count(&self.buffer, *at) <= max_chars) {
            return Some(self.take(at));
        }
        let Some(most) = byte_of(&self.buffer, max_chars) else {
            // Everything fits into one block.
            if all {
                return (!self.buffer.is_empty()).then(|| self.take(self.buffer.len()));
            }
            let least = byte_of(&self.buffer, min_chars.max(1))?;
            let at = self.best(least, self.buffer.len(), &fences)?;
            return Some(self.take(at));
        };
        let least = byte_of(&self.buffer, min_chars.max(1)).unwrap_or(0);
        let at = self
            .best(least, most, &fences)
            .or_else(|| blank(&self.buffer, least, most, &fences));
        if let Some(at) = at {
            return Some(self.take(at));
        }
        if let Some(fence) = fences.iter().find(|fence| fence.holds(most)) {
            // A code block that begins late enough goes whole into the next one.
            if fence.start > 0 && (fence.start >= least || self.fits(fence)) {
                return Some(self.take(fence.start));
            }
            if let Some(opener) = &fence.opener {
                return Some(self.split_fence(fence.start, opener.clone()));
            }
        }
        let at = grapheme_before(&self.buffer, most);
        Some(self.take(at))
    }

    /// Does a code block fit into a block of its own?
    fn fits(&self, fence: &Fence) -> bool {
        let length = fence.end.min(self.buffer.len()) - fence.start;
        let text = self.buffer.get(fence.start..fence.start + length).unwrap_or_default();
        text.chars().count() <= self.chunking.max_chars
    }

    fn best(&self, least: usize, most: usize, fences: &[Fence]) -> Option<usize> {
        let text = &self.buffer;
        let by_line = || line(text, least, most, fences);
        let by_sentence = || sentence(text, least, most, fences);
        match self.chunking.break_at {
            BreakAt::Paragraph => paragraph(text, least, most, fences)
                .or_else(by_line)
                .or_else(by_sentence),
            BreakAt::Newline => by_line().or_else(by_sentence),
            BreakAt::Sentence => by_sentence(),
        }
    }

    /// Takes a block off; blanks or blank lines between it and the rest belong to neither.
    fn take(&mut self, at: usize) -> String {
        let whole = self.buffer.len();
        let rest = self.buffer.split_off(at.min(whole));
        let block = std::mem::replace(&mut self.buffer, rest);
        let rest = match self.buffer.strip_prefix(' ') {
            Some(rest) => rest.trim_start_matches(' '),
            // What is indented after a line end stays so.
            None => self.buffer.trim_start_matches(['\n', '\r']),
        };
        self.buffer.drain(..self.buffer.len() - rest.len());
        self.leave(whole - self.buffer.len());
        block.trim_end().to_owned()
    }

    /// Takes a part of a code block off that fits, closes it, and opens the rest anew.
    fn split_fence(&mut self, start: usize, opener: fence::Opener) -> String {
        let max = self.chunking.max_chars;
        let closer = opener.marker.clone();
        // The line that opens it may be longer than what fits; its marker is not.
        let again = if opener.line.chars().count() * 2 > max {
            closer.clone()
        } else {
            opener.line
        };
        let body = self
            .buffer
            .get(start..)
            .and_then(|text| text.find('\n'))
            .map_or(0, |at| start + at + 1);
        let room = max.saturating_sub(closer.chars().count() + 1);
        let most = byte_of(&self.buffer, room).unwrap_or(self.buffer.len());
        if body == 0 || most <= body {
            // Not even the first line fits: it is no code block that anybody could read.
            let at = grapheme_before(&self.buffer, byte_of(&self.buffer, max).unwrap_or(self.buffer.len()));
            return self.take(at);
        }
        let line_end = self
            .buffer
            .get(body..most)
            .and_then(|text| text.rfind('\n'))
            .map(|at| body + at + 1);
        let at = line_end
            .filter(|at| *at > body)
            .unwrap_or_else(|| grapheme_before(&self.buffer, most).max(body + 1));
        let at = if self.buffer.is_char_boundary(at) {
            at
        } else {
            grapheme_before(&self.buffer, most)
        };
        let rest = self.buffer.split_off(at);
        self.leave(at);
        self.added += again.len() + 1;
        let mut block = std::mem::take(&mut self.buffer);
        if !block.ends_with('\n') {
            block.push('\n');
        }
        block.push_str(&closer);
        self.buffer = format!("{again}\n{rest}");
        block
    }
}

fn char_count(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |text| text.chars().count())
}

/// Where the character of this number begins; none when the text has no more than so many.
fn byte_of(text: &str, chars: usize) -> Option<usize> {
    text.char_indices().nth(chars).map(|(at, _)| at)
}

fn free(at: usize, fences: &[Fence]) -> bool {
    !fences.iter().any(|fence| fence.holds(at))
}

/// Ends of lines that a blank one follows.
fn paragraphs(text: &str, most: usize) -> impl Iterator<Item = usize> {
    let lines = text.get(..most).unwrap_or_default().match_indices('\n');
    lines.map(|(at, _)| at).filter(|at| {
        let next = text.get(at + 1..).unwrap_or_default();
        next.trim_start_matches([' ', '\t', '\r']).starts_with('\n')
    })
}

/// The last blank line within the bounds; the block ends before it.
fn paragraph(text: &str, least: usize, most: usize, fences: &[Fence]) -> Option<usize> {
    last(paragraphs(text, most), least, fences)
}

fn line(text: &str, least: usize, most: usize, fences: &[Fence]) -> Option<usize> {
    last(text.get(..most)?.match_indices('\n').map(|(at, _)| at), least, fences)
}

/// After the last mark that ends a sentence and is followed by a blank; at the end of the text it may go on.
fn sentence(text: &str, least: usize, most: usize, fences: &[Fence]) -> Option<usize> {
    let ends = text.get(..most)?.match_indices(['.', '!', '?']).filter_map(|(at, _)| {
        let next = text.get(at + 1..)?.chars().next()?;
        next.is_whitespace().then_some(at + 1)
    });
    last(ends, least, fences)
}

/// At the last blank.
fn blank(text: &str, least: usize, most: usize, fences: &[Fence]) -> Option<usize> {
    let blanks = text.get(..most)?.match_indices(char::is_whitespace).map(|(at, _)| at);
    last(blanks, least, fences)
}

fn last(breaks: impl Iterator<Item = usize>, least: usize, fences: &[Fence]) -> Option<usize> {
    breaks.filter(|at| *at >= least && *at > 0 && free(*at, fences)).last()
}

/// The last place at or before this one that is within no character as people see it. Something longer than a block is cut at a code point.
fn grapheme_before(text: &str, at: usize) -> usize {
    let mut cursor = GraphemeCursor::new(at, text.len(), true);
    match cursor.is_boundary(text, 0) {
        Ok(false) => match cursor.prev_boundary(text, 0) {
            Ok(Some(before)) if before > 0 => before,
            Ok(_) | Err(_) => at,
        },
        Ok(true) | Err(_) => at,
    }
}

#[cfg(test)]
mod tests;
