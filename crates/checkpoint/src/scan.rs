//! Going through a checkpoint of any format, entry by entry, checking what can be checked.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::compression::{Compression, decompress};
use crate::error::{CheckpointError, Result};
use crate::oci;
use crate::pack::{CONTAINERS, LAYER, MANIFEST, SUMS};
use crate::trailer::{self, Digesting};

/// The longest text that is read into memory.
const LONGEST_TEXT: u64 = 16 << 20;

/// How a checkpoint is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Godwit's own.
    #[default]
    Godwit,
    /// An OCI image archive with one layer, as CRI-O, Podman and containerd take it.
    Oci,
    /// A tar as the kubelet's checkpoint API (by CRI-O or containerd) or `podman container checkpoint --export` makes it.
    Kubelet,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Godwit => "Godwit checkpoint",
            Self::Oci => "OCI checkpoint image",
            Self::Kubelet => "checkpoint archive of a container engine",
        })
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// Godwit's manifest.
    Manifest,
    /// The OCI configuration.
    Spec,
    /// What the engine says about the container.
    Config,
    /// One of CRIU's images, by its plain name.
    Image(String),
    /// The writable layer.
    Layer,
    /// What was deleted of the image's files.
    Deleted,
    /// What belongs to one of several containers, by its name: configuration, image or layer.
    Of(String, Box<Part>),
    /// Of no use for a restore.
    Other,
}

impl Part {
    fn of(name: &str) -> std::result::Result<Self, String> {
        if let Some((container, rest)) = name.strip_prefix(CONTAINERS).and_then(|rest| rest.split_once('/')) {
            if container.is_empty() || container == "." || container == ".." {
                return Err("a container's name is no plain name".into());
            }
            return match Self::of(rest)? {
                part @ (Self::Spec | Self::Image(_) | Self::Layer) => Ok(Self::Of(container.into(), Box::new(part))),
                _ => Err("it is nothing that a container has".into()),
            };
        }
        if let Some(image) = name.strip_prefix("images/").or_else(|| name.strip_prefix("checkpoint/")) {
            let plain = !image.is_empty() && !image.contains('/') && image != ".." && image != ".";
            return if plain { Ok(Self::Image(image.into())) } else { Err("an image's name is no plain name".into()) };
        }
        Ok(match name {
            MANIFEST => Self::Manifest,
            "config.json" | "spec.dump" => Self::Spec,
            "config.dump" => Self::Config,
            LAYER => Self::Layer,
            "deleted.files" => Self::Deleted,
            _ => Self::Other,
        })
    }
}

/// Is shown every entry with its length and content.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(&Part, u64, &mut dyn Read) -> io::Result<()>;

/// Goes through the file; an entry that is shown may still turn out to be damaged, so nothing counts before this returns.
pub(crate) fn scan(path: &Path, visit: Visit<'_>) -> Result<Format> {
    let failed = CheckpointError::file("open", path);
    let mut file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(CheckpointError::file("look at", path))?;
    let not_one = |why: &str| CheckpointError::NoCheckpoint { path: path.to_owned(), why: why.into() };
    if !meta.is_file() {
        return Err(not_one("it is no file"));
    }
    let mut first = [0; 512];
    let read = read_up_to(&mut file, &mut first).map_err(CheckpointError::file("read", path))?;
    file.rewind().map_err(CheckpointError::file("read", path))?;
    match Compression::of(&first[..read]) {
        _ if read == 0 => Err(not_one("it is empty")),
        Compression::Zstd => zstandard(path, file, meta.len(), visit),
        Compression::Gzip => {
            let tar = decompress(file).map_err(|e| CheckpointError::decoding(path, "its beginning", e))?;
            Entries::new(path, visit).all(tar).map(|_| Format::Kubelet)
        }
        Compression::None if read < first.len() || first[257..262] != *b"ustar" => {
            Err(not_one("it is neither zstd, gzip nor tar"))
        }
        Compression::None => match oci::find_layer(path, &mut file)? {
            Some(layer) => {
                let blob = oci::Blob::open(path, file, &layer)?;
                let (blob, digest) = shared(blob);
                let tar = decompress(blob).map_err(|e| CheckpointError::decoding(path, &layer.name, e))?;
                Entries::new(path, visit).all(tar)?;
                digest.borrow_mut().check(path, &layer)?;
                Ok(Format::Oci)
            }
            None => {
                file.rewind().map_err(CheckpointError::file("read", path))?;
                Entries::new(path, visit).all(BufReader::new(file)).map(|_| Format::Kubelet)
            }
        },
    }
}

/// Godwit's own, or an engine's that is compressed.
fn zstandard(path: &Path, mut file: File, length: u64, visit: Visit<'_>) -> Result<Format> {
    let failed = || CheckpointError::file("read", path);
    let mut frame = [0; trailer::LENGTH as usize];
    let mut sum = None;
    if let Some(at) = length.checked_sub(trailer::LENGTH) {
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut frame)).map_err(failed())?;
        file.rewind().map_err(failed())?;
        sum = trailer::digest(&frame);
    }
    let body = if sum.is_some() { length - trailer::LENGTH } else { length };
    let (content, digesting) = shared(Digesting::new(file.take(body)));
    let damaged = |place: &str, e| CheckpointError::decoding(path, place, e);
    let decoder = zstd::Decoder::new(content).map_err(|e| damaged("its beginning", e))?;
    let is_ours = Entries::new(path, visit).all(decoder)?;
    let Some(sum) = sum else {
        return if is_ours {
            Err(CheckpointError::damaged(
                path,
                "its end",
                "the digest of the file is missing: it was cut off or altered",
            ))
        } else {
            Ok(Format::Kubelet)
        };
    };
    let mut digesting = digesting.borrow_mut();
    io::copy(&mut *digesting, &mut io::sink()).map_err(failed())?;
    if digesting.digest() != sum {
        let why = "the SHA-256 of the file is not the one that is written at its end";
        return Err(CheckpointError::damaged(path, "the file as a whole", why));
    }
    Ok(if is_ours { Format::Godwit } else { Format::Kubelet })
}

/// Two handles of one reader: one for the decoder, which keeps it, one to look at it afterwards.
fn shared<R: Read>(reader: R) -> (Shared<R>, Rc<RefCell<R>>) {
    let reader = Rc::new(RefCell::new(reader));
    (Shared(Rc::clone(&reader)), reader)
}

struct Shared<R>(Rc<RefCell<R>>);

impl<R: Read> Read for Shared<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }
}

/// The entries of the tar that a checkpoint is.
struct Entries<'v> {
    path: PathBuf,
    visit: Visit<'v>,
    digests: Vec<(String, String)>,
    sums: Option<String>,
    parts: Vec<Part>,
}

impl<'v> Entries<'v> {
    fn new(path: &Path, visit: Visit<'v>) -> Self {
        Self { path: path.to_owned(), visit, digests: Vec::new(), sums: None, parts: Vec::new() }
    }

    /// Reads to the end of `tar`; whether Godwit's manifest was in it.
    fn all(mut self, tar: impl Read) -> Result<bool> {
        let path = self.path.clone();
        let mut tar = tar::Archive::new(Ending { inner: tar, zeros: 0 });
        let decoding = |place: &str| {
            let (path, place) = (path.clone(), place.to_owned());
            move |e| CheckpointError::decoding(&path, &place, e)
        };
        let mut last = "its beginning".to_owned();
        for entry in tar.entries().map_err(decoding(&last))? {
            let mut entry = entry.map_err(decoding(&format!("behind {last}")))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            last = format!("entry {name}");
            if entry.header().entry_type().is_dir() {
                continue;
            }
            let length = entry.size();
            let is_file = entry.header().entry_type().is_file();
            self.entry(&name, length, is_file, &mut entry)?;
        }
        let mut rest = tar.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(decoding("its end"))?;
        if rest.zeros < 1024 {
            let why = "the end of the archive is missing: the file is truncated";
            return Err(CheckpointError::damaged(&path, format!("behind {last}"), why));
        }
        self.finish()
    }

    fn entry(&mut self, name: &str, length: u64, is_file: bool, content: &mut dyn Read) -> Result<()> {
        let place = format!("entry {name}");
        let damaged = |why: &str| CheckpointError::damaged(&self.path, place.clone(), why);
        if self.sums.is_some() {
            return Err(damaged(&format!("nothing may follow {SUMS}")));
        }
        let part = Part::of(name).map_err(|why| damaged(&why))?;
        if !is_file && part != Part::Other {
            return Err(damaged("it is no plain file"));
        }
        let is_known = match &part {
            Part::Other => self.digests.iter().any(|(known, _)| known == name),
            part => self.parts.contains(part),
        };
        if is_known {
            return Err(damaged("it is there twice"));
        }
        let mut content = Digesting::new(content);
        let read = if name == SUMS {
            let mut sums = String::new();
            let read = Read::take(&mut content, LONGEST_TEXT).read_to_string(&mut sums).map(drop);
            self.sums = Some(sums);
            read
        } else {
            (self.visit)(&part, length, &mut content)
        };
        let read = read.and_then(|()| io::copy(&mut content, &mut io::sink()));
        read.map_err(|e| match e.downcast::<Refused>() {
            // The visitor's own complaint.
            Ok(refused) => refused.0,
            Err(e) => CheckpointError::decoding(&self.path, &place, e),
        })?;
        if content.bytes != length {
            return Err(damaged("it ends too early: the file is truncated"));
        }
        if name != SUMS {
            self.digests.push((name.into(), content.hex()));
        }
        self.parts.push(part);
        Ok(())
    }

    fn finish(self) -> Result<bool> {
        let damaged = |place: &str, why: &str| CheckpointError::damaged(&self.path, place, why);
        let is_ours = self.parts.contains(&Part::Manifest);
        if is_ours {
            let Some(sums) = &self.sums else { return Err(damaged(SUMS, "it is not there")) };
            let listed: Vec<(&str, &str)> = sums.lines().filter_map(|line| line.split_once("  ")).collect();
            for (name, digest) in &self.digests {
                match listed.iter().find(|(_, listed)| listed == name) {
                    Some((listed, _)) if listed == digest => {}
                    Some(_) => {
                        let why = format!("its SHA-256 is not the one that {SUMS} has");
                        return Err(damaged(&format!("entry {name}"), &why));
                    }
                    None => return Err(damaged(&format!("entry {name}"), &format!("{SUMS} does not know it"))),
                }
            }
            if let Some((_, missing)) = listed.iter().find(|(_, name)| !self.digests.iter().any(|(n, _)| n == name)) {
                return Err(damaged(&format!("entry {missing}"), "it is not there"));
            }
        }
        let no_checkpoint = |what: &str| CheckpointError::NoCheckpoint {
            path: self.path.clone(),
            why: format!("there is no {what} in it"),
        };
        let mut names: Vec<&String> = Vec::new();
        names.extend(self.parts.iter().filter_map(|part| if let Part::Of(name, _) = part { Some(name) } else { None }));
        names.sort();
        names.dedup();
        // The one container, or each of several.
        let mut owners: Vec<Option<&String>> = names.into_iter().map(Some).collect();
        if owners.is_empty() {
            owners.push(None);
        }
        for owner in owners {
            let has = |part: Part| match owner {
                None => self.parts.contains(&part),
                Some(name) => self.parts.contains(&Part::Of(name.clone(), Box::new(part))),
            };
            let of = owner.map(|name| format!(" of container {name}")).unwrap_or_default();
            if !has(Part::Spec) {
                return Err(no_checkpoint(&format!("OCI configuration (spec.dump or config.json){of}")));
            }
            for needed in ["inventory.img", "pstree.img"] {
                if !has(Part::Image(needed.into())) {
                    return Err(no_checkpoint(&format!("CRIU image {needed}{of}")));
                }
            }
        }
        Ok(is_ours)
    }
}

/// A complaint of a visitor, on its way through an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) CheckpointError);

/// Stops a scan with an error of its own.
pub(crate) fn refuse(error: CheckpointError) -> io::Error {
    io::Error::other(Refused(error))
}

/// A text of an entry, not longer than it may be.
pub(crate) fn text(length: u64, content: &mut dyn Read) -> io::Result<Vec<u8>> {
    if length > LONGEST_TEXT {
        return Err(io::Error::other(format!("it has {length} bytes, more than the {LONGEST_TEXT} that it may have")));
    }
    let mut text = Vec::new();
    content.read_to_end(&mut text)?;
    Ok(text)
}

/// Knows how many zero bytes were the last that it read: a tar ends with two blocks of them.
struct Ending<R> {
    inner: R,
    zeros: u64,
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match buffer[..n].iter().rposition(|byte| *byte != 0) {
            Some(at) => self.zeros = (n - 1 - at) as u64,
            None => self.zeros += n as u64,
        }
        Ok(n)
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read(&mut buffer[read..])? {
            0 => break,
            n => read += n,
        }
    }
    Ok(read)
}
