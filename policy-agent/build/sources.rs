//! Which sources the kernel programs come from, as one number.
//!
//! Compiled into `policy-agent/build.rs` and into xtask: `build-ebpf` notes the
//! number beside the object, and the agent's build compares it with the sources
//! that it finds, so that an object older than its sources is not embedded
//! without a word. Uses the standard library alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What the programs are compiled from, below the workspace's root. The lock
/// file is left out: it changes with every dependency of the agent.
pub(crate) const SOURCES: [&str; 4] = [
    "policy-ebpf/Cargo.toml",
    "policy-ebpf/src",
    "policy-common/Cargo.toml",
    "policy-common/src",
];

/// A hash of the names and contents of all [`SOURCES`] below `root`, in hex.
///
/// # Errors
///
/// When one of them cannot be read.
pub(crate) fn hash(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file);
        all.extend_from_slice(name.as_os_str().as_encoded_bytes());
        // Neither a name nor a source has this byte, so no two lists run together.
        all.push(0);
        all.extend(fs::read(&file)?);
        all.push(0);
    }
    Ok(format!("{:016x}", fnv1a(&all)))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else {
        files.push(path.to_path_buf());
    }
    Ok(())
}

/// FNV-1a, 64 bits: the same in every build, which std's hashers do not promise.
/// It tells builds apart; nothing relies on it against an adversary.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
