//! The tables of the README that repeat facts of the ABI say what the ABI says.

use std::collections::{BTreeMap, BTreeSet};

use policy_common::abi::event::DropReason;
use policy_common::abi::maps::{ALL, F_MMAPABLE, F_NO_PREALLOC};

const README: &str = include_str!("../../README.md");

/// The cells of the rows of the table with this header.
fn table(header: &str) -> Vec<Vec<&'static str>> {
    let mut lines = README.lines().skip_while(|line| *line != header);
    assert!(lines.next().is_some(), "README.md has no table {header}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| row.trim_matches('|').split('|').map(str::trim).collect();
    rows.map(cells).collect()
}

/// What stands between backquotes.
fn quoted(cell: &'static str) -> impl Iterator<Item = &'static str> {
    cell.split('`').skip(1).step_by(2)
}

/// A number with commas, in front of a cell.
fn number(cell: &str) -> u32 {
    let digits = cell.split(' ').next().unwrap_or_default().replace(',', "");
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{cell:?} starts with no number"))
}

#[test]
fn table_of_maps_has_every_map_with_its_type_and_capacity() {
    let mut told = BTreeMap::new();
    for row in table("| map | type | key -> value | capacity |") {
        for name in quoted(row[0]) {
            assert_eq!(told.insert(name, (row[1], number(row[3]))), None, "{name}");
        }
    }
    let kind = |map_type: u32, flags: u32| {
        let flag = |flag: usize| flags & u32::try_from(flag).expect("a bit of 32") != 0;
        match map_type {
            1 if flag(F_NO_PREALLOC) => "hash",
            1 => "hash, preallocated",
            2 if flag(F_MMAPABLE) => "array, memory-mapped",
            2 => "array",
            6 => "per-CPU array",
            9 => "LRU hash",
            11 => "LPM trie",
            27 => "ring buffer",
            other => panic!("map type {other}"),
        }
    };
    let facts = ALL.map(|map| (map.name, (kind(map.map_type, map.flags), map.max_entries)));
    assert_eq!(told, BTreeMap::from(facts));
}

#[test]
fn table_of_reasons_has_every_reason_and_no_other() {
    let rows = table("| reason | what it means |");
    let told: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    let facts: BTreeSet<&str> = DropReason::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(told, facts);
}
