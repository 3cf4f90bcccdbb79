//! Memory that many objects took goes back to the system.
//!
//! The allocator keeps what is freed, but for what happens to be at the end of its
//! heap: after a list of 5,000 pods had come and gone, 2.5 MB were in use and 35 MB
//! resident, and stayed so however often they came again. So the agent asks for it
//! when so much has changed that it may be worth it, and not in the way of a change:
//! the loop says when.

use super::state::State;

/// Objects that change between two times, at least. A pod takes 1 to 5 KiB, most
/// of it while it is read, so less than 5 MiB are at stake.
const WORTH: usize = 1_000;

/// Sweeps after one that was worth it that are so, too: what is remembered a while
/// of objects that went, for events that are late, is freed until then.
const AFTERMATH: u8 = 2;

/// How much has changed since memory was given back.
#[derive(Debug, Default)]
pub(super) struct Memory {
    changed: usize,
    /// Sweeps at which it will be worth it whatever changes.
    still: u8,
}

impl Memory {
    /// Takes note of objects that came, went or changed.
    pub(super) fn changed(&mut self, objects: usize) {
        self.changed = self.changed.saturating_add(objects);
    }

    /// Whether it is worth it at this sweep; begins to count anew then.
    fn is_due(&mut self) -> bool {
        if self.changed >= WORTH {
            self.changed = 0;
            self.still = AFTERMATH;
            return true;
        }
        let due = self.still > 0;
        self.still = self.still.saturating_sub(1);
        due
    }
}

impl State {
    /// Gives memory back, if much has changed since the last time.
    pub(super) fn give_back_memory(&mut self) {
        if self.memory.is_due() {
            self.source.prune();
            trim();
        }
    }
}

/// Whole pages that are free, anywhere in the heap of any thread: some
/// milliseconds, which is why it is not done after every change.
#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes a number of bytes to keep, may be called at any time from any
    // thread, and touches nothing that is allocated (malloc_trim(3)).
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give back what is free by themselves, or have no way to ask.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// One heap for all threads, to be asked for before there is more than one: what
/// others have at the end of theirs, nobody gives back. Hardly any two threads of the
/// agent work at once.
#[cfg(target_env = "gnu")]
pub(super) fn share_heap() {
    // SAFETY: it takes two numbers, and sets one that counts when a thread asks for
    // its first memory (mallopt(3)).
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// As with [`trim`].
#[cfg(not(target_env = "gnu"))]
pub(super) fn share_heap() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_for_all_that_changed_and_until_that_is_forgotten() {
        let mut memory = Memory::default();
        memory.changed(WORTH - 1);
        assert!(!memory.is_due());
        memory.changed(1);
        for _sweep in 0..=AFTERMATH {
            assert!(memory.is_due());
        }
        assert!(!memory.is_due(), "nothing has changed since");
        memory.changed(usize::MAX);
        memory.changed(usize::MAX);
        assert!(memory.is_due());
    }
}
