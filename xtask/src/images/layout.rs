//! An image out of files: layers, config, manifest, index, as the OCI image specification 1.1 has them.
//!
//! ```text
//! Tree ─tar─▶ layer ─gzip─▶ blob ─┐
//! Tree ─tar─▶ layer ─gzip─▶ blob ─┤ manifest ─▶ index.json, manifest.json
//! Config ────────────────▶ blob ─┘
//! ```
//!
//! The same files give the same bytes, so that the digest names what is inside and nothing else: entries are
//! sorted, times are those of 1970, owners are numbers, and nothing says when or where it was made.
//! Knows no cargo, no program and no version.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Result;

/// What lies in a layer, by its path without the leading slash.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug, Clone)]
enum Node {
    Directory { mode: u32, owner: u32 },
    File { mode: u32, contents: Vec<u8> },
}

impl Tree {
    /// A file of root's, and the directories above it.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: Vec<u8>) {
        self.parents(path);
        self.nodes
            .insert(path.to_owned(), Node::File { mode, contents });
    }

    /// A directory of this user and group, and those above it, which are root's.
    pub(crate) fn directory(&mut self, path: &str, mode: u32, owner: u32) {
        self.parents(path);
        self.nodes
            .insert(path.to_owned(), Node::Directory { mode, owner });
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..at].to_owned())
                .or_insert(Node::Directory {
                    mode: 0o755,
                    owner: 0,
                });
        }
    }

    /// The tar of it. A directory's path sorts before the paths in it, as extraction wants.
    fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::default();
        for (path, node) in &self.nodes {
            match node {
                Node::Directory { mode, owner } => {
                    tar.entry(&format!("{path}/"), *mode, *owner, b'5', &[])?;
                }
                Node::File { mode, contents } => tar.entry(path, *mode, 0, b'0', contents)?,
            }
        }
        Ok(tar.close())
    }
}

/// What is said of an image beside its files.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Full name with a tag, such as `ghcr.io/quorate/quorate:0.1.0`.
    pub(crate) reference: String,
    /// Go's word for the processor: `amd64`, `arm64`.
    pub(crate) architecture: &'static str,
    /// The `config` object of the image config: user, entry point, labels.
    pub(crate) run: Value,
}

/// A written image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// `sha256:…` of the manifest.
    pub(crate) digest: String,
    /// Bytes that a registry would hold.
    pub(crate) bytes: usize,
}

/// Writes the layout as the folder `folder`, replacing one that is there, and the same with the table that
/// `docker load` reads as the tar `archive`, which `ctr images import` takes too.
pub(crate) fn write(
    config: &Config,
    layers: &[Tree],
    folder: &Path,
    archive: &Path,
) -> Result<Written> {
    let image = Image::new(config, layers)?;
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| failed(folder, error))?;
    }
    for (name, contents) in &image.files {
        let path = folder.join(name);
        let parent = path.parent().expect("a file in a folder has a parent");
        fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        fs::write(&path, contents).map_err(|error| failed(&path, error))?;
    }
    let mut tar = Tar::default();
    for (name, contents) in &image.files {
        tar.entry(name, 0o644, 0, b'0', contents)?;
    }
    tar.entry("manifest.json", 0o644, 0, b'0', &image.docker_table)?;
    let aside = archive.with_extension("tar.new");
    fs::write(&aside, tar.close()).map_err(|error| failed(&aside, error))?;
    fs::rename(&aside, archive).map_err(|error| failed(archive, error))?;
    Ok(image.written)
}

/// The digest that it would have, written.
pub(crate) fn digest_of(config: &Config, layers: &[Tree]) -> Result<String> {
    Ok(Image::new(config, layers)?.written.digest)
}

struct Image {
    /// The layout's files by name.
    files: BTreeMap<String, Vec<u8>>,
    docker_table: Vec<u8>,
    written: Written,
}

impl Image {
    fn new(config: &Config, layers: &[Tree]) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut store = |contents: Vec<u8>, kind: &str| {
            let descriptor = json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": digest(&contents),
                "size": contents.len(),
            });
            files.insert(blob(&contents), contents);
            descriptor
        };
        let mut diff_ids = Vec::new();
        let mut layer_blobs = Vec::new();
        for layer in layers {
            let tar = layer.tar()?;
            diff_ids.push(digest(&tar));
            layer_blobs.push(store(gzip(&tar)?, "layer.v1.tar+gzip"));
        }
        let config_blob = store(
            bytes(&json!({
                "architecture": config.architecture,
                "os": "linux",
                "config": config.run,
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            })),
            "config.v1+json",
        );
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config_blob,
            "layers": layer_blobs,
        }));
        let mut entry = store(manifest.clone(), "manifest.v1+json");
        entry["platform"] = json!({ "architecture": config.architecture, "os": "linux" });
        let tag = config.reference.rsplit(':').next().unwrap_or_default();
        entry["annotations"] = json!({
            "io.containerd.image.name": config.reference,
            "org.opencontainers.image.ref.name": tag,
        });
        let size = files.values().map(Vec::len).sum();
        files.insert(
            "index.json".to_owned(),
            bytes(&json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [entry],
            })),
        );
        files.insert(
            "oci-layout".to_owned(),
            bytes(&json!({ "imageLayoutVersion": "1.0.0" })),
        );
        let path_of = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            format!("blobs/{}", digest.replace(':', "/"))
        };
        let docker_table = bytes(&json!([{
            "Config": path_of(&config_blob),
            "RepoTags": [config.reference],
            "Layers": layer_blobs.iter().map(path_of).collect::<Vec<_>>(),
        }]));
        Ok(Self {
            files,
            docker_table,
            written: Written {
                digest: digest(&manifest),
                bytes: size,
            },
        })
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn digest(contents: &[u8]) -> String {
    format!("sha256:{}", hex(contents))
}

fn blob(contents: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(contents))
}

fn hex(contents: &[u8]) -> String {
    Sha256::digest(contents)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// gzip without a name and without a time in its header.
fn gzip(contents: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    encoder
        .write_all(contents)
        .and_then(|()| encoder.finish())
        .map_err(|error| format!("cannot compress a layer: {error}"))
}

/// A tar in the format of POSIX 1988 (ustar): headers of 512 bytes, contents filled up to 512.
#[derive(Default)]
struct Tar {
    bytes: Vec<u8>,
}

/// Everything in a tar stands at multiples of this.
const BLOCK: usize = 512;

/// A ustar header has so much room for a path; the prefix field for longer ones is not needed here.
const PATH_BYTES_MAX: usize = 100;

impl Tar {
    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        owner: u32,
        kind: u8,
        contents: &[u8],
    ) -> Result<()> {
        if path.len() > PATH_BYTES_MAX {
            return Err(format!(
                "the path {path:?} has {} bytes, and an image's may have {PATH_BYTES_MAX}",
                path.len()
            ));
        }
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, &format!("{owner:07o}"));
        put(116, &format!("{owner:07o}"));
        put(124, &format!("{:011o}", contents.len()));
        put(136, "00000000000"); // time: 1970
        put(148, "        "); // the sum is taken with spaces in its own place
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(contents);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    /// Two empty blocks are the end.
    fn close(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn config() -> Config {
        Config {
            reference: "localhost/tiny:1".to_owned(),
            architecture: "amd64",
            run: json!({ "User": "65532:65532", "Entrypoint": ["/bin/tiny"] }),
        }
    }

    fn ground() -> Tree {
        let mut tree = Tree::default();
        tree.file("etc/passwd", 0o644, b"root:x:0:0::/:\n".to_vec());
        tree.directory("var/lib/tiny", 0o700, 65532);
        tree
    }

    fn program() -> Tree {
        let mut tree = Tree::default();
        tree.file("bin/tiny", 0o755, vec![7; 700]);
        tree
    }

    /// A folder of its own below the target folder, empty.
    fn folder(name: &str) -> std::path::PathBuf {
        let folder =
            std::env::temp_dir().join(format!("quorate-xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a temporary folder");
        folder
    }

    #[test]
    fn written_twice_it_is_the_same_to_the_byte() {
        let folder = folder("twice");
        let mut archives = Vec::new();
        let mut digests = Vec::new();
        for name in ["a", "b"] {
            let archive = folder.join(format!("{name}.tar"));
            let written = write(
                &config(),
                &[ground(), program()],
                &folder.join(name),
                &archive,
            )
            .expect("an image");
            digests.push(written);
            archives.push(fs::read(&archive).expect("the archive"));
        }
        assert_eq!(digests[0], digests[1]);
        assert!(archives[0] == archives[1], "the archives differ");
        fs::remove_dir_all(folder).expect("our own folder");
    }

    #[test]
    fn the_digest_is_of_the_files_not_of_the_order_in_which_they_came() {
        let image = |tree: Tree| Image::new(&config(), &[tree]).expect("an image").written;
        let mut one = Tree::default();
        one.file("a/x", 0o644, b"1".to_vec());
        one.file("b", 0o644, b"2".to_vec());
        let mut other = Tree::default();
        other.file("b", 0o644, b"2".to_vec());
        other.file("a/x", 0o644, b"1".to_vec());
        assert_eq!(image(one.clone()), image(other.clone()));
        other.file("b", 0o755, b"2".to_vec());
        assert_ne!(image(one.clone()), image(other));
        let mut third = one.clone();
        third.file("b", 0o644, b"3".to_vec());
        assert_ne!(image(one), image(third));
    }

    #[test]
    fn every_blob_has_the_name_of_its_contents_and_every_reference_leads_to_one() {
        let image = Image::new(&config(), &[ground(), program()]).expect("an image");
        let read = |name: &str| -> Value {
            serde_json::from_slice(&image.files[name]).expect("JSON that we wrote")
        };
        for (name, contents) in &image.files {
            if let Some(hash) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(hash, hex(contents), "{name}");
            }
        }
        let blob_of = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest").to_owned();
            let name = format!("blobs/{}", digest.replace(':', "/"));
            assert_eq!(
                descriptor["size"].as_u64(),
                image.files.get(&name).map(|blob| blob.len() as u64)
            );
            name
        };
        let index = read("index.json");
        assert_eq!(index["manifests"][0]["digest"], image.written.digest);
        let manifest = read(&blob_of(&index["manifests"][0]));
        let config = read(&blob_of(&manifest["config"]));
        let layers = manifest["layers"].as_array().expect("layers");
        assert_eq!(layers.len(), 2);
        for layer in layers {
            blob_of(layer);
        }
        assert_eq!(
            config["rootfs"]["diff_ids"].as_array().map(Vec::len),
            Some(2)
        );
        assert_eq!(config["config"]["User"], "65532:65532");
        assert!(
            config.get("created").is_none(),
            "a time would change the digest"
        );
    }

    /// tar(1) is the judge of our tar.
    #[test]
    fn tar_reads_a_layer_as_it_was_meant() {
        let folder = folder("tar");
        let file = folder.join("layer.tar");
        let mut tree = ground();
        tree.file("bin/tiny", 0o755, vec![7; 700]);
        fs::write(&file, tree.tar().expect("a tar")).expect("our own folder");
        let listed = Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--utc", "--file"])
            .arg(&file)
            .output()
            .expect("tar is on every machine that builds this");
        assert!(listed.status.success(), "{listed:?}");
        let lines: Vec<String> = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 bin/",
                "-rwxr-xr-x 0/0 700 1970-01-01 00:00 bin/tiny",
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 etc/",
                "-rw-r--r-- 0/0 15 1970-01-01 00:00 etc/passwd",
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 var/",
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 var/lib/",
                "drwx------ 65532/65532 0 1970-01-01 00:00 var/lib/tiny/",
            ]
        );
        fs::remove_dir_all(folder).expect("our own folder");
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let mut tree = Tree::default();
        tree.file(&"x".repeat(101), 0o644, Vec::new());
        let refused = tree.tar().expect_err("it does not fit");
        assert!(refused.contains("101 bytes"), "{refused}");
    }
}
