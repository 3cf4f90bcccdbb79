//! Verdict events from the ring.
//!
//! One reader at a time: a ring has one consumer position. What events mean, and
//! whose they are, is for others.

use std::io;

use aya::maps::{Map, MapData, RingBuf};
use policy_common::abi::{event::VerdictEvent, maps::EVENTS};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    layout,
    pin::{PinError, Pins},
    sys::plain,
};

/// Reads verdict events.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Opens the pinned ring. Call within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`PinError`]: no agent has run here, or another version's.
    pub fn open(pins: &Pins) -> Result<Self, PinError> {
        let path = pins.map(EVENTS);
        let spec = super::maps::spec(EVENTS);
        if layout::open_checked(pins, spec)?.is_none() {
            return Err(PinError::NotThere { path });
        }
        let error = |source| PinError::Io {
            what: "read",
            path: path.clone(),
            source,
        };
        let ring = MapData::from_pin(&path)
            .and_then(Map::from_map_data)
            .and_then(RingBuf::try_from)
            .map_err(|e| error(io::Error::other(e)))?;
        // SAFETY: the ring owns its map's descriptor, never changes it, and is
        // dropped by the `AsyncFd` alone.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|failed| error(failed.into()))?;
        Ok(Self { ring })
    }

    /// Waits for events and gives all that are there, oldest first. May be
    /// cancelled; nothing is lost then.
    ///
    /// # Errors
    ///
    /// None in practice: the ring is in the kernel's memory.
    pub async fn next(&mut self) -> io::Result<Vec<VerdictEvent>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let events = drain(ready.get_inner_mut());
            if events.is_empty() {
                ready.clear_ready();
            } else {
                return Ok(events);
            }
        }
    }

    /// The events that are there now.
    pub fn drain(&mut self) -> Vec<VerdictEvent> {
        drain(self.ring.get_mut())
    }
}

fn drain(ring: &mut RingBuf<MapData>) -> Vec<VerdictEvent> {
    let mut events = Vec::new();
    while let Some(item) = ring.next() {
        // A record of another length is not one of ours; the layout's version is
        // in the pin's path, so there is none.
        events.extend(plain::read::<VerdictEvent>(&item));
    }
    events
}
