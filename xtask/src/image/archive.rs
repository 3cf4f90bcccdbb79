//! Writes a container image with one layer, without a container engine.
//!
//! The archive is an OCI image layout that is also what `docker save` writes, so
//! containerd, podman, docker and the tools that copy images read it. The same
//! files give the same bytes: entries are sorted, owned by root and of time 0.
//! What goes into an image is the caller's to say.

use std::{collections::BTreeMap, env, fs, io::Write as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image is to hold, and how it starts.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// Registry, path and tag, such as `localhost/policy-agent:0.1.0`.
    pub(crate) name: String,
    /// Path in the image, without a leading slash, to contents and mode.
    pub(crate) files: BTreeMap<String, (Vec<u8>, u32)>,
    /// Empty folders, likewise, and their modes.
    pub(crate) folders: BTreeMap<String, u32>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) arguments: Vec<String>,
    /// `org.opencontainers.image.*` and the like.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Image {
    /// Adds the file `source` at `path`, executable.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        let bytes =
            fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.files.insert(path.to_owned(), (bytes, 0o755));
        Ok(())
    }

    /// Writes the archive to `out`, whole or not at all.
    ///
    /// # Errors
    ///
    /// When `out` cannot be written, or the name has no tag.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        let archive = self.archive()?;
        let folder = out.parent().context("an archive is in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let unfinished = out.with_extension("unfinished");
        let written = fs::File::create(&unfinished)
            .and_then(|mut file| file.write_all(&archive))
            .and_then(|()| fs::rename(&unfinished, out));
        written.with_context(|| format!("cannot write {}", out.display()))
    }

    /// The archive's bytes.
    fn archive(&self) -> Result<Vec<u8>> {
        let tagged = self
            .name
            .rsplit_once(':')
            .is_some_and(|(_, tag)| !tag.is_empty() && !tag.contains('/'));
        ensure!(tagged, "the image name {:?} has no tag", self.name);

        let layer = Blob::new(LAYER, self.layer()?);
        let config = Blob::new(CONFIG, self.config(&layer).to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        });
        let manifest = Blob::new(MANIFEST, manifest.to_string().into_bytes());
        let mut named = manifest.descriptor();
        let tag = self.name.rsplit_once(':').map_or("", |(_, tag)| tag);
        named["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]});
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": [self.name],
            "Layers": [layer.path()],
        }]);

        let mut files = BTreeMap::from([
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), index.to_string().into_bytes()),
            ("manifest.json".to_owned(), docker.to_string().into_bytes()),
        ]);
        for blob in [layer, config, manifest] {
            files.insert(blob.path(), blob.bytes);
        }
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in &files {
            append(&mut tar, path, bytes, 0o644)?;
        }
        tar.into_inner().context("cannot end the archive")
    }

    /// The one layer: every folder before what is in it.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut folders = self.folders.clone();
        for path in self.files.keys().chain(self.folders.keys()) {
            for (at, _) in path.match_indices('/') {
                folders.entry(path[..at].to_owned()).or_insert(0o755);
            }
        }
        let mut tar = tar::Builder::new(Vec::new());
        for (path, mode) in &folders {
            let mut header = header(0, *mode);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, format!("{path}/"), &[][..])
                .with_context(|| format!("cannot add {path} to the layer"))?;
        }
        for (path, (bytes, mode)) in &self.files {
            append(&mut tar, path, bytes, *mode)?;
        }
        tar.into_inner().context("cannot end the layer")
    }

    fn config(&self, layer: &Blob) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": "0",
                "Env": ["PATH=/"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest()]},
        })
    }
}

/// The machine's architecture in the words of container images.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Bytes that are named by their hash.
struct Blob {
    kind: &'static str,
    hash: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(kind: &'static str, bytes: Vec<u8>) -> Self {
        let hash = hex(&bytes);
        Self { kind, hash, bytes }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hash)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hash)
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.kind, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// SHA-256 of `bytes` in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    tar.append_data(&mut header(bytes.len() as u64, mode), path, bytes)
        .with_context(|| format!("cannot add {path} to the archive"))
}

/// An entry of root's, and of no particular time.
fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image() -> Image {
        Image {
            name: "localhost/thing:1".to_owned(),
            files: BTreeMap::from([
                ("bin/b".to_owned(), (b"bee".to_vec(), 0o755)),
                ("a".to_owned(), (b"ay".to_vec(), 0o644)),
            ]),
            folders: BTreeMap::from([("tmp".to_owned(), 0o1777)]),
            entrypoint: vec!["/bin/b".to_owned()],
            ..Image::default()
        }
    }

    fn entries(archive: &[u8]) -> BTreeMap<String, (Vec<u8>, tar::Header)> {
        let mut archive = tar::Archive::new(archive);
        let entry = |entry: std::io::Result<tar::Entry<&[u8]>>| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path, (bytes, entry.header().clone()))
        };
        archive.entries().unwrap().map(entry).collect()
    }

    fn json_at(archive: &BTreeMap<String, (Vec<u8>, tar::Header)>, path: &str) -> Value {
        serde_json::from_slice(&archive[path].0).unwrap()
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_others_do_not() {
        assert_eq!(image().archive().unwrap(), image().archive().unwrap());
        let mut other = image();
        other.files.insert("a".to_owned(), (b"az".to_vec(), 0o644));
        assert_ne!(image().archive().unwrap(), other.archive().unwrap());
    }

    #[test]
    fn every_digest_is_that_of_the_blob_it_names() {
        let archive = entries(&image().archive().unwrap());
        let index = json_at(&archive, "index.json");
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let path = digest.replace("sha256:", "blobs/sha256/");
            let bytes = archive[&path].0.clone();
            assert_eq!(format!("sha256:{}", hex(&bytes)), digest);
            assert_eq!(descriptor["size"], bytes.len());
            bytes
        };
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", hex(&layer))
        );
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/b"]));
    }

    #[test]
    fn both_forms_name_the_image_and_the_same_layer() {
        let archive = entries(&image().archive().unwrap());
        let index = json_at(&archive, "index.json");
        let docker = json_at(&archive, "manifest.json");
        let name = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
        assert_eq!(name, "localhost/thing:1");
        assert_eq!(docker[0]["RepoTags"], json!(["localhost/thing:1"]));
        assert!(archive.contains_key(docker[0]["Layers"][0].as_str().unwrap()));
        assert!(archive.contains_key(docker[0]["Config"].as_str().unwrap()));
    }

    #[test]
    fn the_layer_has_folders_modes_and_no_owner_or_time() {
        let layer = entries(&image().layer().unwrap());
        let modes: BTreeMap<&str, u32> = layer
            .iter()
            .map(|(path, (_, header))| (path.as_str(), header.mode().unwrap()))
            .collect();
        let expected = [
            ("a", 0o644),
            ("bin/", 0o755),
            ("bin/b", 0o755),
            ("tmp/", 0o1777),
        ];
        assert_eq!(modes, BTreeMap::from(expected));
        for (_, header) in layer.values() {
            let facts = (header.uid(), header.gid(), header.mtime());
            assert_eq!(
                (facts.0.unwrap(), facts.1.unwrap(), facts.2.unwrap()),
                (0, 0, 0)
            );
        }
    }

    #[test]
    fn a_name_without_a_tag_is_refused() {
        for name in ["localhost/thing", "localhost:5000/thing", "thing:"] {
            let mut image = image();
            image.name = name.to_owned();
            assert!(image.archive().is_err(), "{name}");
        }
    }
}
