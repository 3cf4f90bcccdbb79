//! Hands the compiled kernel programs to `src/object.rs`.
//!
//! Looks for what `cargo xtask build-ebpf` leaves and never builds it: a cargo
//! call inside this one would wait for its lock, and most commands (check,
//! clippy, unit tests) need no programs. Without them an empty file is embedded,
//! and `object::bytes` refuses at run time with the command to run.
//! `POLICY_EBPF_OBJECT` names another object; one that is named must exist.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

#[path = "build/sources.rs"]
mod sources;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/sources.rs");
    println!("cargo::rerun-if-env-changed=POLICY_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let bytes = match env::var_os("POLICY_EBPF_OBJECT") {
        Some(path) => read_named(Path::new(&path)),
        None => read_built(),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("policy-ebpf.o"), &bytes).expect("OUT_DIR can be written");
    println!(
        "cargo::rustc-env=POLICY_EBPF_BUILD_ID={:016x}",
        sources::fnv1a(&bytes)
    );
}

/// The object that the builder names.
fn read_named(path: &Path) -> Vec<u8> {
    println!("cargo::rerun-if-changed={}", path.display());
    fs::read(path).unwrap_or_else(|error| panic!("POLICY_EBPF_OBJECT: {}: {error}", path.display()))
}

/// The object of `cargo xtask build-ebpf`, or nothing.
fn read_built() -> Vec<u8> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets this"));
    let root = package.parent().expect("the package lies in the workspace");
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |target| root.join(target));
    let dir = target.join("bpf");
    let object = dir.join("policy-ebpf.o");
    if let Ok(bytes) = fs::read(&object) {
        println!("cargo::rerun-if-changed={}", object.display());
        warn_if_stale(root, &object.with_extension("sources"));
        return bytes;
    }
    // Cargo runs a script again at every call when a file that it names is not
    // there, so name the folder in which the object will appear.
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    println!("cargo::rerun-if-changed={}", dir.display());
    Vec::new()
}

/// Warns when the programs' sources are not those that the object was built from.
fn warn_if_stale(root: &Path, note: &Path) {
    println!("cargo::rerun-if-changed={}", note.display());
    for source in sources::SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let built_from = fs::read_to_string(note).unwrap_or_default();
    let current = sources::hash(root).unwrap_or_else(|error| error.to_string());
    if built_from != current {
        println!(
            "cargo::warning=the kernel programs are older than their sources; \
             to build them: cargo xtask build-ebpf"
        );
    }
}
