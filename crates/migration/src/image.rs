//! A directory of images from node to node over one stream.
//!
//! ```text
//! sender                                    receiver
//!   magic "GWIMG" version:u8
//!   per file: 1:u8 len:u16 name len:u64 bytes crc32(name, bytes):u32
//!   end:      0:u8 files:u32 total:u64          ──► everything checked ──► answer: 1:u8
//! ```
//! Numbers are little-endian. The receiver makes plain files with plain names in an empty directory and answers only
//! when every length and checksum agreed; a stream that ends early, a wrong checksum or another version is an error, and
//! the sender without its answer has not sent. Directories and other kinds of files are refused.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use godwit_model::Bytes;

const MAGIC: &[u8; 5] = b"GWIMG";
const VERSION: u8 = 1;
const CHUNK: usize = 1 << 20;

/// Why a directory did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The stream or a file failed.
    #[error("image transfer: {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The peer speaks something else.
    #[error("image transfer: the peer speaks version {theirs}, this side speaks {VERSION}")]
    Version {
        /// What it said.
        theirs: u8,
    },
    /// What came is not what was sent.
    #[error("image transfer: {0}")]
    Corrupt(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ImageError {
    let what = what.into();
    move |source| ImageError::Io { what, source }
}

/// Sends those plain files of `dir` whose name is `wanted`; returns their bytes when the receiver has confirmed them.
pub fn send_dir(
    dir: &Path,
    stream: &mut (impl Read + Write),
    wanted: impl Fn(&str) -> bool,
) -> Result<Bytes, ImageError> {
    let mut names = Vec::new();
    for item in fs::read_dir(dir).map_err(io_error(format!("list {}", dir.display())))? {
        let item = item.map_err(io_error(format!("list {}", dir.display())))?;
        let kind = item.file_type().map_err(io_error("look at a file"))?;
        let name = item
            .file_name()
            .into_string()
            .map_err(|name| ImageError::Corrupt(format!("the file name {name:?} is not UTF-8")))?;
        if !wanted(&name) {
            continue;
        }
        if !kind.is_file() {
            return Err(ImageError::Corrupt(format!("{name} is no plain file")));
        }
        names.push(name);
    }
    names.sort();

    let lost = || io_error("the connection broke while sending");
    let mut header = MAGIC.to_vec();
    header.push(VERSION);
    stream.write_all(&header).map_err(lost())?;
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    for name in &names {
        total += send_file(&dir.join(name), name, stream, &mut buffer)?;
    }
    let mut end = vec![0];
    end.extend((names.len() as u32).to_le_bytes());
    end.extend(total.to_le_bytes());
    stream.write_all(&end).and_then(|()| stream.flush()).map_err(lost())?;
    let mut answer = [0];
    stream.read_exact(&mut answer).map_err(io_error("the receiver did not confirm"))?;
    if answer[0] != 1 {
        return Err(ImageError::Corrupt("the receiver refused".into()));
    }
    Ok(Bytes(total))
}

fn send_file(path: &Path, name: &str, stream: &mut impl Write, buffer: &mut [u8]) -> Result<u64, ImageError> {
    let lost = || io_error("the connection broke while sending");
    let mut file = File::open(path).map_err(io_error(format!("open {name}")))?;
    let length = file.metadata().map_err(io_error(format!("look at {name}")))?.len();
    let mut head = vec![1];
    head.extend(
        u16::try_from(name.len()).map_err(|_| ImageError::Corrupt("a file name is too long".into()))?.to_le_bytes(),
    );
    head.extend(name.as_bytes());
    head.extend(length.to_le_bytes());
    stream.write_all(&head).map_err(lost())?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(name.as_bytes());
    let mut left = length;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = file.read(&mut buffer[..want]).map_err(io_error(format!("read {name}")))?;
        if got == 0 {
            return Err(ImageError::Corrupt(format!("{name} became shorter while it was sent")));
        }
        crc.update(&buffer[..got]);
        stream.write_all(&buffer[..got]).map_err(lost())?;
        left -= got as u64;
    }
    stream.write_all(&crc.finalize().to_le_bytes()).map_err(lost())?;
    Ok(length)
}

/// Receives what [`send_dir`] sends into `dir`, which must exist; returns the bytes of the files.
pub fn receive_dir(dir: &Path, stream: &mut (impl Read + Write)) -> Result<Bytes, ImageError> {
    let mut header = [0; 6];
    read(stream, &mut header)?;
    if &header[..5] != MAGIC {
        return Err(ImageError::Corrupt("this is no image stream".into()));
    }
    if header[5] != VERSION {
        return Err(ImageError::Version { theirs: header[5] });
    }
    let mut buffer = vec![0; CHUNK];
    let (mut files, mut total) = (0u32, 0u64);
    loop {
        let mut tag = [0];
        read(stream, &mut tag)?;
        match tag[0] {
            1 => {
                total += receive_file(dir, stream, &mut buffer)?;
                files += 1;
            }
            0 => break,
            other => return Err(ImageError::Corrupt(format!("unknown record {other}"))),
        }
    }
    let mut end = [0; 12];
    read(stream, &mut end)?;
    let said = (u32::from_le_bytes(end[..4].try_into().unwrap()), u64::from_le_bytes(end[4..].try_into().unwrap()));
    if said != (files, total) {
        return Err(ImageError::Corrupt(format!(
            "{files} files of {total} bytes came, {} of {} were sent",
            said.0, said.1
        )));
    }
    stream.write_all(&[1]).and_then(|()| stream.flush()).map_err(io_error("the sender is gone"))?;
    Ok(Bytes(total))
}

fn receive_file(dir: &Path, stream: &mut impl Read, buffer: &mut [u8]) -> Result<u64, ImageError> {
    let mut length = [0; 2];
    read(stream, &mut length)?;
    let mut name = vec![0; usize::from(u16::from_le_bytes(length))];
    read(stream, &mut name)?;
    let name = String::from_utf8(name).map_err(|_| ImageError::Corrupt("a file name is not UTF-8".into()))?;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(ImageError::Corrupt(format!("{name:?} is no plain file name")));
    }
    let mut length = [0; 8];
    read(stream, &mut length)?;
    let length = u64::from_le_bytes(length);
    let mut file = File::create_new(dir.join(&name)).map_err(io_error(format!("create {name}")))?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(name.as_bytes());
    let mut left = length;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        read(stream, &mut buffer[..want])?;
        crc.update(&buffer[..want]);
        file.write_all(&buffer[..want])
            .map_err(io_error(format!("write {name} (is the target's memory or disk full?)")))?;
        left -= want as u64;
    }
    let mut said = [0; 4];
    read(stream, &mut said)?;
    if u32::from_le_bytes(said) != crc.finalize() {
        return Err(ImageError::Corrupt(format!("{name} arrived damaged")));
    }
    Ok(length)
}

fn read(stream: &mut impl Read, into: &mut [u8]) -> Result<(), ImageError> {
    stream.read_exact(into).map_err(io_error("the stream ended early"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn filled(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    /// What a sender would put on the wire, with the confirmation already there to be read.
    struct Wire {
        sent: Vec<u8>,
    }
    impl Read for Wire {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            into[0] = 1;
            Ok(1)
        }
    }
    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Replay<'a>(&'a [u8]);
    impl Read for Replay<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.read(into)
        }
    }
    impl Write for Replay<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_directory_arrives_whole() {
        let big = vec![7u8; 3 * CHUNK + 5];
        let from = filled(&[("pages-1.img", &big), ("core.img", b"core"), ("empty", b"")]);
        let to = tempfile::tempdir().unwrap();
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let dir = to.path().to_owned();
        let receiver = thread::spawn(move || receive_dir(&dir, &mut b));
        let sent = send_dir(from.path(), &mut a, |_| true).unwrap();
        assert_eq!(receiver.join().unwrap().unwrap(), sent);
        assert_eq!(fs::read(to.path().join("pages-1.img")).unwrap(), big);
        assert_eq!(fs::read(to.path().join("empty")).unwrap(), b"");
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        let mut bytes = b"GWIMG\x01\x01\x09\x00../../etc".to_vec();
        bytes.extend(0u64.to_le_bytes());
        let to = tempfile::tempdir().unwrap();
        let error = receive_dir(to.path(), &mut Replay(&bytes)).unwrap_err().to_string();
        assert!(error.contains("no plain file name"), "{error}");
    }

    #[test]
    fn another_version_is_named() {
        let to = tempfile::tempdir().unwrap();
        let error = receive_dir(to.path(), &mut Replay(b"GWIMG\x02")).unwrap_err();
        assert!(matches!(error, ImageError::Version { theirs: 2 }), "{error}");
    }

    proptest! {
        #[test]
        fn a_truncated_or_damaged_stream_never_passes(at in 0usize..200, flip in 1u8..) {
            let from = filled(&[("a", b"some bytes"), ("b", &[1; 40])]);
            let mut wire = Wire { sent: Vec::new() };
            send_dir(from.path(), &mut wire, |_| true).unwrap();
            let at = at % wire.sent.len();
            let to = tempfile::tempdir().unwrap();
            prop_assert!(receive_dir(to.path(), &mut Replay(&wire.sent[..at])).is_err());
            wire.sent[at] ^= flip;
            let to = tempfile::tempdir().unwrap();
            prop_assert!(receive_dir(to.path(), &mut Replay(&wire.sent)).is_err());
        }
    }
}
