//! The words of a page: headings, paragraphs, lists and links, without what surrounds them.

/// Elements whose content nobody reads.
const SILENT: [&str; 12] = [
    "script", "style", "noscript", "template", "svg", "head", "nav", "footer", "aside", "form", "iframe", "object",
];

/// Elements that stand in lines of their own.
const BLOCKS: [&str; 26] = [
    "p",
    "div",
    "section",
    "article",
    "main",
    "header",
    "ul",
    "ol",
    "table",
    "tr",
    "blockquote",
    "pre",
    "hr",
    "br",
    "dl",
    "dt",
    "dd",
    "figure",
    "figcaption",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "li",
];

/// The text of a document.
pub(super) fn to_text(html: &str) -> String {
    let title = between(html, "<title", "</title", false).map(|title| entities(&squeezed(&title)));
    let inner = ["<main", "<article"]
        .into_iter()
        .zip(["</main", "</article"])
        .find_map(|(open, close)| {
            between(html, open, close, true)
                .map(|inner| words(&inner))
                .filter(|text| text.len() > 200)
        });
    let body = inner.unwrap_or_else(|| words(html));
    match title {
        Some(title) if !title.is_empty() && !body.contains(&title) => format!("# {title}\n\n{body}"),
        _ => body,
    }
}

/// What stands between the end of an opening tag and a closing one: the first, or the last.
fn between(html: &str, open: &str, close: &str, last: bool) -> Option<String> {
    let small = html.to_ascii_lowercase();
    let at = small.find(open)?;
    let from = at + small.get(at..)?.find('>')? + 1;
    let rest = small.get(from..)?;
    let to = from + if last { rest.rfind(close)? } else { rest.find(close)? };
    html.get(from..to).map(str::to_owned)
}

#[derive(Default)]
struct Writer {
    out: String,
    silent: Option<(String, usize)>,
    literal: usize,
    link: Option<(String, usize)>,
}

fn words(html: &str) -> String {
    let mut writer = Writer::default();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        writer.text(before);
        if let Some(comment) = tag.strip_prefix("<!--") {
            rest = comment
                .find("-->")
                .and_then(|end| comment.get(end + 3..))
                .unwrap_or_default();
            continue;
        }
        let name_follows = tag
            .get(1..)
            .is_some_and(|tag| tag.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?')));
        let Some(end) = end_of_tag(tag).filter(|_| name_follows) else {
            writer.text("<");
            rest = tag.get(1..).unwrap_or_default();
            continue;
        };
        writer.tag(tag.get(1..end).unwrap_or_default());
        rest = tag.get(end + 1..).unwrap_or_default();
    }
    writer.text(rest);
    tidy(&writer.out)
}

/// Where a tag ends; `>` in quotes is none.
fn end_of_tag(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in tag.char_indices().skip(1).take(8192) {
        match (quote, c) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    tag.find('>')
}

impl Writer {
    fn text(&mut self, text: &str) {
        if self.silent.is_some() || text.is_empty() {
            return;
        }
        let text = entities(text);
        if self.literal > 0 {
            return self.out.push_str(&text);
        }
        let begins = text.starts_with(char::is_whitespace);
        if begins && !self.out.ends_with(char::is_whitespace) {
            self.out.push(' ');
        }
        let squeezed = squeezed(&text);
        self.out.push_str(&squeezed);
        if !squeezed.is_empty() && text.ends_with(char::is_whitespace) {
            self.out.push(' ');
        }
    }

    fn tag(&mut self, tag: &str) {
        let closing = tag.starts_with('/');
        let bare = tag.trim_start_matches('/');
        let end = bare.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(bare.len());
        let name = bare.get(..end).unwrap_or_default().to_ascii_lowercase();
        if let Some((silent, depth)) = &mut self.silent {
            if *silent == name && !tag.ends_with('/') {
                *depth = if closing { depth.saturating_sub(1) } else { *depth + 1 };
                if *depth == 0 {
                    self.silent = None;
                }
            }
            return;
        }
        if !closing && SILENT.contains(&name.as_str()) {
            if !tag.ends_with('/') {
                self.silent = Some((name, 1));
            }
            return;
        }
        match (name.as_str(), closing) {
            ("a", false) => self.link = attribute(bare, "href").map(|href| (href, self.out.len())),
            ("a", true) => self.end_link(),
            ("td" | "th", true) => self.out.push_str(" | "),
            (name, closing) if BLOCKS.contains(&name) => self.block(name, closing),
            _ => {}
        }
    }

    fn block(&mut self, name: &str, closing: bool) {
        if name == "pre" {
            self.literal = if closing {
                self.literal.saturating_sub(1)
            } else {
                self.literal + 1
            };
            self.out.push_str("\n```\n");
            return;
        }
        let paragraph = !matches!(name, "br" | "tr" | "li" | "dt" | "dd");
        self.out.push_str(if paragraph { "\n\n" } else { "\n" });
        if closing {
            return;
        }
        match name {
            "li" => self.out.push_str("- "),
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                let level = name.get(1..).and_then(|level| level.parse().ok()).unwrap_or(1);
                self.out.push_str(&"#".repeat(level));
                self.out.push(' ');
            }
            _ => {}
        }
    }

    /// A link with words is shown with where it leads.
    fn end_link(&mut self) {
        let Some((href, at)) = self.link.take() else { return };
        let words = self.out.get(at..).unwrap_or_default().trim();
        if href.starts_with("http") && !words.is_empty() && words != href {
            self.out.push_str(&format!(" ({href})"));
        }
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let small = tag.to_ascii_lowercase();
    let at = small.find(&format!(" {name}="))? + name.len() + 2;
    let value = tag.get(at..)?;
    let value = match value.chars().next()? {
        quote @ ('"' | '\'') => value.get(1..)?.split(quote).next()?,
        _ => value.split(char::is_whitespace).next()?,
    };
    Some(entities(value.trim()))
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        let (before, entity) = rest.split_at(at);
        out.push_str(before);
        let end = entity
            .char_indices()
            .take(12)
            .find(|(_, c)| *c == ';')
            .map(|(end, _)| end);
        match end.and_then(|end| Some((decoded(entity.get(1..end)?)?, end))) {
            Some((c, end)) => {
                out.push(c);
                rest = entity.get(end + 1..).unwrap_or_default();
            }
            None => {
                out.push('&');
                rest = entity.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

fn decoded(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" | "rdquo" | "ldquo" => '"',
        "apos" | "rsquo" | "lsquo" => '\'',
        "nbsp" => ' ',
        "ndash" | "mdash" => '-',
        "hellip" => '\u{2026}',
        "copy" => '\u{a9}',
        "auml" => '\u{e4}',
        "ouml" => '\u{f6}',
        "uuml" => '\u{fc}',
        "szlig" => '\u{df}',
        "eacute" => '\u{e9}',
        "euro" => '\u{20ac}',
        _ => return None,
    })
}

/// No more than one empty line at a time, and nothing at the ends of lines.
fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = true;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            if !blank {
                out.push('\n');
            }
            blank = true;
        } else {
            out.push_str(line);
            out.push('\n');
            blank = false;
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_its_words() {
        let html = "<!DOCTYPE html><html><head><title>T &amp; U</title><style>x{}</style></head><body>\
            <nav><a href='/x'>menu</a></nav><h1>Head</h1><p>One <b>two</b>\n three &lt;4&gt; &#x41;&#66;</p>\
            <script>if (a < b) { alert('</p>') }</script><!-- no <p> --><ul><li>a<li>b</ul>\
            <a href=\"https://e.org/?a=1&amp;b=2\">link</a><pre>x\n  y</pre><footer>f</footer></body></html>";
        assert_eq!(
            to_text(html),
            "# T & U\n\n# Head\n\nOne two three <4> AB\n\n- a\n- b\n\nlink (https://e.org/?a=1&b=2)\n```\nx\n  y\n```"
        );
    }

    #[test]
    fn what_is_broken_ends_all_the_same() {
        for html in [
            "<",
            "<p",
            "a < b",
            "<script>",
            "<a href=",
            "&#xffffffff;&;",
            "<!--",
            "<p title=\"x>y",
            "</",
            "<title>",
            "<\u{e4}>",
        ] {
            let _ = to_text(html);
        }
        assert_eq!(to_text("a < b"), "a < b");
        let deep = "<div>".repeat(100_000);
        assert_eq!(to_text(&deep), "");
    }
}
