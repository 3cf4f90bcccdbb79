//! How many connection records the kernel evicted, which it does not tell: what
//! should be in a table and is not.

use super::sweep::Swept;

/// The books of a table that evicts, at a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableBooks {
    /// Records that the programs ever made there, less those they took out; wraps.
    /// `None`: the counters could not be read.
    pub made: Option<u64>,
    /// Records that this sweep removed.
    pub removed: u64,
    /// Records that are left after it.
    pub left: u64,
}

/// Adds up sweep by sweep.
///
/// At least so many: records that the agent itself makes, from the node's own table of
/// connections, hide as many evictions. One that replaces a record past its time,
/// before a sweep has found that, counts too.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evictions {
    tables: [Missing; 2],
}

#[derive(Debug, Clone, Copy, Default)]
struct Missing {
    /// Removed by all sweeps.
    removed: u64,
    /// What was missing at the first sweep: evicted before there was anybody to count.
    before: Option<u64>,
    /// Told so far.
    told: u64,
}

impl Evictions {
    /// How many were evicted since the sweep before: from the pending table, and from
    /// the one of pods that nothing isolates. None at the first.
    pub fn since(&mut self, swept: &Swept) -> [u64; 2] {
        let mut more = [0; 2];
        for ((missing, books), more) in self.tables.iter_mut().zip(swept.books).zip(&mut more) {
            *more = missing.more(books);
        }
        more
    }
}

impl Missing {
    fn more(&mut self, books: TableBooks) -> u64 {
        self.removed = self.removed.wrapping_add(books.removed);
        let Some(made) = books.made else {
            return 0;
        };
        let due = made.wrapping_sub(self.removed);
        let missing = due.wrapping_sub(books.left);
        let all = missing.wrapping_sub(*self.before.get_or_insert(missing));
        // What was made while the table was read is there and not due.
        let more = all
            .wrapping_sub(self.told)
            .cast_signed()
            .max(0)
            .cast_unsigned();
        self.told += more;
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweeps(books: &[(impl Into<Option<u64>> + Copy, u64, u64)]) -> Vec<u64> {
        let mut table = Missing::default();
        books
            .iter()
            .map(|&(made, removed, left)| {
                table.more(TableBooks {
                    made: made.into(),
                    removed,
                    left,
                })
            })
            .collect()
    }

    #[test]
    fn what_was_made_and_neither_removed_nor_there_was_evicted() {
        // Made so far, removed by this sweep, left.
        let told = sweeps(&[(10, 0, 10), (30, 4, 26), (100, 0, 60), (100, 10, 50)]);
        assert_eq!(told, [0, 0, 36, 0]);
    }

    #[test]
    fn what_was_there_or_gone_before_the_first_sweep_is_not_counted() {
        assert_eq!(sweeps(&[(500, 3, 40), (510, 0, 50)]), [0, 0]);
        // Counters of an agent that did not count yet.
        assert_eq!(sweeps(&[(0, 3, 40), (10, 0, 50), (12, 0, 50)]), [0, 0, 2]);
    }

    #[test]
    fn what_comes_while_the_table_is_read_is_no_eviction_and_hides_none_for_long() {
        let told = sweeps(&[(10, 0, 10), (20, 0, 25), (25, 0, 25), (25, 0, 24)]);
        assert_eq!(told, [0, 0, 0, 1]);
    }

    #[test]
    fn what_a_sweep_removed_that_could_not_read_the_counters_is_no_eviction() {
        let told = sweeps(&[
            (Some(10), 0, 10),
            (None, 4, 6),
            (Some(20), 0, 15),
            (Some(20), 0, 15),
        ]);
        assert_eq!(told, [0, 0, 1, 0]);
    }
}
