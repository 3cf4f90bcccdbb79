//! The kernel programs that this binary carries.
//!
//! `build.rs` puts them here; loading them is the datapath's. A binary that was
//! built without them (plain `cargo build` of a fresh clone) says so here and
//! nowhere else, so that everything that needs no kernel still works.

use aya::include_bytes_aligned;

/// The ELF object, aligned as its parser wants it; empty when it was not built.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/policy-ebpf.o"));

/// Tells one build of the programs from another: a hash of the object, in hex.
/// Equal objects have equal ids on every machine.
pub const BUILD_ID: &str = env!("POLICY_EBPF_BUILD_ID");

/// This binary carries no kernel programs: it cannot enforce anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this policy-agent was built without the kernel programs; \
     build it with: cargo xtask build"
)]
pub struct NotBuilt;

/// The object file with the kernel programs.
///
/// # Errors
///
/// [`NotBuilt`] when this binary was compiled before the programs were; there is
/// nothing to retry.
pub fn bytes() -> Result<&'static [u8], NotBuilt> {
    present(OBJECT)
}

fn present(object: &[u8]) -> Result<&[u8], NotBuilt> {
    if object.is_empty() {
        return Err(NotBuilt);
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_is_refused_with_the_next_step() {
        let error = present(b"").unwrap_err();
        assert!(error.to_string().ends_with("cargo xtask build"));
        assert_eq!(present(b"\x7fELF"), Ok(&b"\x7fELF"[..]));
    }

    #[test]
    fn what_is_embedded_is_aligned_and_parses_or_is_refused() {
        let Ok(object) = bytes() else {
            return assert!(OBJECT.is_empty());
        };
        assert_eq!(object.as_ptr().align_offset(8), 0);
        let parsed = aya_obj::Object::parse(object).unwrap();
        assert!(parsed.btf.is_some(), "maps need their types");
        assert_eq!(BUILD_ID.len(), 16);
    }
}
