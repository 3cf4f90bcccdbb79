//! Kernels from Debian's packages: fetched once, unpacked below target/vm,
//! never installed.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    job::{Job, output_of},
    setup,
    workspace::Workspace,
};

/// Some 30 MB from a mirror.
const FETCH_LIMIT: Duration = Duration::from_secs(10 * 60);
const UNPACK_LIMIT: Duration = Duration::from_secs(2 * 60);

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// The series that was asked for.
    pub(super) series: String,
    /// What `uname -r` will say.
    pub(super) release: String,
    /// The compressed kernel.
    pub(super) vmlinuz: PathBuf,
    /// Its modules, with their index.
    pub(super) modules: PathBuf,
}

/// The newest kernel of a series that Debian's package lists have. Lists that have
/// none, or one that the mirror has no more, are brought up to date.
///
/// # Errors
///
/// When there is none, or it cannot be fetched.
pub(super) fn fetch(workspace: &Workspace, series: &str) -> Result<Kernel> {
    fetch_listed(workspace, series).or_else(|error| {
        println!("    {error:#}");
        setup::update_lists(workspace)?;
        fetch_listed(workspace, series)
    })
}

fn fetch_listed(workspace: &Workspace, series: &str) -> Result<Kernel> {
    let package = newest(series)?;
    let folder = workspace.target.join("vm").join(&package);
    // Written last: what is there is complete.
    let complete = folder.join("complete");
    if !complete.exists() {
        println!("    fetching {package}");
        unpack(workspace, &package, &folder)?;
        fs::write(&complete, "").context("marking the kernel as complete")?;
    }
    let release = release(&folder)?;
    Ok(Kernel {
        series: series.to_owned(),
        vmlinuz: folder.join(format!("boot/vmlinuz-{release}")),
        modules: folder.join("lib/modules").join(&release),
        release,
    })
}

/// Fetches a kernel's package into a folder of its own, with an index of modules.
fn unpack(workspace: &Workspace, package: &str, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).context("removing half a kernel")?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut download = Command::new("apt-get");
    download
        .args(["--quiet", "download", package])
        .current_dir(folder);
    Job::new("apt-get download", download, FETCH_LIMIT)
        .log_to(workspace.log("vm-fetch"))
        .run()?;
    let archive = only_file(folder, "deb")?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&archive).arg(folder);
    Job::new("dpkg-deb", unpack, UNPACK_LIMIT).run()?;
    fs::remove_file(archive).context("removing the package")?;
    let mut depmod = Command::new("depmod");
    depmod.arg("--basedir").arg(folder).arg(release(folder)?);
    Job::new("depmod", depmod, UNPACK_LIMIT).run()
}

/// The package of the newest kernel of a series.
fn newest(series: &str) -> Result<String> {
    let mut search = Command::new("apt-cache");
    search.args(["search", "--names-only"]);
    search.arg(format!(
        "^linux-image-{}[.].*-cloud-amd64$",
        series.replace('.', "[.]")
    ));
    let listed = output_of(search).context("apt-cache does not answer; this needs Debian")?;
    let packages = listed.lines().filter_map(|line| line.split(' ').next());
    match packages.max_by_key(|name| numbers(name)) {
        Some(package) => Ok(package.to_owned()),
        None => bail!(
            "the package lists have no linux-image-{series}.*-cloud-amd64; if apt-get update \
             does not bring one, add the Debian release that has it to apt's sources (12 has \
             6.1 and, among its security updates, 6.12)"
        ),
    }
}

/// The numbers in a name, in order, so that 6.1.10 is newer than 6.1.9.
fn numbers(name: &str) -> (Vec<u64>, Reverse<usize>) {
    let parts = name.split(|c: char| !c.is_ascii_digit());
    (
        parts.filter_map(|part| part.parse().ok()).collect(),
        Reverse(name.len()),
    )
}

fn release(folder: &Path) -> Result<String> {
    let modules = folder.join("lib/modules");
    let mut entries = fs::read_dir(&modules)
        .with_context(|| format!("{} cannot be read", modules.display()))?
        .flatten();
    let entry = entries.next().context("the package has no modules")?;
    entry
        .file_name()
        .into_string()
        .map_err(|name| anyhow::anyhow!("odd release {}", name.display()))
}

fn only_file(folder: &Path, extension: &str) -> Result<PathBuf> {
    fs::read_dir(folder)
        .context("listing what was fetched")?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .with_context(|| format!("nothing with .{extension} was fetched"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_found_by_number_not_by_spelling() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
        ];
        assert_eq!(
            names.iter().max_by_key(|name| numbers(name)),
            Some(&names[1])
        );
    }
}
