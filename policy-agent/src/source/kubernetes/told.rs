//! What feeds tell the agent's loop.
//!
//! A list is told whole or not at all; so nobody takes half of the objects for
//! all of them, whatever becomes of the connection.

use std::time::Instant;

use policy_core::diagnostic::Diagnostic;
use policy_core::store::{Key, Object};

use super::feed::Feed;
use crate::source::version::Version;

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: Key,
    pub(super) is: Is,
    /// What is wrong with it.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Which version of it that is, of a policy.
    pub(super) version: Option<Version>,
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Is {
    /// This.
    Object(Object),
    /// It does not decode: its last good version stays. Where there was none,
    /// this is put in force.
    Undecodable(Option<Object>),
}

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// Everything that there is.
    All(Vec<Listed>),
    /// One object is there, like this.
    One(Listed),
    /// One object is gone.
    Gone(Key),
}

/// How a feed is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedState {
    /// A complete list was told at least once.
    pub synced: bool,
    /// Objects in the last complete list.
    pub listed: usize,
    /// Since when the server has not answered as it should; `None`: it does.
    pub disconnected: Option<Instant>,
    /// The last failure, also of a feed that is well again.
    pub last_error: Option<String>,
    /// How often a watch was opened again, be it that its time was up.
    pub restarts: u64,
    /// How often everything was listed.
    pub lists: u64,
}

/// What a feed hands over at once.
#[derive(Debug)]
pub(super) struct Report {
    /// When it was read.
    pub(super) at: Instant,
    pub(super) feed: Feed,
    pub(super) told: Vec<Told>,
    /// How it is after that.
    pub(super) state: FeedState,
    /// Up to which question it has told all that there was to tell when the
    /// question was asked.
    pub(super) passed: u64,
}
