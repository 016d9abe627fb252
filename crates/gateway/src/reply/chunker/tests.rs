use proptest::prelude::*;
use unicode_segmentation::UnicodeSegmentation;

use super::*;

fn chunking(min_chars: usize, max_chars: usize) -> Chunking {
    Chunking {
        min_chars,
        max_chars,
        break_at: BreakAt::Paragraph,
        by_paragraph: false,
    }
}

fn cut(chunking: Chunking, text: &str) -> Vec<String> {
    let mut chunker = Chunker::new(chunking);
    let mut blocks = chunker.push(text);
    blocks.extend(chunker.finish());
    blocks
}

#[test]
fn paragraphs_before_lines_before_sentences_before_blanks() {
    let text = "One two three four. Five six\nseven eight nine ten.\n\nEleven twelve thirteen fourteen fifteen";
    assert_eq!(
        cut(chunking(10, 60), text),
        [
            "One two three four. Five six\nseven eight nine ten.",
            "Eleven twelve thirteen fourteen fifteen"
        ]
    );
    assert_eq!(
        cut(chunking(10, 40), text),
        [
            "One two three four. Five six",
            "seven eight nine ten.",
            "Eleven twelve thirteen fourteen fifteen"
        ]
    );
    let sentences = "Aaa bbb ccc ddd. Eee fff ggg hhh iii. Jjj kkk lll mmm nnn ooo ppp qqq rrr sss";
    assert_eq!(
        cut(chunking(5, 40), sentences),
        [
            "Aaa bbb ccc ddd. Eee fff ggg hhh iii.",
            "Jjj kkk lll mmm nnn ooo ppp qqq rrr sss"
        ]
    );
    assert_eq!(
        cut(chunking(5, 32), &"x".repeat(70)),
        ["x".repeat(32), "x".repeat(32), "x".repeat(6)]
    );
}

#[test]
fn a_code_block_stays_whole_where_it_fits() {
    let text = "Look at this:\n```rust\nfn main() {}\n\nfn other() {}\n```\nThat was it, and more of it follows here.";
    let blocks = cut(chunking(10, 45), text);
    assert_eq!(
        blocks,
        [
            "Look at this:",
            "```rust\nfn main() {}\n\nfn other() {}\n```",
            "That was it, and more of it follows here."
        ]
    );
}

#[test]
fn a_code_block_that_does_not_fit_becomes_several() {
    let body: String = (0..12).map(|n| format!("line number {n}\n")).collect();
    let blocks = cut(chunking(10, 64), &format!("~~~sh\n{body}~~~\nend"));
    assert!(blocks.len() > 2, "{blocks:?}");
    for block in &blocks[..blocks.len() - 1] {
        assert!(
            block.starts_with("~~~sh\n") && block.contains("\n~~~") && block.chars().count() <= 64,
            "{block}"
        );
    }
    let lines: Vec<&str> = blocks
        .iter()
        .flat_map(|block| block.lines())
        .filter(|line| line.starts_with("line"))
        .collect();
    assert_eq!(lines, body.lines().collect::<Vec<_>>());
    let long = format!("```{}\ncode\ncode\n```", "x".repeat(50));
    assert!(
        cut(chunking(1, 32), &long)
            .iter()
            .all(|block| block.chars().count() <= 32)
    );
}

#[test]
fn nothing_goes_out_too_early() {
    let mut chunker = Chunker::new(chunking(20, 60));
    assert_eq!(chunker.push("Short.\n\nAlso."), [""; 0]);
    assert_eq!(
        chunker.push(" And now it is long enough.\n\nNext"),
        ["Short.\n\nAlso. And now it is long enough."]
    );
    assert_eq!(chunker.push("\n```\ncode that is open\n\nstill"), [""; 0]);
    assert_eq!(chunker.finish(), ["Next\n```\ncode that is open\n\nstill"]);
}

#[test]
fn every_paragraph_alone() {
    let settings = Chunking {
        by_paragraph: true,
        ..chunking(800, 1200)
    };
    assert_eq!(
        cut(settings, "a\n\nb\n\n```\nx\n\ny\n```\n\nc"),
        ["a", "b", "```\nx\n\ny\n```", "c"]
    );
}

#[test]
fn people_are_not_cut_in_half() {
    let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
    let blocks = cut(chunking(1, 32), &family.repeat(10));
    assert!(blocks.len() > 1);
    for block in blocks {
        assert!(block.graphemes(true).all(|grapheme| grapheme == family), "{block}");
    }
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    let piece = prop_oneof![
        6 => "[a-zA-Z,]{1,12}",
        4 => Just(" ".to_owned()),
        2 => Just(". ".to_owned()),
        3 => Just("\n".to_owned()),
        2 => Just("\n\n".to_owned()),
        2 => Just("\n```\n".to_owned()),
        1 => Just("\n```rust extra\n".to_owned()),
        1 => Just("\n~~~~\n".to_owned()),
        1 => Just("\n    indented\n".to_owned()),
        1 => Just("é👍🏽\u{301}".to_owned()),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..80)
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}

proptest! {
    #[test]
    fn blocks_are_bounded_and_nothing_is_lost(
        pieces in texts(),
        min in 0_usize..80,
        max in 0_usize..120,
        by_paragraph in any::<bool>(),
        break_at in prop::sample::select(&[BreakAt::Paragraph, BreakAt::Newline, BreakAt::Sentence][..]),
    ) {
        let settings = Chunking { min_chars: min, max_chars: max, break_at, by_paragraph };
        let text = pieces.concat();
        let mut chunker = Chunker::new(settings);
        let (mut streamed, mut came, mut gone) = (Vec::new(), 0, 0);
        for piece in &pieces {
            streamed.extend(chunker.push(piece));
            came += piece.len();
            prop_assert!((gone..=came).contains(&chunker.consumed()));
            gone = chunker.consumed();
            prop_assert!(text.is_char_boundary(gone));
        }
        streamed.extend(chunker.finish());
        prop_assert_eq!(chunker.consumed(), text.len());
        for blocks in [&streamed, &cut(settings, &text)] {
            for block in blocks {
                prop_assert!(block.chars().count() <= settings.sane().max_chars, "{block:?}");
                prop_assert!(!block.trim().is_empty());
            }
            // Opener lines are repeated where a code block is cut; all else comes once and in order.
            let rest = blocks.iter().map(|block| letters(block)).collect::<String>();
            let rest = rest.replace("rustextra", "");
            if !text.contains('`') && !text.contains('~') {
                prop_assert_eq!(&rest, &letters(&text));
            } else {
                let wanted = letters(&text).replace("rustextra", "");
                prop_assert!(rest.len() >= wanted.len(), "{rest} of {wanted}");
            }
        }
    }
}
