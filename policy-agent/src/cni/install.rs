//! Puts the plugin on a node and takes it off again: the binary into the folder
//! of plugins, the list that names it into the folder of configurations. Each
//! file appears whole or not at all; the network's own files are never touched,
//! so that removing ours restores what was.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::conflist::{self, Entry, FILE};
use super::plugin::NAME;

/// Where a node has things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Folder of configurations.
    pub conf_dir: PathBuf,
    /// The agent's run directory, on the node.
    pub run_dir: PathBuf,
    /// Mount point of the BPF file system, on the node.
    pub bpffs: PathBuf,
    /// The kernel can hold namespaces ([`super::hold::is_possible`]).
    pub hold: bool,
}

/// Why it cannot be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file cannot be read or written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no network to chain to.
    #[error(
        "{folder} holds no CNI configuration: install a network plugin first, or name its folder \
         with --cni-conf-dir", folder = folder.display()
    )]
    NoNetwork {
        /// The folder.
        folder: PathBuf,
    },
    /// The network's configuration makes no sense.
    #[error("{path}: {why}; what was installed before stays", path = path.display())]
    Network {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_path_buf();
    move |source| InstallError::Io { what, path, source }
}

/// What [`configure`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// The file of the network that ours follows.
    pub network: PathBuf,
    /// Ours had to be written.
    pub written: bool,
    /// Pods' namespaces are held before their interface exists.
    pub holds: bool,
}

impl fmt::Display for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "chained to the CNI network in {}",
            self.network.display()
        )?;
        if !self.holds {
            f.write_str(
                "; until a new pod's interface has programs, its network namespace answers what \
                 its policies deny (a network whose first plugin is bridge or ptp, on a kernel \
                 with nftables, is held until then)",
            )?;
        }
        Ok(())
    }
}

/// Makes our list follow the network's own: the first configuration in the
/// folder that is not ours.
///
/// # Errors
/// [`InstallError`]; our list is as it was then.
pub fn configure(places: &Places) -> Result<Configured, InstallError> {
    let folder = &places.conf_dir;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(InstallError::NoNetwork {
                folder: folder.clone(),
            });
        }
        Err(error) => return Err(failed("list", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", folder))?;
        // A name that is not UTF-8 is none that a runtime's library sorts first.
        names.extend(entry.file_name().into_string());
    }
    let first = conflist::first(names.iter().map(String::as_str));
    let Some(name) = first else {
        return Err(InstallError::NoNetwork {
            folder: folder.clone(),
        });
    };
    let path = folder.join(name);
    let network = fs::read(&path).map_err(failed("read", &path))?;
    let file = folder.join(FILE);
    let ours = match fs::read(&file) {
        Ok(ours) => Some(ours),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(failed("read", &file)(error)),
    };
    let entry = Entry {
        run_dir: &places.run_dir,
        bpffs: &places.bpffs,
        hold: places.hold,
    };
    let list = conflist::chain(name, &network, ours.as_deref(), &entry).map_err(|why| {
        InstallError::Network {
            path: path.clone(),
            why,
        }
    })?;
    let written = ours.as_deref() != Some(list.text.as_bytes());
    if written {
        // Configurations may hold secrets of other plugins.
        replace(&file, 0o600, |out| out.write_all(list.text.as_bytes()))?;
    }
    Ok(Configured {
        network: path,
        written,
        holds: list.holds,
    })
}

/// Copies this program into a folder of plugins; its path there.
///
/// # Errors
/// [`InstallError::Io`]; what was there before is as it was then.
pub fn copy_binary(bin_dir: &Path) -> Result<PathBuf, InstallError> {
    let own = Path::new("/proc/self/exe");
    let mut source = File::open(own).map_err(failed("open", own))?;
    fs::create_dir_all(bin_dir).map_err(failed("make", bin_dir))?;
    let file = bin_dir.join(NAME);
    replace(&file, 0o755, |out| io::copy(&mut source, out).map(drop))?;
    Ok(file)
}

/// Removes our files; those that were there. What another agent has installed,
/// one with another run directory, stays.
///
/// # Errors
/// [`InstallError::Io`].
pub fn remove(
    conf_dir: &Path,
    bin_dir: &Path,
    run_dir: &Path,
) -> Result<Vec<PathBuf>, InstallError> {
    let list = conf_dir.join(FILE);
    match fs::read(&list) {
        Ok(text) if conflist::run_dir(&text).is_some_and(|of| of != run_dir) => {
            return Ok(Vec::new());
        }
        Ok(_) => {}
        Err(error) if is_nothing(&error) => {}
        Err(error) => return Err(failed("read", &list)(error)),
    }
    let mut removed = Vec::new();
    // The list first: what it names must be there as long as it is.
    for file in [list, bin_dir.join(NAME)] {
        match fs::remove_file(&file) {
            Ok(()) => removed.push(file),
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(failed("remove", &file)(error)),
        }
    }
    Ok(removed)
}

/// The file or its folder is not there.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Writes a file beside its place, and puts it there at once.
fn replace(
    file: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), InstallError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // An ending that no runtime reads.
    let next = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut out = File::create(&next)?;
        out.set_permissions(fs::Permissions::from_mode(mode))?;
        write(&mut out)?;
        // On the disk before the name: a crash leaves the old one or the new.
        out.sync_all()?;
        drop(out);
        fs::rename(&next, file)?;
        match file.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&next);
    }
    written.map_err(failed("write", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn places(&self) -> Places {
            Places {
                conf_dir: self.0.join("net.d"),
                run_dir: "/run/policy-agent".into(),
                bpffs: "/sys/fs/bpf".into(),
                hold: true,
            }
        }

        fn network(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join("net.d").join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, text).expect("a file");
            path
        }

        fn ours(&self) -> String {
            fs::read_to_string(self.0.join("net.d").join(FILE)).expect("our list")
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const PTP: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#;
    const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;

    #[test]
    fn the_list_follows_the_network_and_keeps_what_it_has_when_that_breaks() {
        let temp = Temp::new("cni-configure");
        let places = temp.places();
        let missing = configure(&places);
        assert!(matches!(missing, Err(InstallError::NoNetwork { .. })));
        let path = temp.network("10-n.conflist", PTP);
        let configured = |network: &Path, written, holds| Configured {
            network: network.to_path_buf(),
            written,
            holds,
        };
        let made = configure(&places).expect("a network");
        assert_eq!(made, configured(&path, true, true));
        let again = configure(&places).expect("a network");
        assert_eq!(again, configured(&path, false, true));
        assert!(temp.ours().contains("ptp"));

        temp.network("10-n.conflist", BRIDGE);
        let made = configure(&places).expect("a network");
        assert_eq!(made, configured(&path, true, true));
        assert!(temp.ours().contains("bridge") && !temp.ours().contains("ptp"));

        let before = temp.ours();
        temp.network("10-n.conflist", &PTP[..20]);
        let error = configure(&places).expect_err("half a file");
        assert!(error.to_string().contains("10-n.conflist"), "{error}");
        assert_eq!(temp.ours(), before);
        fs::remove_file(places.conf_dir.join("10-n.conflist")).expect("removable");
        assert!(configure(&places).is_err());
        assert_eq!(temp.ours(), before);

        let other = temp.network("05-n.conf", r#"{"name":"o","type":"macvlan"}"#);
        let made = configure(&places).expect("a network");
        assert_eq!(made, configured(&other, true, false));
        let files = fs::read_dir(&places.conf_dir).expect("a folder").count();
        assert_eq!(files, 2, "nothing but the network's file and ours");
    }

    #[test]
    fn what_is_installed_is_this_program_and_is_removed_without_a_trace() {
        let temp = Temp::new("cni-binary");
        let places = temp.places();
        temp.network("10-n.conflist", PTP);
        let bin = temp.0.join("bin");
        let installed = copy_binary(&bin).expect("copied");
        assert_eq!(installed, bin.join(NAME));
        let mode = fs::metadata(&installed)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        let own = fs::metadata("/proc/self/exe").expect("there").len();
        assert_eq!(fs::metadata(&installed).expect("there").len(), own);
        copy_binary(&bin).expect("replaced");
        configure(&places).expect("a network");
        let run_dir = &places.run_dir;
        let others = remove(&places.conf_dir, &bin, Path::new("/run/other"));
        assert_eq!(others.expect("not ours"), Vec::<PathBuf>::new());
        let removed = remove(&places.conf_dir, &bin, run_dir).expect("removed");
        assert_eq!(removed, [places.conf_dir.join(FILE), bin.join(NAME)]);
        let again = remove(&places.conf_dir, &bin, run_dir).expect("nothing");
        assert_eq!(again, Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(&bin).expect("a folder").count(), 0);
    }
}
