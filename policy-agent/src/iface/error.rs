//! The one error of interface discovery: what was asked, what came back, what
//! to do. Doubts about single interfaces are not errors; they are data in
//! [`Snapshot`](super::Snapshot) and [`Assignment`](super::Assignment).

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why the interfaces could not be read or watched as a whole.
#[derive(Debug, Error)]
pub enum IfaceError {
    /// Give up: the process lacks a capability.
    #[error("{what}: {source}; give the agent CAP_NET_ADMIN in its network namespace")]
    Permission {
        /// The call that was refused.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Report; try again at the next change.
    #[error("{what}: {source}")]
    Call {
        /// The call that failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Try again at the next change: the tables changed under every attempt.
    #[error(
        "{what}: interrupted by changes {attempts} times in a row; asked again at the next one"
    )]
    Interrupted {
        /// The table that was read.
        what: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// Report: the kernel answered something this agent does not understand.
    #[error("{what}: {detail}; report it with the kernel's version")]
    Answer {
        /// The question.
        what: &'static str,
        /// What is wrong with the answer.
        detail: String,
    },
    /// Correct the path or its permissions.
    #[error("cannot read the namespace folder {}: {source}; check --netns-dir", path.display())]
    NetnsDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl IfaceError {
    /// The error of a failed call: a refusal is told apart, because only the
    /// operator can do something about it.
    pub(super) fn call(what: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Permission { what, source }
        } else {
            Self::Call { what, source }
        }
    }

    pub(super) fn answer(what: &'static str, detail: impl ToString) -> Self {
        Self::Answer {
            what,
            detail: detail.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_capability_and_other_failures_do_not() {
        let refused = IfaceError::call("list links", io::Error::from_raw_os_error(1));
        assert!(matches!(refused, IfaceError::Permission { .. }));
        assert!(refused.to_string().contains("CAP_NET_ADMIN"));

        let failed = IfaceError::call("list links", io::Error::from_raw_os_error(22));
        assert!(matches!(failed, IfaceError::Call { .. }));
        assert!(!failed.to_string().contains("CAP_NET_ADMIN"));
    }
}
