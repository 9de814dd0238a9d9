//! Checkpoints as files: what was dumped of a container, packed so that it can be kept, looked at and restored.
//!
//! ```text
//!   write ──► Godwit's own file  ─┐                         ┌─► unpack   everything checked, into a directory
//!   write ──► OCI image archive  ─┼─► scan, entry by entry ─┤
//!   kubelet, Podman ──► archive  ─┘                         └─► inspect  what is in it; needs no rights but to read
//! ```
//!
//! # Godwit's own format
//!
//! A tar in one zstd frame, so that `tar --zstd -tvf FILE` shows it, and a zstd skippable frame behind it:
//!
//! | entry | what |
//! |---|---|
//! | `godwit.json` | the [`Manifest`]; always the first |
//! | `config.json` | the container's OCI configuration |
//! | `images/…` | CRIU's images and, as `tmpfs-*.tar`, the files of the container's tmpfs mounts; as `volume-*.tar` its volumes |
//! | `rootfs-diff.tar` | the writable layer, where there is something in it |
//! | `SHA256SUMS` | the digest of each entry before it, as `sha256sum -c` takes it; always the last |
//! | *(skippable frame)* | 32 bytes: the SHA-256 of all bytes of the file before this frame |
//!
//! That is version 1. Of a workload of several containers (version 2) `images/` has only the volumes, and `config.json`, `images/…` and
//! `rootfs-diff.tar` of each container are below `containers/NAME/`.
//!
//! # What it guarantees
//!
//! - A file is there whole or not at all: it is written beside its place, flushed and renamed.
//! - One that is truncated, damaged in any bit, or of another version is an error that names what is wrong and where;
//!   [`unpack`] then leaves nothing behind. (An archive of the kubelet has no digests: there only its structure and that
//!   it ends where it says can be checked. An OCI image's blobs are checked against their digests.)
//! - Nothing of an archive decides where something is written: entries are plain files with plain names, or refused.
//!
//! No processes are touched here: `godwit-criu` dumps and restores.

mod compression;
mod criu_images;
mod error;
mod inspect;
mod manifest;
mod oci;
mod pack;
mod scan;
mod trailer;
mod unpack;
mod write;

pub use criu_images::{Process, Socket, State, read_state};
pub use error::{CheckpointError, Result};
pub use inspect::{Inspected, Size, inspect};
pub use manifest::{FORMAT, FORMAT_OF_ONE, Host, Manifest, OfContainer, utc};
pub use scan::Format;
pub use trailer::sha256;
pub use unpack::{Unpacked, UnpackedContainer, unpack};
pub use write::{Parts, PartsOf, Written, write};

/// Told how far it is: bytes done, and bytes in all. False: stop, with [`CheckpointError::Cancelled`].
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;
