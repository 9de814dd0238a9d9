//! What CRIU's images say about the processes in them: enough to look at, without CRIU.
//!
//! An image is two magic numbers and then messages of protocol buffers, each after its length (CRIU's `images/*.proto`;
//! <https://criu.org/Images>). Written by hand, like `godwit-criu`'s messages: fields that are not shown are left out.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::error::{CheckpointError, Result};

const PAGE: u64 = 4096;
/// The page is in the images (`PE_PRESENT`).
const PRESENT: u32 = 4;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const INET_SOCKET: i32 = 4;
const UNIX_SOCKET: i32 = 5;

/// A process of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid in the container.
    pub pid: u32,
    /// Its parent's; 0 of the first.
    pub parent: u32,
    /// How many threads it has.
    pub threads: u32,
    /// Its name.
    pub name: String,
    /// Its memory in the checkpoint, in bytes.
    pub memory_bytes: u64,
}

/// A socket of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// `tcp`, `udp`, `unix` …
    pub kind: String,
    /// `listening`, `established` …
    pub state: String,
    /// Address and port, or the name of a unix socket.
    pub local: String,
    /// The other end, of a connection.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote: String,
}

/// What is in CRIU's images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Processes, parents first.
    pub processes: Vec<Process>,
    /// Sockets.
    pub sockets: Vec<Socket>,
}

impl State {
    /// Memory of all processes, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.processes.iter().map(|p| p.memory_bytes).sum()
    }
}

/// Whether an image is small and says something that [`State`] shows.
pub(crate) fn is_shown(name: &str) -> bool {
    let numbered =
        |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    ["pstree.img", "files.img", "inventory.img"].contains(&name) || numbered("core-") || numbered("pagemap-")
}

/// Reads the images in a directory.
pub fn read_state(dir: &Path) -> Result<State> {
    let mut images = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(CheckpointError::file("list", dir))? {
        let entry = entry.map_err(CheckpointError::file("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_shown(&name) {
            let content = fs::read(entry.path()).map_err(CheckpointError::file("read", &entry.path()))?;
            images.insert(name, content);
        }
    }
    of_images(&images).map_err(|(name, why)| CheckpointError::damaged(dir, name, why))
}

/// The same of images in memory, by name. The error is the image and what is wrong with it.
pub(crate) fn of_images(images: &BTreeMap<String, Vec<u8>>) -> std::result::Result<State, (String, String)> {
    fn messages<M: Message + Default>(
        images: &BTreeMap<String, Vec<u8>>,
        name: &str,
    ) -> std::result::Result<Vec<M>, (String, String)> {
        let image = images.get(name).ok_or_else(|| (name.to_owned(), "it is not there".to_owned()))?;
        parse(image).map_err(|why| (name.to_owned(), why))
    }
    let mut state = State::default();
    for entry in messages::<PstreeEntry>(images, "pstree.img")? {
        // One that has ended and is not waited for has neither memory nor, in older images, a name of its own.
        let core = messages::<CoreEntry>(images, &format!("core-{}.img", entry.pid))?;
        let name = core.into_iter().next().and_then(|core| core.task).map(|task| task.name).unwrap_or_default();
        let pagemap = format!("pagemap-{}.img", entry.pid);
        let memory_bytes = match images.get(&pagemap) {
            // The first is the head of the list.
            Some(_) => messages::<PagemapEntry>(images, &pagemap)?.iter().skip(1).map(PagemapEntry::bytes).sum(),
            None => 0,
        };
        let threads = u32::try_from(entry.threads.len()).unwrap_or(u32::MAX);
        state.processes.push(Process { pid: entry.pid, parent: entry.parent, threads, name, memory_bytes });
    }
    if images.contains_key("files.img") {
        state.sockets = messages::<FileEntry>(images, "files.img")?.iter().filter_map(FileEntry::socket).collect();
        state.sockets.sort_by(|a, b| (&a.kind, &a.state, &a.local).cmp(&(&b.kind, &b.state, &b.local)));
    }
    Ok(state)
}

fn parse<M: Message + Default>(image: &[u8]) -> std::result::Result<Vec<M>, String> {
    let number = |bytes: &[u8]| bytes.first_chunk().map(|four| u32::from_le_bytes(*four));
    let mut rest = image.get(8..).ok_or("it is too short for an image of CRIU's")?;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let length = number(rest).ok_or("it ends within a length")? as usize;
        let message = rest.get(4..4 + length).ok_or("it ends within a message")?;
        messages.push(M::decode(message).map_err(|e| format!("a message cannot be read: {e}"))?);
        rest = &rest[4 + length..];
    }
    Ok(messages)
}

#[derive(Clone, PartialEq, Message)]
struct PstreeEntry {
    #[prost(uint32, tag = "1")]
    pid: u32,
    #[prost(uint32, tag = "2")]
    parent: u32,
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    threads: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct CoreEntry {
    #[prost(message, optional, tag = "3")]
    task: Option<TaskEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct TaskEntry {
    #[prost(string, tag = "6")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct PagemapEntry {
    #[prost(uint64, tag = "1")]
    address: u64,
    #[prost(uint32, tag = "2")]
    pages: u32,
    #[prost(uint32, optional, tag = "4")]
    flags: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    many_pages: Option<u64>,
}

impl PagemapEntry {
    fn bytes(&self) -> u64 {
        let pages = self.many_pages.unwrap_or(self.pages.into());
        if self.flags.is_none_or(|flags| flags & PRESENT != 0) { pages * PAGE } else { 0 }
    }
}

#[derive(Clone, PartialEq, Message)]
struct FileEntry {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "4")]
    inet: Option<InetEntry>,
    #[prost(message, optional, tag = "16")]
    unix: Option<UnixEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct InetEntry {
    #[prost(uint32, tag = "3")]
    family: u32,
    #[prost(uint32, tag = "5")]
    protocol: u32,
    #[prost(uint32, tag = "6")]
    state: u32,
    #[prost(uint32, tag = "7")]
    local_port: u32,
    #[prost(uint32, tag = "8")]
    remote_port: u32,
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    local: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    remote: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct UnixEntry {
    #[prost(uint32, tag = "4")]
    state: u32,
    #[prost(bytes = "vec", tag = "11")]
    name: Vec<u8>,
}

impl FileEntry {
    fn socket(&self) -> Option<Socket> {
        match (self.kind, &self.inet, &self.unix) {
            (INET_SOCKET, Some(inet), _) => Some(inet.socket()),
            (UNIX_SOCKET, _, Some(unix)) => Some(unix.socket()),
            _ => None,
        }
    }
}

impl InetEntry {
    fn socket(&self) -> Socket {
        let kind = match self.protocol {
            1 | 58 => "icmp".to_owned(),
            6 => "tcp".into(),
            17 => "udp".into(),
            136 => "udp-lite".into(),
            255 => "raw".into(),
            other => format!("ip protocol {other}"),
        };
        let remote =
            if self.remote_port == 0 { String::new() } else { end(self.family, &self.remote, self.remote_port) };
        Socket { kind, state: state(self.state), local: end(self.family, &self.local, self.local_port), remote }
    }
}

impl UnixEntry {
    fn socket(&self) -> Socket {
        // An abstract name begins with a zero, which is written as `@`.
        let name = String::from_utf8_lossy(&self.name).trim_end_matches('\0').replace('\0', "@");
        Socket { kind: "unix".into(), state: state(self.state), local: name, remote: String::new() }
    }
}

/// Address and port; CRIU keeps addresses as the kernel has them in memory, in words.
fn end(family: u32, words: &[u32], port: u32) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let address = match (family, bytes.first_chunk::<4>(), bytes.first_chunk::<16>()) {
        (AF_INET, Some(four), _) => IpAddr::from(Ipv4Addr::from(*four)),
        (AF_INET6, _, Some(sixteen)) => IpAddr::from(Ipv6Addr::from(*sixteen)),
        _ => return format!("?:{port}"),
    };
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// The kernel's states of TCP, which it uses for other sockets too.
fn state(number: u32) -> String {
    match number {
        1 => "established",
        2 | 3 => "connecting",
        4..=6 | 8 | 9 | 11 => "closing",
        7 => "open",
        10 => "listening",
        _ => "unknown",
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image<M: Message>(messages: &[M]) -> Vec<u8> {
        let mut image = vec![0; 8];
        for message in messages {
            image.extend(u32::try_from(message.encoded_len()).unwrap().to_le_bytes());
            image.extend(message.encode_to_vec());
        }
        image
    }

    #[test]
    fn a_tree_of_processes_and_their_sockets_are_read() {
        let pstree = [
            PstreeEntry { pid: 1, parent: 0, threads: vec![1, 7] },
            PstreeEntry { pid: 9, parent: 1, threads: vec![9] },
        ];
        let core = |name: &str| image(&[CoreEntry { task: Some(TaskEntry { name: name.into() }) }]);
        let pages = |pages, flags| PagemapEntry { address: 0, pages, flags, many_pages: None };
        let inet = |state, port, remote_port| FileEntry {
            kind: INET_SOCKET,
            inet: Some(InetEntry {
                family: AF_INET,
                protocol: 6,
                state,
                local_port: port,
                remote_port,
                local: vec![u32::from_le_bytes([10, 1, 3, 1])],
                remote: vec![u32::from_le_bytes([10, 1, 2, 1])],
            }),
            unix: None,
        };
        let images = BTreeMap::from([
            ("pstree.img".to_owned(), image(&pstree)),
            ("core-1.img".to_owned(), core("godwit")),
            ("core-9.img".to_owned(), core("child")),
            ("pagemap-1.img".to_owned(), image(&[pages(0, None), pages(3, Some(4)), pages(5, Some(2))])),
            ("files.img".to_owned(), image(&[inet(10, 5555, 0), inet(1, 5555, 41_000)])),
        ]);
        let state = of_images(&images).unwrap();
        assert_eq!(state.processes[0].memory_bytes, 3 * PAGE);
        let shown: Vec<_> = state.processes.iter().map(|p| (p.pid, p.parent, p.threads, p.name.as_str())).collect();
        assert_eq!(shown, [(1, 0, 2, "godwit"), (9, 1, 1, "child")]);
        let sockets: Vec<_> =
            state.sockets.iter().map(|s| (s.state.as_str(), s.local.as_str(), s.remote.as_str())).collect();
        assert_eq!(sockets, [("established", "10.1.3.1:5555", "10.1.2.1:41000"), ("listening", "10.1.3.1:5555", "")]);
    }

    #[test]
    fn an_image_that_ends_too_early_is_named() {
        let mut pstree = image(&[PstreeEntry { pid: 1, parent: 0, threads: vec![1] }]);
        pstree.pop();
        let (name, why) = of_images(&BTreeMap::from([("pstree.img".to_owned(), pstree)])).unwrap_err();
        assert_eq!((name.as_str(), why.as_str()), ("pstree.img", "it ends within a message"));
        assert_eq!(of_images(&BTreeMap::new()).unwrap_err().0, "pstree.img");
    }
}
