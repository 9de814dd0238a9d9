//! Images of every form, made here: what they hold is what is found.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use godwit_image::Image;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A tar of files (text), directories (name ends with `/`) and links (`-> target`).
fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(if name.ends_with('/') { 0o755 } else { 0o644 });
        // Whoever runs the tests may own them.
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        if let Some(target) = content.strip_prefix("-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, target).unwrap();
            continue;
        }
        let is_dir = name.ends_with('/');
        header.set_entry_type(if is_dir { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct World(TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self, path: &Path) -> Result<Image, String> {
        Image::open(path, &self.0.path().join("cache")).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        })
    }

    fn blob(&self, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        self.file(&format!("oci/blobs/sha256/{digest}"), bytes);
        json!({ "mediaType": "x", "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }

    /// An OCI layout of these layers.
    fn layout(&self, layers: &[Vec<u8>]) -> PathBuf {
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(layer)).collect();
        let config = self.blob(br#"{"config":{"Entrypoint":["/bin/app"],"Cmd":["-v"],"Env":["A=1"],"User":"7:9"}}"#);
        let manifest = self.blob(json!({ "config": config, "layers": layers }).to_string().as_bytes());
        self.file("oci/index.json", json!({ "manifests": [manifest] }).to_string().as_bytes());
        self.file("oci/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        self.0.path().join("oci")
    }
}

fn layers() -> Vec<Vec<u8>> {
    let first = tar(&[
        ("etc/", ""),
        ("etc/kept", "below"),
        ("etc/gone", "below"),
        ("etc/changed", "below"),
        ("srv/", ""),
        ("srv/old", "below"),
        ("var/", ""),
        ("var/link", "-> ../etc"),
    ]);
    let second = tar(&[
        ("./etc/.wh.gone", ""),
        ("./etc/changed", "above"),
        ("./srv/new", "above"),
        ("./srv/.wh..wh..opq", ""),
        ("./var/link", "a file now"),
    ]);
    vec![first, gzip(&second)]
}

fn is_as_the_layers_say(image: &Image) {
    let read = |name: &str| fs::read_to_string(image.rootfs.join(name)).ok();
    assert_eq!(read("etc/kept").as_deref(), Some("below"));
    assert_eq!(read("etc/changed").as_deref(), Some("above"));
    assert_eq!(read("srv/new").as_deref(), Some("above"));
    assert_eq!((read("etc/gone"), read("srv/old")), (None, None));
    assert!(fs::symlink_metadata(image.rootfs.join("var/link")).unwrap().is_file());
    assert!(!image.rootfs.join("etc/.wh.gone").exists() && !image.rootfs.join("srv/.wh..wh..opq").exists());
    assert_eq!(image.config.args(), ["/bin/app", "-v"]);
    assert_eq!((image.config.env.as_slice(), image.config.user.as_str()), (&["A=1".to_owned()][..], "7:9"));
}

#[test]
fn the_layers_of_an_oci_layout_lie_over_each_other() {
    let world = World::new();
    let image = world.open(&world.layout(&layers())).unwrap();
    is_as_the_layers_say(&image);
}

#[test]
fn an_oci_archive_is_the_same_and_unpacked_once() {
    let world = World::new();
    let layout = world.layout(&layers());
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", &layout).unwrap();
    let path = world.file("app.oci.tar", &archive.into_inner().unwrap());
    let image = world.open(&path).unwrap();
    is_as_the_layers_say(&image);
    File::create(image.rootfs.join("marker")).unwrap();
    assert_eq!(world.open(&path).unwrap(), image);
    assert!(image.rootfs.join("marker").exists(), "it was unpacked again");
}

#[test]
fn a_plain_tar_and_a_directory_are_root_file_systems() {
    let world = World::new();
    let path = world.file("root.tar.gz", &gzip(&tar(&[("etc/", ""), ("etc/os-release", "ID=x")])));
    let image = world.open(&path).unwrap();
    assert_eq!(fs::read_to_string(image.rootfs.join("etc/os-release")).unwrap(), "ID=x");
    assert_eq!(image.config.args(), Vec::<String>::new());
    let same = world.open(&image.rootfs).unwrap();
    assert_eq!(same.rootfs, image.rootfs.canonicalize().unwrap());
}

#[test]
fn what_is_no_image_is_told_with_what_to_do() {
    let world = World::new();
    let error = |path: &Path| world.open(path).unwrap_err();
    assert!(error(Path::new("/no/such")).contains("No such file"));
    assert!(error(&world.file("text", b"hello, this is no archive at all")).contains("is no tar"));
    assert!(error(&world.file("zst", &[0x28, 0xb5, 0x2f, 0xfd, 0])).contains("--dest-compress-format gzip"));
    assert!(error(&world.file("docker.tar", &tar(&[("manifest.json", "[]")]))).contains("skopeo copy docker-archive:"));
    fs::create_dir(world.0.path().join("empty")).unwrap();
    assert!(error(&world.0.path().join("empty")).contains("is an empty directory"));
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_refused_and_leaves_nothing() {
    let world = World::new();
    let layout = world.layout(&layers());
    let layer = layout.join("blobs/sha256").join(digest(&layers()[0]));
    fs::write(layer, "something else").unwrap();
    assert!(world.open(&layout).unwrap_err().contains("is damaged: its digest is sha256:"));
    let left = fs::read_dir(world.0.path().join("cache")).unwrap().flatten().map(|e| e.file_name());
    assert!(left.into_iter().all(|name| name.to_string_lossy().ends_with(".lock")));
}

#[test]
fn an_image_for_another_processor_is_told() {
    let world = World::new();
    let layout = world.layout(&layers());
    let mut index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    world.file("oci/index.json", index.to_string().as_bytes());
    assert!(world.open(&layout).unwrap_err().contains("has images for linux/s390x only"));
}

#[test]
fn nothing_is_unpacked_outside() {
    let world = World::new();
    let outside = world.0.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let link = format!("-> {}", outside.display());
    let path = world.file("bad.tar", &tar(&[("etc/", ""), ("etc/link", &link), ("etc/link/x", "escaped")]));
    assert!(world.open(&path).unwrap_err().contains("lies behind a link"));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
