use std::fs;

use proptest::prelude::*;

use super::*;
use crate::file::tests::Scratch;

/// Where a line begins, and the line; none for one that is too long.
type Seen = (u64, Option<Vec<u8>>);

fn all(path: &Path, from: u64) -> (Vec<Seen>, u64) {
    let end = fs::metadata(path).unwrap().len();
    let mut lines = Lines::new(open(path).unwrap(), from, end);
    let mut found = Vec::new();
    let mut next = from;
    while let Some((at, length, line)) = lines.next().unwrap() {
        assert_eq!(at, next);
        next += length;
        found.push((
            at,
            match line {
                Line::Whole(line) => Some(line.to_vec()),
                Line::TooLong => None,
            },
        ));
    }
    assert_eq!(lines.at(), next);
    (found, next)
}

#[test]
fn lines_longer_than_the_bound_are_passed_over() {
    let place = Scratch::new("lines");
    let path = path(&place, "s");
    let long = vec![b'x'; MAX_LINE + 2 * CHUNK];
    fs::write(&path, [b"one\n".as_slice(), &long, b"\n\ntwo\ntor"].concat()).unwrap();
    let (lines, end) = all(&path, 0);
    let after = 4 + long.len() as u64 + 1;
    let expected = vec![
        (0, Some(b"one".to_vec())),
        (4, None),
        (after, Some(Vec::new())),
        (after + 1, Some(b"two".to_vec())),
    ];
    assert_eq!(lines, expected);
    assert_eq!(end, after + 5);
}

#[test]
fn a_torn_end_is_put_aside_and_cut_off() {
    let place = Scratch::new("torn");
    let file = path(&place, "s");
    for (number, torn) in [&b"{\"type\":\"mess"[..], b"\0\0\0\0", b"\xff"].into_iter().enumerate() {
        fs::write(&file, [b"{}\n", torn].concat()).unwrap();
        assert_eq!(mend(&place, "s", 3).unwrap(), 3);
        assert_eq!(fs::read(&file).unwrap(), b"{}\n");
        let aside = place.join(format!("s.jsonl.torn-3-{number}"));
        assert_eq!(fs::read(aside).unwrap(), torn);
    }
}

#[test]
fn a_whole_entry_without_its_line_end_gets_one() {
    let place = Scratch::new("whole");
    let file = path(&place, "s");
    fs::write(&file, "{}\n{\"type\":\"x\"}").unwrap();
    assert_eq!(mend(&place, "s", 3).unwrap(), 16);
    assert_eq!(fs::read_to_string(&file).unwrap(), "{}\n{\"type\":\"x\"}\n");
    assert_eq!(mend(&place, "s", 16).unwrap(), 16, "and that is that");
    assert_eq!(fs::read_dir(&*place).unwrap().count(), 1);
}

#[test]
fn links_and_pipes_are_no_transcripts() {
    let place = Scratch::new("link");
    fs::write(place.join("other"), "{}\n").unwrap();
    std::os::unix::fs::symlink(place.join("other"), path(&place, "link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path(&place, "pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for id in ["link", "pipe"] {
        assert!(open(&path(&place, id)).is_err(), "{id}");
        assert!(Writer::open(&place, id).is_err(), "{id}");
    }
    assert_eq!(fs::read_to_string(place.join("other")).unwrap(), "{}\n");
}

proptest! {
    #[test]
    fn lines_are_those_between_line_ends(content in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..400), repeat in 1..600_usize) {
        let place = Scratch::in_memory("any-lines");
        let path = path(&place, "s");
        let content = content.repeat(repeat);
        fs::write(&path, &content).unwrap();
        let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let expected: Vec<Vec<u8>> = content[..whole].split_inclusive(|byte| *byte == b'\n').map(|line| line[..line.len() - 1].to_vec()).collect();
        let (lines, end) = all(&path, 0);
        prop_assert_eq!(lines.into_iter().map(|(_, line)| line.unwrap()).collect::<Vec<_>>(), expected);
        prop_assert_eq!(end, whole as u64);
    }
}
