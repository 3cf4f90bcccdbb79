//! A network namespace with a name in the file system, and work done inside it.
//!
//! The name is a bind mount, as the container runtimes make it, in the mount
//! namespace of the caller: `bpffs` and everything else stay visible to what
//! runs inside. A namespace is entered by threads made for the purpose, so that
//! no other thread ever changes its own.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::sys;

/// A network namespace, named by a file until it is dropped.
pub struct Netns {
    path: PathBuf,
    file: File,
    mounted: AtomicBool,
}

impl Netns {
    /// Creates an empty namespace and mounts it on `path`, which must not exist.
    ///
    /// # Errors
    /// Says which step failed; nothing is left behind then.
    pub fn create(path: &Path) -> Result<Self> {
        File::create_new(path).with_context(|| format!("create {}", path.display()))?;
        let mounted = on_own_thread(|| -> Result<()> {
            sys::unshare_network().context("unshare the network namespace (root is needed)")?;
            mount_bind("/proc/thread-self/ns/net", path)
                .with_context(|| format!("bind mount a namespace on {}", path.display()))
        });
        if let Err(error) = mounted {
            // The first error is the one to report.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        let netns = Self {
            path: path.to_owned(),
            file: File::open(path).with_context(|| format!("open {}", path.display()))?,
            mounted: AtomicBool::new(true),
        };
        Ok(netns)
    }

    /// A namespace that somebody else made, such as `/proc/PID/ns/net`; dropping
    /// this leaves it as it is.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: File::open(path).with_context(|| format!("open {}", path.display()))?,
            mounted: AtomicBool::new(false),
        })
    }

    /// The file that names the namespace.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets opened
    /// there belong to the namespace for ever, whoever uses them later.
    ///
    /// # Errors
    /// When the namespace cannot be entered. A panic of `work` goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter {}", self.path.display()))
    }

    /// Starts a process inside; it shares every other namespace with the caller.
    ///
    /// # Errors
    /// Names the program when it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        // A child inherits the namespaces of the thread that forks it.
        self.run(|| command.spawn())?
            .with_context(|| format!("start {}", command.get_program().display()))
    }

    /// Runs a process inside to its end.
    ///
    /// # Errors
    /// As [`Netns::spawn`]; a failing exit status is not an error here.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        self.run(|| command.output())?
            .with_context(|| format!("run {}", command.get_program().display()))
    }

    /// Writes settings below `/proc/sys/net`, each `path` relative to it. A
    /// setting that this kernel does not know is left out when `optional`.
    pub(crate) fn sysctls(&self, settings: &[(&str, &str)], optional: bool) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/net/{key}");
                match std::fs::write(&path, value) {
                    Err(e) if optional && e.kind() == std::io::ErrorKind::NotFound => {}
                    result => result.with_context(|| format!("write {value:?} to {path}"))?,
                }
            }
            Ok(())
        })?
    }

    /// Takes the name away; the namespace lives on while something uses it.
    pub(crate) fn unname(&self) -> Result<()> {
        if self.mounted.swap(false, Ordering::AcqRel) {
            let path = &self.path;
            unmount(path, UnmountFlags::DETACH)
                .with_context(|| format!("unmount {}", path.display()))?;
            std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = self.unname() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Runs `work` on a thread that ends with it, so that a change of namespace
/// cannot leak; a panic is passed on.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new()
            .name("lab-netns".into())
            .spawn_scoped(scope, work)
            .context("start a thread")?;
        match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
