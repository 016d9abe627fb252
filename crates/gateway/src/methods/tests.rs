//! The joined tables.

use super::*;

#[test]
fn no_name_is_in_two_tables() {
    let all = FAMILIES.iter().map(|family| family.len()).sum::<usize>();
    assert_eq!(NAMES.len(), all);
}
