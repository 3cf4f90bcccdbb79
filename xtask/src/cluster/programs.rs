//! The programs of the cluster, built from the Go modules that
//! `tests/cluster/go.mod` pins, and the two images that pods need.
//!
//! A program is built again only when what it is built from has changed: the
//! pinned versions, the flags, the compiler. Go's own caches are left where Go
//! keeps them, so that a fresh checkout on the same machine is quick.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::lab::{Lab, write};
use crate::{
    go,
    image::archive::{Image, hex},
    job::{Job, announce, output_of},
    workspace::Workspace,
};

/// The largest program takes minutes on two cores.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Where a program tells the API server its version from.
const STAMP: &str = "k8s.io/component-base/version";
/// Kubernetes 1.34's suite asks for exactly these (test/utils/image/manifest.go).
const AGNHOST_IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";
/// What holds a pod's namespaces.
pub(super) const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10.1";

/// Name, and package; those that tests of the API source need come first.
const PROGRAMS: [(&str, &str); 9] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    (
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
    ("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
];
/// Upstream's NetworkPolicy specs as a test binary, and its package.
const SPECS: (&str, &str) = ("netpol.test", "./netpol");
/// Compiled from C by gcc; its source is in the module of Kubernetes.
const PAUSE: &str = "pause";

/// Builds what is missing of all programs and images; with `only`, of these
/// programs, and no images.
///
/// # Errors
///
/// When something does not build, or `only` names what is no program.
pub(super) fn build(workspace: &Workspace, lab: &Lab, only: &[String]) -> Result<()> {
    let all: Vec<&str> = PROGRAMS
        .iter()
        .map(|(name, _)| *name)
        .chain([SPECS.0, PAUSE])
        .collect();
    if let Some(unknown) = only.iter().find(|name| !all.contains(&name.as_str())) {
        bail!("{unknown} is none of the programs: {}", all.join(", "));
    }
    announce("cluster: programs");
    let go = Go::find(workspace)?;
    for name in all {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            go.program(workspace, lab, name)?;
        }
    }
    if only.is_empty() {
        images(lab)?;
    }
    Ok(())
}

/// The Go toolchain, in the folder of the pinned modules.
struct Go {
    program: PathBuf,
    folder: PathBuf,
    /// Kubernetes' version, with the v.
    kubernetes: String,
    /// All that every program is built from, as text.
    origin: String,
}

impl Go {
    fn find(workspace: &Workspace) -> Result<Self> {
        let program = go::find().context(
            "there is no Go 1.24 or later, which builds the cluster's programs; to install it: \
             cargo xtask setup",
        )?;
        let folder = workspace.root.join("tests/cluster");
        let ask = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.current_dir(&folder).args(arguments);
            output_of(command).map(|text| text.trim().to_owned())
        };
        let version = ask(&["env", "GOVERSION"]).context("go does not start")?;
        let pinned = |file: &str| {
            let path = folder.join(file);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let modules = pinned("go.mod")?;
        let kubernetes = required(&modules, "k8s.io/kubernetes")
            .context("tests/cluster/go.mod requires no k8s.io/kubernetes")?
            .to_owned();
        let sums = hex((modules + &pinned("go.sum")?).as_bytes());
        let origin = format!("{version} {} modules {sums}", env::consts::ARCH);
        Ok(Self {
            program,
            folder,
            kubernetes,
            origin,
        })
    }

    /// Builds one program, unless it is there and of the same origin.
    fn program(&self, workspace: &Workspace, lab: &Lab, name: &str) -> Result<()> {
        let (command, origin) = self.recipe(lab, name)?;
        let origin_file = lab.bin(&format!(".{name}.origin"));
        let program = lab.bin(name);
        let known = fs::read_to_string(&origin_file).is_ok_and(|known| known == origin);
        if known && program.exists() {
            return Ok(());
        }
        println!("    building {name}");
        let start = Instant::now();
        Job::new(name, command, LIMIT)
            .log_to(workspace.log(&format!("cluster-{name}")))
            .run()?;
        // Renamed, because the old one may be running.
        fs::rename(lab.bin(&unfinished(name)), &program)
            .with_context(|| format!("cannot replace {}", program.display()))?;
        write(&origin_file, &origin)?;
        println!("    built {name} in {} s", start.elapsed().as_secs());
        Ok(())
    }

    /// How a program is built, and from what.
    fn recipe(&self, lab: &Lab, name: &str) -> Result<(Command, String)> {
        let out = lab.bin(&unfinished(name));
        if name == PAUSE {
            let list = ["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"];
            let mut module = self.command();
            module.args(list);
            let folder = output_of(module).with_context(|| {
                format!(
                    "the module k8s.io/kubernetes cannot be had; see: cd {} && go {}",
                    self.folder.display(),
                    list.join(" ")
                )
            })?;
            let mut gcc = Command::new("gcc");
            gcc.args(["-Os", "-static", "-s", "-o"])
                .arg(out)
                .arg(PathBuf::from(folder.trim()).join("build/pause/linux/pause.c"));
            return Ok((gcc, self.origin.clone()));
        }
        let mut go = self.command();
        // Without a stamp a kubelet reports v0.0.0 as its node's version.
        let numbers: Vec<&str> = self.kubernetes.trim_start_matches('v').split('.').collect();
        let (major, minor) = (numbers.first(), numbers.get(1));
        let flags = format!(
            "-s -w -X {STAMP}.gitVersion={} -X {STAMP}.gitMajor={} -X {STAMP}.gitMinor={}",
            self.kubernetes,
            major.unwrap_or(&""),
            minor.unwrap_or(&""),
        );
        let mut origin = self.origin.clone();
        let package = if name == SPECS.0 {
            go.args(["test", "-c"]);
            let source = self.folder.join("netpol/netpol_test.go");
            let source =
                fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
            origin += &hex(&source);
            SPECS.1
        } else {
            go.arg("build");
            let known = PROGRAMS.iter().find(|(known, _)| *known == name);
            known.context("every program has a package")?.1
        };
        go.args(["-trimpath", "-ldflags", &flags, "-o"])
            .arg(out)
            .arg(package);
        Ok((go, format!("{origin} {flags}")))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Static: agnhost runs in an image without a C library.
        command.current_dir(&self.folder).env("CGO_ENABLED", "0");
        command
    }
}

fn unfinished(name: &str) -> String {
    format!(".{name}.unfinished")
}

/// The version of `module` in the text of a go.mod.
fn required<'a>(modules: &'a str, module: &str) -> Option<&'a str> {
    modules.lines().find_map(|line| {
        let mut words = line.split_whitespace().filter(|word| *word != "require");
        (words.next()? == module).then(|| words.next())?
    })
}

/// Writes the archives that every node imports.
fn images(lab: &Lab) -> Result<()> {
    for (name, program) in [(PAUSE_IMAGE, PAUSE), (AGNHOST_IMAGE, "agnhost")] {
        let out = lab.images().join(format!("{program}.tar"));
        let source = lab.bin(program);
        let written = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified());
        if let (Ok(archive), Ok(program)) = (written(&out), written(&source))
            && archive > program
        {
            continue;
        }
        let mut image = Image {
            name: name.to_owned(),
            entrypoint: vec![format!("/{program}")],
            ..Image::default()
        };
        image.program(program, &source)?;
        image.folders.insert("tmp".to_owned(), 0o1777);
        image.write(&out)?;
        println!("    image {name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_version_is_found_and_a_replaced_one_is_not_taken_for_it() {
        let modules = "module x\nrequire (\n\tk8s.io/api v0.1.0 // indirect\n\t\
                       k8s.io/kubernetes v1.2.3\n)\nrequire one.org/a v4.0.0\n\
                       replace k8s.io/other => k8s.io/other v0.9.0\n";
        assert_eq!(required(modules, "k8s.io/kubernetes"), Some("v1.2.3"));
        assert_eq!(required(modules, "k8s.io/api"), Some("v0.1.0"));
        assert_eq!(required(modules, "one.org/a"), Some("v4.0.0"));
        assert_eq!(required(modules, "k8s.io/other"), None);
    }

    #[test]
    fn the_pinned_modules_name_every_program() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = fs::read_to_string(root.join("../tests/cluster/go.mod")).unwrap();
        for (name, package) in PROGRAMS {
            assert!(modules.contains(&format!("\t{package}\n")), "{name}");
        }
        assert!(required(&modules, "k8s.io/kubernetes").is_some());
    }
}
