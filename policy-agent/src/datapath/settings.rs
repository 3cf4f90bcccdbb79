//! The one element of the settings map: stores through the mapping, so that a
//! packet sees each setting whole.

use std::{io, mem::offset_of};

use policy_common::abi::config::{
    Config, FLAG_CIDR4, FLAG_CIDR6, FLAG_EGRESS, FLAG_ENFORCE_OFF, FLAG_SERVICES,
};

use super::{map::MapError, maps::Maps};

/// What an agent sets when it starts, and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Confirmed connections that each endpoint may have.
    pub ct_budget: u32,
    /// Events that each CPU may send per tick.
    pub events_per_tick: u32,
    /// The lowest of our bits in a packet's mark.
    pub mark_shift: u32,
}

impl Maps {
    /// Makes the settings what they are to be, wherever they are not; whether any
    /// was not. The emergency switch is the user's and stays as it is.
    ///
    /// Of the flags that tell programs where to look, those that are missing are
    /// set; one too many costs time and changes no verdict. Generation and
    /// endpoint number are at least these afterwards.
    ///
    /// # Errors
    ///
    /// [`MapError`] when a map cannot be read.
    pub fn restore(
        &self,
        wanted: &Settings,
        generation: u32,
        endpoint_number: u32,
    ) -> Result<bool, MapError> {
        let found = self.config();
        let mut flags = 0;
        for (flag, needed) in [
            (FLAG_CIDR4, !self.cidr4.is_empty()?),
            (FLAG_CIDR6, !self.cidr6.is_empty()?),
            (FLAG_SERVICES, !self.services.is_empty()?),
            (FLAG_EGRESS, self.isolates_some_egress()),
        ] {
            if needed {
                flags |= flag;
            }
        }
        let missing = flags & !found.flags;
        if missing != 0 {
            self.set_flag(missing, true)?;
        }
        let kept = Settings {
            ct_budget: found.ct_budget,
            events_per_tick: found.events_per_tick,
            mark_shift: found.mark_shift,
        };
        if kept != *wanted {
            self.configure(wanted.ct_budget, wanted.events_per_tick)?;
            self.set_mark_shift(wanted.mark_shift)?;
        }
        self.note_generation(generation)?;
        self.note_endpoint_number(endpoint_number)?;
        let went_back = found.generation < generation || found.endpoint_number < endpoint_number;
        Ok(missing != 0 || kept != *wanted || went_back)
    }

    /// Sets how many confirmed connections each endpoint may have, and how many
    /// events each CPU may send per tick
    /// ([`policy_common::abi::config::EVENT_TICK_NS`]).
    ///
    /// # Errors
    ///
    /// None in practice: the element is always there.
    pub fn configure(&self, ct_budget: u32, events_per_tick: u32) -> Result<(), MapError> {
        self.store_config(offset_of!(Config, ct_budget), ct_budget)?;
        self.store_config(offset_of!(Config, events_per_tick), events_per_tick)
    }

    /// Sets the lowest of our bits in a packet's mark
    /// ([`policy_common::abi::mark`]).
    ///
    /// # Errors
    ///
    /// As [`Self::configure`].
    pub fn set_mark_shift(&self, shift: u32) -> Result<(), MapError> {
        self.store_config(offset_of!(Config, mark_shift), shift)
    }

    /// The emergency switch: with `false` nothing is denied any more, from the
    /// next packet on.
    ///
    /// # Errors
    ///
    /// As [`Self::configure`].
    pub fn set_enforce(&self, on: bool) -> Result<(), MapError> {
        self.set_flag(FLAG_ENFORCE_OFF, !on)
    }

    /// Sets or clears `FLAG_*` of [`policy_common::abi::config`].
    pub(super) fn set_flag(&self, flag: u32, on: bool) -> Result<(), MapError> {
        // One atomic operation: the command line switches enforcement while an
        // agent keeps its own flags.
        self.config
            .set_bits32(0, offset_of!(Config, flags), flag, on)
            .map_err(stored)
    }

    /// Notes the newest generation; never goes back.
    pub(super) fn note_generation(&self, generation: u32) -> Result<(), MapError> {
        if generation <= self.config().generation {
            return Ok(());
        }
        self.store_config(offset_of!(Config, generation), generation)
    }

    /// Notes the newest endpoint number; never goes back.
    pub(super) fn note_endpoint_number(&self, number: u32) -> Result<(), MapError> {
        if number <= self.config().endpoint_number {
            return Ok(());
        }
        self.store_config(offset_of!(Config, endpoint_number), number)
    }

    /// Stores bytes of the settings; their number and the offset are multiples of
    /// four.
    pub(super) fn store_bytes(&self, offset: usize, bytes: &[u8]) -> Result<(), MapError> {
        let words = bytes.as_chunks().0.iter().copied().map(u32::from_ne_bytes);
        for (index, word) in words.enumerate() {
            self.store_config(offset + 4 * index, word)?;
        }
        Ok(())
    }

    fn store_config(&self, offset: usize, value: u32) -> Result<(), MapError> {
        self.config.store32(0, offset, value).map_err(stored)
    }
}

fn stored(source: io::Error) -> MapError {
    MapError {
        map: policy_common::abi::maps::CONFIG,
        what: "store",
        source,
    }
}
