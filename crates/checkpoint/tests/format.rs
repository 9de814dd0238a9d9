//! What is written is read back; what is damaged in any way never passes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use godwit_checkpoint::{
    CheckpointError, FORMAT, FORMAT_OF_ONE, Format, Host, Manifest, OfContainer, Parts, PartsOf, Result, Unpacked,
    inspect, unpack, write,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const SPEC: &str = r#"{"process":{"args":["/bin/app","--port","7"]},"mounts":[{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}]}"#;

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT_OF_ONE,
        creator: "godwit 0.1.0".into(),
        id: "video-1".into(),
        created: "2026-11-24T12:00:00Z".into(),
        workload: "video".into(),
        image: "/image".into(),
        own_image: true,
        volumes: vec!["/srv/data".into()],
        service: "10.1.3.1:5555".into(),
        node: "edge1".into(),
        host: Host { arch: "x86_64".into(), kernel: "6.18".into(), criu: "4.2.1".into(), cgroup: 2 },
        spec_sha256: String::new(),
        memory_bytes: 0,
        declared_memory_bytes: 1 << 20,
        stopped: false,
        frozen_ms: 12.5,
        processes: Vec::new(),
        sockets: Vec::new(),
        plan: json!({"external": [], "descriptors": []}),
        containers: Vec::new(),
    }
}

/// Images as CRIU makes them: one process, `app`.
fn images() -> BTreeMap<String, Vec<u8>> {
    let message = |bytes: &[u8]| [&[0; 8][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    BTreeMap::from([
        ("inventory.img".into(), message(&[8, 2])),
        ("pstree.img".into(), message(&[8, 1, 16, 0, 24, 1, 32, 1, 40, 1])),
        ("core-1.img".into(), message(&[8, 1, 26, 5, 50, 3, b'a', b'p', b'p'])),
        ("pages-1.img".into(), vec![7; 8192]),
        ("dump.log".into(), b"of no use".to_vec()),
    ])
}

struct Made {
    dir: TempDir,
    file: PathBuf,
}

/// A checkpoint of these images, and a layer.
fn made(format: Format, images: &BTreeMap<String, Vec<u8>>, layer: Option<&[u8]>) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    for (name, content) in images {
        fs::write(from.join(name), content).unwrap();
    }
    let layer = layer.map(|content| {
        let path = dir.path().join("layer.tar");
        fs::write(&path, content).unwrap();
        path
    });
    let file = dir.path().join("it");
    let manifest = manifest();
    let parts = Parts {
        target: &file,
        manifest: &manifest,
        spec: SPEC,
        images: &from,
        layer: layer.as_deref(),
        containers: &[],
    };
    let written = write(&parts, format, false, &mut |_, _| true).unwrap();
    assert_eq!(written.file_bytes, fs::metadata(&file).unwrap().len());
    Made { file, dir }
}

impl Made {
    fn unpack(&self) -> Result<Unpacked> {
        let into = self.dir.path().join("into");
        let _ = fs::remove_dir_all(&into);
        let unpacked = unpack(&self.file, &into, &mut |_, _| true);
        assert_eq!(unpacked.is_ok(), into.exists(), "what is refused leaves nothing behind");
        unpacked
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap()
    }

    #[track_caller]
    fn never_passes(&self, bytes: &[u8], what: &str) -> CheckpointError {
        fs::write(&self.file, bytes).unwrap();
        assert!(inspect(&self.file).is_err(), "{what}: inspect takes it");
        let error = match self.unpack() {
            Ok(_) => panic!("{what} passes"),
            Err(error) => error,
        };
        assert!(error.to_string().contains(self.file.to_str().unwrap()), "{what}: {error} names no file");
        error
    }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn what_is_written_is_read_back() {
    for format in [Format::Godwit, Format::Oci] {
        let made = made(format, &images(), Some(b"a layer"));
        let unpacked = made.unpack().unwrap();
        assert_eq!(unpacked.format, format);
        assert_eq!(unpacked.manifest.unwrap(), manifest());
        assert_eq!(unpacked.spec, serde_json::from_str::<Value>(SPEC).unwrap());
        assert_eq!(fs::read(unpacked.layer.unwrap()).unwrap(), b"a layer");
        let mut expected = images();
        expected.remove("dump.log");
        assert_eq!(files(&unpacked.images), expected);

        let inspected = inspect(&made.file).unwrap();
        assert_eq!((inspected.format, inspected.version), (format, Some(1)));
        assert_eq!(inspected.processes[0].name, "app");
        assert_eq!(inspected.command, ["/bin/app", "--port", "7"]);
        assert_eq!(inspected.mounts, [["/tmp", "tmpfs", "tmpfs"]]);
        assert_eq!((inspected.size.memory_bytes, inspected.size.layer_bytes), (8192, 7));
        assert!(
            fs::read_dir(made.dir.path()).unwrap().all(|e| !e.unwrap().file_name().to_str().unwrap().contains("part"))
        );
    }
}

#[test]
fn no_bit_of_a_file_can_be_altered() {
    let made = made(Format::Godwit, &images(), None);
    let good = made.bytes();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        made.never_passes(&bad, &format!("byte {at} with bit {} flipped", at % 8));
    }
}

#[test]
fn no_byte_of_a_file_can_be_missing() {
    let made = made(Format::Godwit, &images(), None);
    let good = made.bytes();
    for length in 0..good.len() {
        made.never_passes(&good[..length], &format!("{length} of {} bytes", good.len()));
    }
    let error = made.never_passes(&good[..good.len() / 2], "half a file");
    assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
    made.never_passes(&[&good[..], b"x"].concat(), "a byte more");
    made.never_passes(&[&good[..], &good].concat(), "the file twice");
}

#[test]
fn of_an_oci_image_nothing_that_is_restored_can_be_altered_or_missing() {
    let made = made(Format::Oci, &images(), None);
    let good = made.bytes();
    let before = made.unpack().unwrap();
    let (manifest, spec, content) = (before.manifest, before.spec, files(&before.images));
    for at in (0..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&made.file, &bad).unwrap();
        // Padding, file modes and annotations of the index are under no digest and are not restored.
        if let Ok(unpacked) = made.unpack() {
            assert_eq!((&unpacked.manifest, &unpacked.spec), (&manifest, &spec), "byte {at}");
            assert_eq!(files(&unpacked.images), content, "byte {at}");
        }
    }
    // The last blocks only say that there is an end.
    for length in (0..good.len() - 1536).step_by(13) {
        made.never_passes(&good[..length], &format!("{length} of {} bytes", good.len()));
    }
}

/// A tar as engines make it, with these entries.
fn engine(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        // Not by append_data, which refuses names that lead out.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn engine_archive(more: &[(&str, &[u8])]) -> Vec<u8> {
    let images = images();
    let config = br#"{"id":"0123","name":"app","rootfsImageName":"docker.io/library/app:1","runtime":"runc","createdTime":"2026-11-24T11:00:00Z"}"#;
    let mut entries: Vec<(&str, &[u8])> = vec![
        ("config.dump", config),
        ("spec.dump", SPEC.as_bytes()),
        ("dump.log", b"log"),
        ("rootfs-diff.tar", b"a layer"),
        ("deleted.files", br#"["etc/motd"]"#),
        ("checkpoint/inventory.img", &images["inventory.img"]),
        ("checkpoint/pstree.img", &images["pstree.img"]),
        ("checkpoint/core-1.img", &images["core-1.img"]),
        ("checkpoint/pages-1.img", &images["pages-1.img"]),
    ];
    entries.extend(more);
    engine(&entries)
}

#[test]
fn an_engines_archive_is_read_plain_or_compressed() {
    let made = made(Format::Godwit, &images(), None);
    let plain = engine_archive(&[]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    for archive in [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()] {
        fs::write(&made.file, archive).unwrap();
        let unpacked = made.unpack().unwrap();
        assert_eq!((unpacked.format, unpacked.manifest), (Format::Kubelet, None));
        assert_eq!(unpacked.deleted, ["etc/motd"]);
        assert!(unpacked.layer.is_some() && unpacked.images.join("pages-1.img").exists());
        let inspected = inspect(&made.file).unwrap();
        assert_eq!((inspected.workload.as_str(), inspected.image.as_str()), ("app", "docker.io/library/app:1"));
        assert_eq!(inspected.created, "2026-11-24T11:00:00Z");
    }
    for length in (0..plain.len() - 512).step_by(64) {
        made.never_passes(&plain[..length], &format!("{length} of {} bytes", plain.len()));
    }
}

#[test]
fn an_entry_cannot_lead_out_of_the_directory() {
    let made = made(Format::Godwit, &images(), None);
    for name in ["checkpoint/../../evil.img", "checkpoint/..", "checkpoint/a/b.img", "checkpoint/"] {
        let error = made.never_passes(&engine_archive(&[(name, b"x")]), name);
        assert!(error.to_string().contains("plain name"), "{error}");
    }
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    link.append_link(&mut header, "checkpoint/pages-2.img", "/etc/shadow").unwrap();
    let error = made.never_passes(&link.into_inner().unwrap(), "a link");
    assert!(error.to_string().contains("no plain file"), "{error}");
    let twice = engine_archive(&[("checkpoint/pages-1.img", b"other")]);
    assert!(made.never_passes(&twice, "twice").to_string().contains("it is there twice"));
}

#[test]
fn what_is_no_checkpoint_is_told_so() {
    let made = made(Format::Godwit, &images(), None);
    for (bytes, says) in [
        (Vec::new(), "it is empty"),
        (b"hello".repeat(200), "it is neither zstd, gzip nor tar"),
        (engine(&[("README", b"x")]), "no OCI configuration"),
        (engine(&[("spec.dump", b"{}")]), "no CRIU image inventory.img"),
    ] {
        let error = made.never_passes(&bytes, says);
        assert!(matches!(&error, CheckpointError::NoCheckpoint { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = unpack(made.dir.path(), &made.dir.path().join("into"), &mut |_, _| true).unwrap_err();
    assert!(error.to_string().contains("it is no file"), "{error}");
}

#[test]
fn another_version_is_named_with_who_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, from) = (dir.path().join("it"), dir.path().join("from"));
    fs::create_dir(&from).unwrap();
    for (name, content) in images() {
        fs::write(from.join(name), content).unwrap();
    }
    let manifest = Manifest { format: FORMAT + 1, creator: "godwit 9.0.0".into(), ..manifest() };
    let parts = Parts { target: &file, manifest: &manifest, spec: SPEC, images: &from, layer: None, containers: &[] };
    write(&parts, Format::Godwit, false, &mut |_, _| true).unwrap();
    let error = unpack(&file, &dir.path().join("into"), &mut |_, _| true).unwrap_err();
    assert!(matches!(error, CheckpointError::Version { found: 3, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("godwit 9.0.0"), "{error}");
}

/// What there is of two containers, and a volume that both have.
struct Two {
    dir: TempDir,
    manifest: Manifest,
}

impl Two {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["store", "web"] {
            let from = dir.path().join("from").join(name);
            fs::create_dir_all(&from).unwrap();
            for (image, content) in images() {
                fs::write(from.join(image), content).unwrap();
            }
        }
        fs::write(dir.path().join("from/volume-0.tar"), b"common").unwrap();
        fs::write(dir.path().join("layer"), b"written").unwrap();
        let of = |name: &str| OfContainer { name: name.into(), volumes: vec![0], ..OfContainer::default() };
        let manifest = Manifest { format: FORMAT, containers: vec![of("web"), of("store")], ..manifest() };
        Self { dir, manifest }
    }

    fn write(&self, format: Format) -> Result<PathBuf> {
        let (from, layer) = (self.dir.path().join("from"), self.dir.path().join("layer"));
        let (web, store, target) = (from.join("web"), from.join("store"), self.dir.path().join("two.ckpt"));
        let containers = [
            PartsOf { name: "web", spec: SPEC, images: &web, layer: Some(&layer) },
            PartsOf { name: "store", spec: SPEC, images: &store, layer: None },
        ];
        let parts = Parts {
            target: &target,
            manifest: &self.manifest,
            spec: "",
            images: &from,
            layer: None,
            containers: &containers,
        };
        write(&parts, format, true, &mut |_, _| true)?;
        Ok(target)
    }
}

#[test]
fn several_containers_come_back_as_they_were() {
    let two = Two::new();
    let file = two.write(Format::Godwit).unwrap();
    let unpacked = unpack(&file, &two.dir.path().join("into"), &mut |_, _| true).unwrap();
    let [web, store] = &unpacked.containers[..] else { panic!("{unpacked:?}") };
    assert_eq!((web.name.as_str(), store.name.as_str()), ("web", "store"), "in the manifest's order");
    assert_eq!(fs::read(web.layer.as_ref().unwrap()).unwrap(), b"written");
    assert!(store.layer.is_none() && unpacked.layer.is_none());
    assert_eq!(web.spec, serde_json::from_str::<Value>(SPEC).unwrap());
    assert_eq!(fs::read(unpacked.images.join("volume-0.tar")).unwrap(), b"common");
    for name in ["web", "store"] {
        assert_eq!(fs::read(unpacked.images.join(name).join("pages-1.img")).unwrap(), [7; 8192]);
    }
    let inspected = inspect(&file).unwrap();
    assert_eq!(inspected.containers, ["store", "web"]);
    assert_eq!((inspected.processes.len(), inspected.size.memory_bytes), (2, 2 * 8192));
}

#[test]
fn a_container_that_is_missing_or_too_many_is_damage_and_no_engine_gets_several() {
    let mut two = Two::new();
    let third = OfContainer { name: "db".into(), ..OfContainer::default() };
    two.manifest.containers.push(third);
    let error =
        unpack(&two.write(Format::Godwit).unwrap(), &two.dir.path().join("into"), &mut |_, _| true).unwrap_err();
    assert!(error.to_string().contains("container db"), "{error}");
    two.manifest.containers.truncate(1);
    let error =
        unpack(&two.write(Format::Godwit).unwrap(), &two.dir.path().join("into"), &mut |_, _| true).unwrap_err();
    assert!(error.to_string().contains("container store"), "{error}");
    assert!(!two.dir.path().join("into").exists());
    assert!(two.write(Format::Oci).unwrap_err().to_string().contains("one container"));
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (file, from) = (dir.path().join("it"), dir.path().join("from"));
    fs::create_dir(&from).unwrap();
    for (name, content) in images() {
        fs::write(from.join(name), content).unwrap();
    }
    let manifest = manifest();
    let parts = Parts { target: &file, manifest: &manifest, spec: SPEC, images: &from, layer: None, containers: &[] };
    let only_from = || files_in(dir.path()) == ["from"];
    for format in [Format::Godwit, Format::Oci] {
        let stopped = write(&parts, format, false, &mut |_, _| false).unwrap_err();
        assert!(matches!(stopped, CheckpointError::Cancelled), "{stopped}");
        assert!(only_from(), "{:?}", files_in(dir.path()));
        let lost = Parts { layer: Some(Path::new("/no/such/layer")), ..parts };
        assert!(write(&lost, format, false, &mut |_, _| true).unwrap_err().to_string().contains("/no/such/layer"));
        assert!(only_from(), "{:?}", files_in(dir.path()));
    }
    fs::write(&file, "precious").unwrap();
    let error = write(&parts, Format::Godwit, false, &mut |_, _| true).unwrap_err();
    assert!(matches!(error, CheckpointError::Exists { .. }) && error.is_bad_file(), "{error}");
    // Not even when it is stopped halfway.
    write(&parts, Format::Godwit, true, &mut |_, _| false).unwrap_err();
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    write(&parts, Format::Godwit, true, &mut |_, _| true).unwrap();
    inspect(&file).unwrap();
    assert_eq!(files_in(dir.path()), ["from", "it"]);
}

fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the images hold; and damage of any length, anywhere.
    #[test]
    fn content_survives_and_damage_does_not_pass(
        pages in proptest::collection::vec(any::<u8>(), 0..20_000),
        layer in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..2_000)),
        at in any::<proptest::sample::Index>(),
        damage in proptest::collection::vec(any::<u8>(), 1..64),
    ) {
        let mut all = images();
        all.insert("pages-2.img".into(), pages);
        let made = made(Format::Godwit, &all, layer.as_deref());
        let unpacked = made.unpack().unwrap();
        all.remove("dump.log");
        prop_assert_eq!(files(&unpacked.images), all);
        prop_assert_eq!(unpacked.layer.map(|path| fs::read(path).unwrap()), layer);
        let good = made.bytes();
        let mut bad = good.clone();
        let at = at.index(bad.len());
        for (offset, byte) in damage.iter().enumerate() {
            if let Some(old) = bad.get_mut(at + offset) {
                *old = *byte;
            }
        }
        if bad != good {
            made.never_passes(&bad, "damage");
        }
        made.never_passes(&good[..at], "truncation");
    }
}
