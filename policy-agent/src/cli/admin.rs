//! What needs no agent: maps, preflight, the emergency switch, cleanup.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::cni::Folders;
use super::output::{Format, columns, print};
use super::{DONE, NO};
use crate::datapath::preflight::Status;
use crate::datapath::{Maps, Pins, cleanup as remove, pin, preflight as look};
use crate::{object, run_dir};

#[derive(Debug, Serialize)]
struct MapLine {
    name: &'static str,
    about: &'static str,
    used: Option<usize>,
    capacity: u32,
}

/// `maps`.
pub(super) fn maps(bpffs: &Path, format: Format) -> anyhow::Result<u8> {
    let maps = Maps::open(&Pins::new(bpffs))?;
    let lines: Vec<MapLine> = maps
        .occupancy()?
        .into_iter()
        .map(|line| MapLine {
            name: line.spec.name,
            about: line.spec.about,
            used: line.used,
            capacity: line.spec.max_entries,
        })
        .collect();
    print(format, &lines, |lines| {
        let rows: Vec<Vec<String>> = lines
            .iter()
            .map(|line| {
                vec![
                    line.name.to_owned(),
                    line.used
                        .map_or_else(|| "-".to_owned(), |used| used.to_string()),
                    line.capacity.to_string(),
                    line.about.to_owned(),
                ]
            })
            .collect();
        columns(&["MAP", "USED", "CAPACITY", "HOLDS"], &rows)
    })?;
    Ok(DONE)
}

#[derive(Debug, Serialize)]
struct CheckLine {
    check: &'static str,
    status: &'static str,
    found: String,
    next: String,
}

#[derive(Debug, Serialize)]
struct ProgramLine {
    program: &'static str,
    verified_instructions: u32,
    jited_bytes: u32,
}

#[derive(Debug, Serialize)]
struct Preflight {
    checks: Vec<CheckLine>,
    programs: Vec<ProgramLine>,
}

/// `preflight`.
pub(super) fn preflight(bpffs: &Path, mark_shift: u32, format: Format) -> anyhow::Result<u8> {
    let report = look::preflight(bpffs, mark_shift, object::bytes()?);
    let failed = report.status() == Status::Failed;
    let lines = Preflight {
        checks: report
            .checks
            .into_iter()
            .map(|check| CheckLine {
                check: check.name,
                status: match check.status {
                    Status::Ok => "ok",
                    Status::Warning => "warning",
                    Status::Failed => "FAILED",
                },
                found: check.found,
                next: check.next,
            })
            .collect(),
        programs: report
            .programs
            .into_iter()
            .map(|program| ProgramLine {
                program: program.name,
                verified_instructions: program.verified_instructions,
                jited_bytes: program.jited_bytes,
            })
            .collect(),
    };
    print(format, &lines, |lines| {
        let rows: Vec<Vec<String>> = lines
            .checks
            .iter()
            .map(|line| {
                let next = if line.next.is_empty() {
                    String::new()
                } else {
                    format!("; {}", line.next)
                };
                vec![
                    line.status.to_owned(),
                    line.check.to_owned(),
                    format!("{}{next}", line.found),
                ]
            })
            .collect();
        let mut text = columns(&["STATUS", "CHECK", "FOUND"], &rows);
        let rows: Vec<Vec<String>> = lines
            .programs
            .iter()
            .map(|line| {
                vec![
                    line.program.to_owned(),
                    line.verified_instructions.to_string(),
                    line.jited_bytes.to_string(),
                ]
            })
            .collect();
        if !rows.is_empty() {
            text.push('\n');
            text.push_str(&columns(
                &["PROGRAM", "VERIFIED INSTRUCTIONS", "JITED BYTES"],
                &rows,
            ));
        }
        text
    })?;
    Ok(if failed { NO } else { DONE })
}

/// `enforce`.
pub(super) fn enforce(bpffs: &Path, on: bool) -> anyhow::Result<u8> {
    Maps::open(&Pins::new(bpffs))?.set_enforce(on)?;
    if on {
        eprintln!("enforcing again; connections opened meanwhile are judged at their next packet");
    } else {
        eprintln!("NOT ENFORCING: nothing is denied until `policy-agent enforce on`");
    }
    Ok(DONE)
}

#[derive(Debug, Serialize)]
struct Cleaned {
    files_removed: Vec<String>,
    pins_removed: Vec<String>,
    objects_gone: Vec<String>,
    left: Vec<String>,
}

/// `cleanup`.
pub(super) fn cleanup(
    run_dir: &Path,
    bpffs: &Path,
    folders: &Folders,
    format: Format,
) -> anyhow::Result<u8> {
    let lock =
        run_dir::RunDir::lock(run_dir).context("cleanup would remove what a running agent uses")?;
    let root = Pins::new(bpffs).root();
    let pins = match run_dir::lock_folder(&root) {
        Ok(folder) => Some(folder),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "an agent with another run directory uses {}: end it first",
                    root.display()
                )
            });
        }
    };
    // First, so that no pod waits for what is about to go.
    let files = folders.remove(run_dir)?;
    let done = remove::cleanup(bpffs)?;
    drop(pins);
    // What the CNI plugin noted is of interfaces that are not enforced any more.
    let _ = std::fs::remove_dir_all(crate::cni::notes::Notes::new(run_dir).folder());
    // Files of the run directory, in the order in which they stop being needed.
    let socket = run_dir::socket(run_dir);
    for file in [socket, run_dir.join("lock")] {
        let _ = std::fs::remove_file(file);
    }
    drop(lock);
    let _ = std::fs::remove_dir(run_dir);
    let cleaned = Cleaned {
        files_removed: files.iter().map(|f| f.display().to_string()).collect(),
        pins_removed: done
            .pins
            .iter()
            .map(|pin| pin.display().to_string())
            .collect(),
        objects_gone: done.gone.iter().map(ToString::to_string).collect(),
        left: done.left.iter().map(ToString::to_string).collect(),
    };
    print(format, &cleaned, |cleaned| {
        let mut text = String::new();
        for file in &cleaned.files_removed {
            text.push_str(&format!("removed {file}\n"));
        }
        text.push_str(&format!(
            "removed {} pins; {} maps, programs and links are gone from the kernel\n",
            cleaned.pins_removed.len(),
            cleaned.objects_gone.len()
        ));
        for left in &cleaned.left {
            text.push_str(&format!("LEFT: {left}\n"));
        }
        if cleaned.left.is_empty() {
            text.push_str("no trace is left\n");
        }
        text
    })?;
    Ok(if cleaned.left.is_empty() { DONE } else { NO })
}

/// `mount-bpffs`.
pub(super) fn mount_bpffs(bpffs: &Path) -> anyhow::Result<u8> {
    let there = pin::is_bpffs(bpffs);
    pin::mount(bpffs)?;
    let what = if there { "is there" } else { "mounted" };
    eprintln!("BPF file system at {}: {what}", bpffs.display());
    Ok(DONE)
}

/// Waits for SIGTERM or SIGINT. The first process of a container has to ask for
/// them: the kernel does not end it by default.
pub(super) fn hold() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::io::Result::Ok(())
    })?;
    Ok(())
}
